"""What a training takes of the machine, found by the run: its mesh, rematerialisation, and how many tokens go through it at once.

On TPUs it is what is soonest done of what fits by the planner's estimate (planning/choices.py), elsewhere all devices share the weights
and nothing is computed again. A field that the config gives is not found. What a training began with holds for its resumes, unless a
flag gives other values then, or there are other devices.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from humpback import config as configs
from humpback import distributed
from humpback.config import Config, Finetune
from humpback.model import sharding
from humpback.model.weights import LlamaConfig
from humpback.planning.choices import SURE, Choice, Choices, Training, limit_of
from humpback.planning.jobs import Place
from humpback.progress import say, warn
from humpback.stages import fitting
from humpback.stages.directory import Run, Stage
from humpback.tokens.examples import TokenExample

MUCH_IDLE = 0.6  # of the places of a training's rows: more is warned of
_GIB = 2**30


def fitted(
    run: Run, stage: Stage, field: str, model: LlamaConfig, examples: Sequence[TokenExample]
) -> tuple[Mesh, Finetune]:
    """What a training runs with, as it was begun or as it is found now; the stage records it. field: the config's part for it.

    UserError for a given mesh that does not fit the devices.
    """
    names = {f"mesh.{axis}" for axis in sharding.MESH_AXES} | {f"{field}.remat", f"{field}.tokens_at_once"}
    held, given = {name: value for name, value in stage.held.items() if name in names}, _given(run, field)
    if held and math.prod((held | given)[f"mesh.{axis}"] for axis in sharding.MESH_AXES) != jax.device_count():
        say(f"{stage.name}: was begun with {_text(held)}, and here are {jax.device_count()} devices")
        held = {}
    values = distributed.by_first(f"mesh of {stage.path}", lambda: find(_with(run.cfg, held | given), stage.name, field, model, examples))
    if held and values != held:
        say(f"{stage.name}: goes on with {_text(values)}, was begun with {_text(held)}")
    stage.find(values)
    cfg = _with(run.cfg, values)
    return run.mesh(cfg.mesh), getattr(cfg, field)


def find(cfg: Config, name: str, field: str, model: LlamaConfig, examples: Sequence[TokenExample]) -> dict[str, Any]:
    """{config field: value} of a training's mesh and of its remat and tokens_at_once; says it in one line, and warns of idle places."""
    training = Training(name, ((field, tuple(examples), 1, name),))
    choices, slice_ = Choices(cfg, model, [training]), fitting.slice_here()
    if slice_ is None:
        sizes = dataclasses.asdict(configs.settled_mesh(cfg.mesh))
        ft: Finetune = getattr(cfg, field)
        choice = Choice(Place("", *sharding.mesh_sizes(jax.device_count(), **sizes)), configs.settled_remat(ft.remat), ft.tokens_at_once)
        why = "what the config says, and the defaults where no TPU is"
    else:
        choice = choices.first(slice_, training, choices.best(slice_))
        needed, limit = choices.needed(training, choice), limit_of(slice_)
        why = f"by the estimate soonest done on {slice_.name}, with {needed / _GIB:.1f} of {limit / _GIB:.1f} GiB a chip"
        if needed > SURE * limit:
            warn(f"{name}: may not fit: {why}")
    if slice_ is not None or choice.place.chips > 1:
        say(f"{name}: {choices.text(training, choice)}: {why}")
    if choice.place.chips > 1:
        idle = choices.course(training, choice.place.groups, choice.at_once).idle
        if idle > MUCH_IDLE:
            warn(f"{name}: {idle:.0%} of the places only fill up; {choice.place.chips} devices are too many for steps of so few tokens")
    return choice.settings(training)


def _given(run: Run, field: str) -> dict[str, Any]:
    """Fields that the config gives, and need not be found; of a mesh all sizes."""
    ft: Finetune = getattr(run.cfg, field)
    given: dict[str, Any] = {}
    if configs.is_given(run.cfg.mesh):
        given |= {f"mesh.{axis}": size for axis, size in run.mesh().shape.items()}
    if ft.remat != configs.FOUND_REMAT:
        given[f"{field}.remat"] = ft.remat
    if ft.tokens_at_once != configs.FOUND:
        given[f"{field}.tokens_at_once"] = ft.tokens_at_once
    return given


def _with(cfg: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values of some fields of its parts."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        part, _, last = name.partition(".")
        parts.setdefault(part, {})[last] = value
    changed: dict[str, Any] = {part: dataclasses.replace(getattr(cfg, part), **fields) for part, fields in parts.items()}
    return dataclasses.replace(cfg, **changed)


def _text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items()))
