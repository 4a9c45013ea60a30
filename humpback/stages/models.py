"""What the stages that use a model share: loading it onto the mesh, an engine for it, prompts that fit."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Mapping

import numpy as np

from humpback import prompts
from humpback.decoding.engine import Engine
from humpback.errors import UserError
from humpback.model import sharding
from humpback.stages.directory import Run
from humpback.tokens import examples
from humpback.training import checkpoint

# Texts that begin so differently that what the ids of a template agree on with all of them belongs to the template.
_FILLINGS = ("a", "The", "1", '"', "- x", "é", "漢")


def open_engine(
    run: Run, name: str, directions: Collection[str], template: Callable[[str], prompts.Prompt]
) -> tuple[checkpoint.Model, Engine]:
    """The model of a stage, whose direction must be one of `directions`, and an engine that decodes with it.

    `template` makes the stage's prompts; what they all begin with is read once. The model comes without its weights: the engine has
    them, in a form of its own.
    """
    decoding, mesh, path = run.cfg.decoding, run.mesh(), run.workdir / name
    info = checkpoint.read_info(path)
    if info.wrapper != run.cfg.wrapper:
        raise UserError(f"{path}: was trained with the wrapper {info.wrapper!r}; the config field wrapper is {run.cfg.wrapper!r}")
    placed = sharding.param_shardings(info.config, mesh, sharding.DECODING_RULES)
    model = checkpoint.load_model(path, shardings=placed, directions=directions, whole=False)  # the engine takes layer by layer
    check_length("decoding.length", decoding.length, info)
    engine = Engine(
        info.config,
        model.params,
        mesh,
        slots=decoding.slots,
        length=decoding.length,
        prefix=shared_prefix(model, template, decoding.length),
        compute_dtype=decoding.compute_dtype,
        weights=decoding.weights,
        steps_per_visit=decoding.steps_per_visit,
        prefill_tokens=decoding.prefill_tokens,
    )
    return dataclasses.replace(model, params={}), engine


def shared_prefix(model: checkpoint.Model, template: Callable[[str], prompts.Prompt], length: int) -> list[int]:
    """The ids that the prompts of a template begin with, whatever is filled in; none when they leave no room in `length`."""
    encoded = [encode_prompt(model, template(filling), length) for filling in _FILLINGS]
    if any(ids is None for ids in encoded):
        return []
    return [int(same[0]) for same in itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*encoded, strict=False))]


def check_length(field: str, length: int, info: checkpoint.ModelInfo) -> None:
    """UserError when a config field asks for more positions than the model was made for."""
    if length > info.config.max_positions:
        raise UserError(f"config field {field}: {length} tokens are more than the model's {info.config.max_positions}")


def encode_prompt(model: checkpoint.Model, prompt: prompts.Prompt, room: int, lead: str = "") -> np.ndarray | None:
    """Ids int32 of a wrapped prompt in at most `room`, its body cut where needed, then of `lead`; None when it cannot fit."""
    lead_ids = model.tokenizer.encode(lead) if lead else []
    wrapper = prompts.WRAPPERS[model.info.wrapper]
    ids = examples.fit_condition(model.tokenizer, prompt, wrapper, room - len(lead_ids))
    return np.array(ids + lead_ids, np.int32) if ids else None


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest of all weights, from `checkpoint.weights_digest`: the name of a model in records and manifests."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
