"""What decoding takes of the machine, found by the run: slots, chips that share a matrix, processes of a replica, prompts read at once.

On TPUs it is the fastest that fits by the planner's estimate of all that is loaded (planning/loaded.py), elsewhere config.ANYWHERE. A
field that the config gives is not found. What a stage began with holds for its resumes, unless a flag gives other values then.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from humpback import distributed
from humpback.config import ANYWHERE, FOUND, Config, Decoding, settled_mesh
from humpback.errors import UserError
from humpback.model.weights import LlamaConfig
from humpback.planning import choices, finetuning, tpu_slices, workload
from humpback.planning.replicas import Replica, Replicas
from humpback.planning.tpu_slices import Slice
from humpback.progress import say, warn
from humpback.stages.directory import Run, Stage
from humpback.stages.identity import MANIFEST

_PART = "decoding."
_GIB = 2**30


def announce(run: Run, model: LlamaConfig | None) -> None:
    """Says what the decoding stages will take and why; UserError when they cannot fit. Nothing for an unknown size, or when they are
    done."""
    stages = ["candidates", *(f"ratings-{iteration + 1}" for iteration in range(run.cfg.iterations))]

    def done() -> bool:
        return all((run.workdir / name / MANIFEST).exists() for name in stages)

    if model is not None and not distributed.by_first("stages that decode", done):
        found, why = find(run.cfg, model, _rubric(run))
        say(f"decoding: {text(found)}: {why}")


def fitted(run: Run, stage: Stage, model: LlamaConfig) -> Decoding:
    """What a stage decodes with: as it was begun, or as it is found now; the stage records it. UserError when it cannot fit."""
    given = {name: value for name in ANYWHERE if (value := getattr(run.cfg.decoding, name)) != FOUND}
    held = {name: stage.held[_PART + name] for name in ANYWHERE if _PART + name in stage.held}
    if held and not held.items() <= (held | given).items():
        say(f"{stage.name}: goes on with {text(held | given)}, was begun with {text(held)}")
    cfg = _with(run.cfg, held | given)
    try:
        found, _ = find(cfg, model, _rubric(run), sure=not held)
    except UserError as error:
        if not held or given.keys() >= held.keys():
            raise
        found, _ = find(run.cfg, model, _rubric(run))
        flags = " ".join(f"--config.{_PART}{name}={value}" for name, value in found.items() if name not in given)
        raise UserError(
            f"{stage.path}: was begun with {text(held)}, which does not fit here ({error}); {flags} takes what does for what is left"
        ) from error
    stage.find({f"{_PART}{name}": value for name, value in found.items()})
    settled: dict[str, Any] = found
    return dataclasses.replace(cfg.decoding, **settled)


def text(values: Mapping[str, Any]) -> str:
    """Values as they are shown."""
    words = {"slots": "{} slots", "tensor": "tensor {}", "processes_per_replica": "{} to a replica"}
    words["prefill_tokens"] = "{} prompt tokens at once"
    shown = {**values}
    if (count := values.get("processes_per_replica")) is not None:
        shown["processes_per_replica"] = "1 process" if count == 1 else f"{count} processes"
    return ", ".join(words[name].format(shown[name]) for name in words if name in shown)


def find(cfg: Config, model: LlamaConfig, rubric: str, sure: bool = True) -> tuple[dict[str, int], str]:
    """A value for every field of ANYWHERE, and the reason. sure: what is given may need more than is estimated to be there.

    UserError for what cannot fit, with the way out.
    """
    given = {name: value for name in ANYWHERE if (value := getattr(cfg.decoding, name)) != FOUND}
    slice_ = slice_here()
    if slice_ is None:
        found = {**ANYWHERE, "tensor": settled_mesh(cfg.mesh).tensor, **given}
        if jax.process_count() % found["processes_per_replica"]:
            shown = f"config field decoding.processes_per_replica: {found['processes_per_replica']}"
            raise UserError(f"{shown} does not divide the {jax.process_count()} processes that there are")
        return found, "what the config says, and the defaults where no TPU is"
    work = workload.workload(cfg)
    requests = {"augment": workload.augment_requests(cfg, work), "rate": workload.rate_requests(cfg, work, rubric)}
    replicas, limit = Replicas(cfg, model, requests), choices.limit_of(slice_)
    if given.keys() == ANYWHERE.keys():
        replica = _as_given(cfg, slice_)
        estimate = replicas.estimate(slice_, replica)
        if (estimate.fixed if sure else estimate.total) > limit:
            raise UserError(_cannot(replicas, slice_, cfg, f"{text(given)} need{_needs(estimate, limit)}"))
        if estimate.total > limit:
            warn(f"decoding: {text(given)} may not fit: by the estimate{_needs(estimate, limit)}")
        return given, f"what was given;{_needs(estimate, limit)}"
    best = replicas.best(slice_, cfg.decoding.weights)
    if best is None:
        asked = f"with {text(given)} " if given else ""
        raise UserError(_cannot(replicas, slice_, cfg, f"nothing {asked}fits on {slice_.name} by the estimate"))
    found = _values(best)
    return found, f"the fastest that fits on {slice_.name};{_needs(replicas.estimate(slice_, best), limit)}"


def slice_here() -> Slice | None:
    """The TPUs of all processes; None where there are none that are known."""
    return tpu_slices.of_devices(jax.devices(), jax.local_device_count())


def _as_given(cfg: Config, slice_: Slice) -> Replica:
    """The replica that the config names. UserError when the devices cannot be shared out so."""
    d = cfg.decoding
    chips = d.processes_per_replica * slice_.chips_a_host
    if slice_.hosts_in_one % d.processes_per_replica or chips % d.tensor:
        raise UserError(
            f"config fields decoding.processes_per_replica = {d.processes_per_replica} and decoding.tensor = {d.tensor}: they must divide "
            f"the {slice_.hosts_in_one} processes, and the {chips} chips of a replica"
        )
    return Replica(d.processes_per_replica, d.tensor, d.slots, d.prefill_tokens, d.weights)


def _cannot(replicas: Replicas, slice_: Slice, cfg: Config, what: str) -> str:
    """What cannot fit, and the ways out that are estimated to fit."""
    free, ways = Replicas(_with(cfg, dict.fromkeys(ANYWHERE, FOUND)), replicas.model, replicas.requests), []
    if best := free.best(slice_, cfg.decoding.weights):
        ways.append(f"without what is given of decoding.*: {text(_values(best))}")
    elif free.best(slice_, "int8"):
        ways.append("--config.decoding.weights=int8 (which changes results a little)")
    if best is None:
        for weights in dict.fromkeys((cfg.decoding.weights, "int8")):
            larger = next((each for each in finetuning.larger_than(slice_) if free.best(each, weights)), None)
            ways += [f"more hosts, {larger.name} with weights {weights!r}"] if larger else []
    return f"decoding cannot fit: {what}; the way out: {', or '.join(ways) or 'a chip with more memory'}"


def _needs(estimate: Any, limit: int) -> str:
    return f" {estimate.total / _GIB:.1f} of {limit / _GIB:.1f} GiB a chip ({estimate.text()})"


def _values(replica: Replica) -> dict[str, int]:
    return {
        "slots": replica.slots, "tensor": replica.tensor, "processes_per_replica": replica.hosts, "prefill_tokens": replica.prefill_tokens
    }  # fmt: skip


def _with(cfg: Config, values: Mapping[str, Any]) -> Config:
    return dataclasses.replace(cfg, decoding=dataclasses.replace(cfg.decoding, **values))


def _rubric(run: Run) -> str:
    """How long the prompts of ratings are follows from it; "" where nothing is found."""
    if slice_here() is None:
        return ""
    return distributed.by_first("rubric", run.place.now.contents.rubric)
