"""What all that serves records with a model shares: loading it onto a replica's mesh, an engine for it, prompts that fit."""

import dataclasses
import itertools
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import numpy as np

from humpback import config as configs
from humpback import distributed, progress, prompts, storage
from humpback.decoding import offline
from humpback.decoding.engine import Engine
from humpback.decoding.executables import BRANCHES, SCORE, shareable
from humpback.errors import UserError
from humpback.locks import Anybody
from humpback.model import sharding
from humpback.model.weights import Params
from humpback.models import folders
from humpback.tokens import examples

CLASSES = "decoding.class_lengths"  # under which, and its output's name, a stage keeps the lengths of its classes' rows
# Texts that begin so differently that what the ids of a template agree on with all of them belongs to the template.
_FILLINGS = ("a", "The", "1", '"', "- x", "é", "漢")


def engine_at(
    path: storage.PathLike,
    decoding: configs.Decoding,
    tensor: int,
    directions: Collection[str],
    template: Callable[[str], prompts.Prompt] | None,
    base: storage.PathLike | None = None,
) -> tuple[folders.Model, Engine]:
    """A model folder, whose direction must be one of `directions`, and this process' replica's engine that decodes with it.

    `template` makes the prompts; what they all begin with is read once. The model comes without its weights: the engine has
    them, in a form of its own. base: of a folder of adapters, as in folders.load_model.
    """
    info, mesh = folders.read_info(path), replica_mesh(configs.settled(decoding).processes_per_replica, tensor)
    info.check_length("decoding.length", decoding.length)
    # The engine takes layer by layer.
    model = folders.load_model(path, shardings=_split(info, mesh), directions=directions, whole=False, base=base)
    return engine_of(model, mesh, decoding, template)


def engine_of(
    model: folders.Model, mesh: jax.sharding.Mesh, decoding: configs.Decoding, template: Callable[[str], prompts.Prompt] | None
) -> tuple[folders.Model, Engine]:
    """`engine_at` for a model that is opened: of its `params` a weight, or a layer's, is asked for when its turn has come."""
    model.info.check_length("decoding.length", decoding.length)
    _split(model.info, mesh)
    prefix = shared_prefix(model, template, decoding.length) if template else ()
    engine = Engine(model.info.config, model.params, mesh, decoding, prefix)
    return dataclasses.replace(model, params={}), engine


def _split(info: folders.ModelInfo, mesh: jax.sharding.Mesh) -> Params:
    """Where the weights lie. UserError for a `tensor` axis that does not divide them."""
    try:
        return sharding.unpadded_shardings(info.config, mesh, sharding.DECODING_RULES)
    except ValueError as error:
        raise UserError(f"decoding.tensor, or --tensor: {mesh.shape['tensor']} does not divide the model ({error})") from error


def replica_mesh(processes: int, tensor: int) -> jax.sharding.Mesh:
    """The mesh of this process' replica: `tensor` devices share a model, its copies share the slots. UserError when they do not fit."""
    devices = distributed.replica_layout(processes).devices
    try:
        return sharding.make_mesh(1, 1 if tensor == -1 else -1, tensor, devices=devices)
    except ValueError as error:
        raise UserError(
            f"config field decoding.tensor or --tensor: {tensor} does not divide the {len(devices)} devices of a replica, "
            f"which is decoding.processes_per_replica = {processes} processes"
        ) from error


def serve(
    engine: Engine, task: offline.Task, inputs: offline.Inputs, output: offline.Output, decoding: configs.Decoding
) -> offline.Done:
    """`offline.run`, everything compiled beforehand, for the prompts that there are."""
    if not task.score or task.branched:  # otherwise several are read for each record
        _expect(engine, task, inputs, output, decoding)
    if task.read or task.score:
        programs = engine.warm_up(read=(BRANCHES if task.branched else SCORE) if task.score else len(task.read))
    else:
        programs = engine.warm_up(task.sampler, max(1, len(task.stop_ids)))
    progress.say(f"{programs} programs ready")
    replica = distributed.replica_layout(configs.settled(decoding).processes_per_replica)
    try:
        return offline.run(engine, task, inputs, output, replica=replica, seconds=decoding.publish_seconds)
    finally:
        engine.unload()


def _expect(
    engine: Engine, task: offline.Task, inputs: offline.Inputs, output: offline.Output, decoding: configs.Decoding
) -> None:  # fmt: skip
    """`offline.expect`, with the classes that the output was begun with, unless there may be fewer now."""
    maker, name = output.maker or Anybody(), f"{CLASSES}.{output.name}"
    held = maker.held.get(name)
    if held and decoding.classes and len(held) > decoding.classes:
        progress.say(f"{output.name}: goes on with {decoding.classes} classes of rows, was begun with {len(held)} (decoding.classes)")
        held = None
    limits = offline.expect(engine, task, inputs, held)
    if task.max_new and engine.most_classes > 1:
        maker.find({name: list(limits)})
    if limits:
        progress.say(f"classes of rows: {', '.join(f'{row.slots} slots of {row.length} tokens' for row in engine.classes)}")


def shared_prefix(model: folders.Model, template: Callable[[str], prompts.Prompt], length: int) -> list[int]:
    """The ids that the prompts of a template begin with, whatever is filled in, as far as `length` allows them to be shared."""
    encoded = [encode_prompt(model, template(filling), length) for filling in _FILLINGS]
    if any(ids is None for ids in encoded):
        return []
    same = [int(ids[0]) for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*encoded, strict=False))]
    return same[: shareable(len(same), length)]


def encode_prompt(model: folders.Model, prompt: prompts.Prompt, room: int, lead: str = "") -> np.ndarray | None:
    """`fit_prompt` for whom it is no matter whether the prompt is cut."""
    fitted = fit_prompt(model, prompt, room, lead)
    return fitted.ids if fitted else None


class PromptIds(NamedTuple):
    """A prompt as the model reads it: ids int32 [T], and whether its body lost its end for them."""

    ids: np.ndarray
    cut: bool


def fit_prompt(model: folders.Model, prompt: prompts.Prompt, room: int, lead: str = "") -> PromptIds | None:
    """A wrapped prompt, then `lead`, in at most `room` ids, its body cut where needed; None when it cannot fit."""
    lead_ids = model.tokenizer.encode(lead) if lead else []
    wrapper = prompts.WRAPPERS[model.info.wrapper]
    condition = examples.fit_condition(model.tokenizer, prompt, wrapper, room - len(lead_ids))
    return PromptIds(np.array(condition.ids + lead_ids, np.int32), condition.cut) if condition else None
