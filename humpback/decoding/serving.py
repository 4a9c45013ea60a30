"""What all that serves records with a model shares: loading it onto a replica's mesh, an engine for it, prompts that fit."""

import dataclasses
import itertools
from collections.abc import Callable, Collection

import jax
import numpy as np

from humpback import config as configs
from humpback import distributed, progress, prompts, storage
from humpback.decoding import offline
from humpback.decoding.engine import Engine
from humpback.decoding.executables import shareable
from humpback.errors import UserError
from humpback.model import sharding
from humpback.models import folders
from humpback.tokens import examples

# Texts that begin so differently that what the ids of a template agree on with all of them belongs to the template.
_FILLINGS = ("a", "The", "1", '"', "- x", "é", "漢")


def engine_at(
    path: storage.PathLike,
    decoding: configs.Decoding,
    tensor: int,
    directions: Collection[str],
    template: Callable[[str], prompts.Prompt] | None,
) -> tuple[folders.Model, Engine]:
    """A model folder, whose direction must be one of `directions`, and this process' replica's engine that decodes with it.

    `template` makes the prompts; what they all begin with is read once. The model comes without its weights: the engine has
    them, in a form of its own.
    """
    info, mesh = folders.read_info(path), replica_mesh(decoding.processes_per_replica, tensor)
    info.check_length("decoding.length", decoding.length)
    placed = sharding.param_shardings(info.config, mesh, sharding.DECODING_RULES)
    model = folders.load_model(path, shardings=placed, directions=directions, whole=False)  # the engine takes layer by layer
    prefix = shared_prefix(model, template, decoding.length) if template else ()
    engine = Engine(info.config, model.params, mesh, decoding, prefix)
    return dataclasses.replace(model, params={}), engine


def replica_mesh(processes: int, tensor: int) -> jax.sharding.Mesh:
    """The mesh of this process' replica: `tensor` devices share a model, its copies share the slots. UserError when they do not fit."""
    devices = distributed.replica_layout(processes).devices
    try:
        return sharding.make_mesh(1, -1, tensor, devices=devices)
    except ValueError as error:
        raise UserError(
            f"config field decoding.tensor (0: mesh.tensor): {tensor} does not divide the {len(devices)} devices of a replica, which is "
            f"decoding.processes_per_replica = {processes} processes"
        ) from error


def serve(
    engine: Engine, task: offline.Task, inputs: offline.Inputs, output: offline.Output, decoding: configs.Decoding
) -> offline.Done:
    """`offline.run`, everything compiled beforehand."""
    if task.read:
        programs = engine.warm_up(read=len(task.read))
    else:
        programs = engine.warm_up(task.sampler, max(1, len(task.stop_ids)))
    progress.say(f"{programs} programs ready")
    replica = distributed.replica_layout(decoding.processes_per_replica)
    return offline.run(engine, task, inputs, output, replica=replica, seconds=decoding.publish_seconds)


def shared_prefix(model: folders.Model, template: Callable[[str], prompts.Prompt], length: int) -> list[int]:
    """The ids that the prompts of a template begin with, whatever is filled in, as far as `length` allows them to be shared."""
    encoded = [encode_prompt(model, template(filling), length) for filling in _FILLINGS]
    if any(ids is None for ids in encoded):
        return []
    same = [int(ids[0]) for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*encoded, strict=False))]
    return same[: shareable(len(same), length)]


def encode_prompt(model: folders.Model, prompt: prompts.Prompt, room: int, lead: str = "") -> np.ndarray | None:
    """Ids int32 of a wrapped prompt in at most `room`, its body cut where needed, then of `lead`; None when it cannot fit."""
    lead_ids = model.tokenizer.encode(lead) if lead else []
    wrapper = prompts.WRAPPERS[model.info.wrapper]
    ids = examples.fit_condition(model.tokenizer, prompt, wrapper, room - len(lead_ids))
    return np.array(ids + lead_ids, np.int32) if ids else None
