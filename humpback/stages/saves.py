"""How often a training saves, found by the run: from the bytes of its state, published rates and the planner's time of a step."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from jax.sharding import AbstractMesh, Mesh

from humpback import distributed
from humpback.config import FOUND, Finetune
from humpback.model import sharding
from humpback.model.weights import LlamaConfig, parameter_count
from humpback.planning import roofline
from humpback.planning.jobs import Place, Step
from humpback.planning.tpu_slices import Slice
from humpback.progress import say
from humpback.stages import fitting
from humpback.stages.directory import Run, Stage
from humpback.tokens.examples import TokenExample
from humpback.training import batches, lora
from humpback.training.keeper import LOST_SECONDS

MOST_SHARE = 0.03  # of the time that saves may take
ELSEWHERE = 100  # steps, where no TPU is and nobody knows how long one takes
_STATE_BYTES = 12  # of a weight that trains: itself and two moments, float32


def fitted(
    run: Run, stage: Stage, field: str, ft: Finetune, model: LlamaConfig, mesh: Mesh, examples: Sequence[TokenExample]
) -> Finetune:
    """A training's values with `checkpoint_every` as it was begun with, or as it is found now; the stage records it."""
    if ft.checkpoint_every != FOUND:
        return ft
    name = f"{field}.checkpoint_every"

    def find() -> int:
        slice_ = fitting.slice_here()
        if slice_ is None:
            return ELSEWHERE
        plan = batches.make_plan(examples, ft, run.cfg.seed, stage.name, sharding.batch_shards(mesh))
        seconds = step_seconds(slice_, mesh, model, ft, plan)
        to_write = save_seconds(slice_, model, ft)
        steps = every(seconds, to_write)
        say(f"{stage.name}: by the estimate a step takes {seconds:.2g} s and a save {to_write:.2g} s; one is made each {steps} steps")
        return steps

    found = stage.held.get(name) or distributed.by_first(f"saves of {stage.path}", find)
    stage.find({name: found})
    return dataclasses.replace(ft, checkpoint_every=found)


def every(step: float, save: float) -> int:
    """Steps between two saves: as many as take LOST_SECONDS, which the end of a process costs at most; but saves take MOST_SHARE of the
    time at most, whatever that costs then. step, save: seconds."""
    return max(1, int(LOST_SECONDS / step), -int(-save / MOST_SHARE // step))


def step_seconds(slice_: Slice, mesh: Mesh | AbstractMesh, model: LlamaConfig, ft: Finetune, plan: batches.Plan) -> float:
    """Of the mean step of a training, by the planner's model (planning/roofline.py)."""
    data, fsdp, tensor = (mesh.shape[axis] for axis in sharding.MESH_AXES)
    place = Place(slice_.topology, data, fsdp, tensor, slice_.count)
    seconds = 0.0
    for shape, count in Counter(plan.shapes).items():
        job = Step.of(place, model, ft, length=shape.length, rows=shape.rows, parts=shape.parts, targets=shape.targets)
        seconds += count * roofline.step_times(job, slice_, roofline.step_traffic(job)).seconds
    return seconds / plan.steps


def save_seconds(slice_: Slice, model: LlamaConfig, ft: Finetune) -> float:
    """Of a save at the published speed of a host's network: every process writes its share of the state."""
    hosts = slice_.hosts_in_one * slice_.count
    adapted = lora.of(ft)
    trained = adapted.count(model) if adapted else parameter_count(model)
    return _STATE_BYTES * trained / hosts / (slice_.chip.network * slice_.chips_a_host)
