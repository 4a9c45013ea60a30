"""What a training may take of a slice, by the model alone: mesh, rematerialisation and rows at once, their memory, time and idle places.

`plan` begins with it and asks the compiler (finetuning.py); a run on TPUs takes it as it is (stages/fitting.py).
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from humpback import config as configs
from humpback.config import Config, Finetune
from humpback.errors import UserError
from humpback.model import sharding
from humpback.model.weights import LlamaConfig, parameter_count
from humpback.planning import roofline, workload
from humpback.planning.jobs import Answer, Place, Step
from humpback.planning.tpu_slices import Slice
from humpback.tokens import packing
from humpback.tokens.examples import TokenExample
from humpback.training import batches, flops, lora
from humpback.training import optimizer as optimizers

REMATS = ("none", "dots", "full")
_TENSORS = (1, 2, 4, 8)
SURE = 0.9  # of the limit: what is estimated below it is taken to fit before it is compiled
_GOOD_ENOUGH = 0.97  # another mesh must save more of the time than this leaves
_FROZEN_BYTES = {"float32": 6, "bfloat16": 2, "int8": 1}  # of a frozen weight; float32 lies there once more as it is sent
_STEPS = 256  # of a training that are packed; they stand for all


@dataclass(frozen=True)
class Training:
    """Trainings of one sort: name and task of the stage, and each (config field, examples, how often it is done, purpose)."""

    name: str
    parts: tuple[tuple[str, tuple[TokenExample, ...], int, str], ...]


def trainings(cfg: Config, work: workload.Workload) -> tuple[Training, Training]:
    """Backward, M_yx; forward, M_0 and M_1 to M_iterations."""

    def part(task: str, iteration: int, times: int, purpose: str) -> tuple[str, tuple[TokenExample, ...], int, str]:
        return workload.field_of(task, iteration), tuple(workload.training_examples(cfg, work, task, iteration)), times, purpose

    forward = (part("forward", 0, 1, "forward-0"), part("forward", 1, cfg.iterations, "forward-1"))
    return Training("backward", (part("backward", 0, 1, "backward"),)), Training("forward", forward)


@dataclass(frozen=True)
class Choice:
    """What may be chosen: the mesh, rematerialisation, and tokens at once in each group of rows (0: all of a step)."""

    place: Place
    remat: str
    at_once: int = 0

    def settings(self, training: Training) -> dict[str, Any]:
        """As config fields."""
        values: dict[str, Any] = {"mesh.data": self.place.data, "mesh.fsdp": self.place.fsdp, "mesh.tensor": self.place.tensor}
        for field, *_ in training.parts:
            values |= {f"{field}.remat": self.remat, f"{field}.tokens_at_once": self.at_once}
        return values


@dataclass(frozen=True)
class Course:
    """A training group with a choice: steps by shape, (field, Shape) -> how many; tokens and examples seen; model FLOPs."""

    steps: Mapping[tuple[str, batches.Shape], float]
    tokens: int
    examples: int
    model_flops: int

    @property
    def idle(self) -> float:
        """The share of all rows that only fills up."""
        return 1 - self.tokens / sum(count * shape.rows * shape.length for (_, shape), count in self.steps.items())


class Choices:
    """What trainings that share a mesh may take."""

    def __init__(self, cfg: Config, model: LlamaConfig, trainings: Sequence[Training]):
        self._cfg, self._model, self.trainings = cfg, model, tuple(trainings)
        self._courses: dict[tuple[str, int, int], Course] = {}

    def best(self, slice_: Slice) -> Place:
        """The mesh with which all of them are done soonest, by the model alone; matrices are split only where that saves something."""
        return min(self.places(slice_), key=lambda place: self._seconds(slice_, place) / (1 if place.tensor == 1 else _GOOD_ENOUGH))

    def places(self, slice_: Slice) -> Iterator[Place]:
        """The meshes that are possible, or the one that the config gives. UserError when that does not fit the slice."""
        m, mesh = self._model, self._cfg.mesh
        if configs.is_given(mesh):
            try:
                data, fsdp, tensor = sharding.mesh_sizes(slice_.chips, **dataclasses.asdict(configs.settled_mesh(mesh)))
            except ValueError as error:
                raise UserError(f"config fields mesh.*: {error}") from error
            yield Place(slice_.topology, data, fsdp, tensor, slice_.count)
            return
        for tensor in _TENSORS:
            if not slice_.chips_in_one % tensor and not any(size % tensor for size in (m.num_heads, m.d_ff)):
                yield place_of(slice_, tensor)

    def _seconds(self, slice_: Slice, place: Place) -> float:
        """Of all trainings, with the rematerialisation that should fit."""
        return sum(self.whole(slice_, training, self.first(slice_, training, place)).seconds for training in self.trainings)

    def first(self, slice_: Slice, training: Training, place: Place) -> Choice:
        """The fastest choice on this mesh that is estimated to fit; else the one that takes least."""
        own = getattr(self._cfg, training.parts[0][0])
        remats = REMATS if own.remat == configs.FOUND_REMAT else (own.remat,)
        at_once = [own.tokens_at_once]
        if own.tokens_at_once == configs.FOUND:
            at_once += self.fewer(training, place, own.tokens_at_once)
        choices = [Choice(place, remat, tokens) for tokens in at_once for remat in remats]
        sure = (choice for choice in choices if self.needed(training, choice) <= SURE * limit_of(slice_))
        # Not the fewest rows at once: their gradients are added up in memory of their own.
        return next(sure, None) or min(choices, key=lambda choice: self.needed(training, choice))

    def needed(self, training: Training, choice: Choice) -> float:
        """Bytes a chip, as `estimate` has them."""
        return estimate(self.job(training, choice))

    def fewer(self, training: Training, place: Place, at_once: int) -> list[int]:
        """Tokens at once in a group, halved from those of the largest shape until its rows are the shortest there are."""
        groups = place.groups
        most = max(shape.rows // shape.parts // groups * shape.length for _, shape in self.course(training, groups, at_once).steps)
        return [most // 2**power for power in range(1, most.bit_length()) if most // 2**power >= packing.UNIT]

    def course(self, training: Training, groups: int, at_once: int) -> Course:
        """Its steps, on so many groups of rows."""
        key = training.name, groups, at_once
        if key not in self._courses:
            self._courses[key] = self._new_course(training, groups, at_once)
        return self._courses[key]

    def _new_course(self, training: Training, groups: int, at_once: int) -> Course:
        steps: defaultdict[tuple[str, batches.Shape], float] = defaultdict(float)
        tokens = examples = model_flops = 0
        for field, made, times, purpose in training.parts:
            ft: Finetune = getattr(self._cfg, field)
            ft = dataclasses.replace(ft, tokens_at_once=at_once)
            all_steps, batch = optimizers.schedule(len(made), ft)
            ft = dataclasses.replace(ft, steps=min(all_steps, _STEPS))
            plan = batches.make_plan(made, ft, self._cfg.seed, purpose, groups)
            for shape, count in Counter(plan.shapes).items():
                steps[field, shape] += count * times * all_steps / plan.steps
            seen, share = all_steps * batch * times, all_steps * batch * times / len(made)
            lengths = np.array([len(example.ids) for example in made], np.int64)
            targets = sum(example.target_tokens for example in made)
            tokens, examples = tokens + round(share * int(lengths.sum())), examples + seen
            model_flops += round(share * flops.step_flops(self._model, lengths.tolist(), targets, lora.of(ft)))
        return Course(steps, tokens, examples, model_flops)

    def jobs(self, training: Training, choice: Choice) -> list[tuple[Step, float]]:
        """Each shape's step and how often it runs."""
        found = []
        for (field, shape), count in self.course(training, choice.place.groups, choice.at_once).steps.items():
            ft = dataclasses.replace(getattr(self._cfg, field), remat=choice.remat)
            of_shape = {"length": shape.length, "rows": shape.rows, "parts": shape.parts, "targets": shape.targets}
            found.append((Step.of(choice.place, self._model, ft, **of_shape), count))
        return found

    def job(self, training: Training, choice: Choice) -> Step:
        """The step that takes most memory."""
        return max((job for job, _ in self.jobs(training, choice)), key=lambda job: (estimate(job), job.targets))

    def whole(self, slice_: Slice, training: Training, choice: Choice, answer: Answer | None = None) -> roofline.Times:
        """All steps."""
        largest = self.job(training, choice)
        return roofline.total([self.times(slice_, job, answer, largest).times(count) for job, count in self.jobs(training, choice)])

    def times(self, slice_: Slice, job: Step, answer: Answer | None, largest: Step) -> roofline.Times:
        """Of a step. What the compiled program of the largest one sends is scaled by what both should send."""
        expected = roofline.step_traffic(job)
        traffic: roofline.Traffic = expected
        if answer and answer.traffic:
            share = _payload(expected) / _payload(roofline.step_traffic(largest))
            traffic = {kind: (times, payload * share) for kind, (times, payload) in answer.traffic.items()}
        return roofline.step_times(job, slice_, traffic)

    def text(self, training: Training, choice: Choice) -> str:
        """A choice as it is shown, with the largest step's rows."""
        job, place = self.job(training, choice), choice.place
        axes = ("data", place.data), ("fsdp", place.fsdp), ("tensor", place.tensor)
        mesh = " × ".join(f"{name} {size}" for name, size in axes if size > 1)
        rows = job.rows // job.parts // place.groups
        parts = f", {job.parts} times" if job.parts > 1 else ""
        return f"{mesh or 'one chip'}; {rows} × {job.length}{parts}; {choice.remat}"


def place_of(slice_: Slice, tensor: int) -> Place:
    """The mesh on which so many chips share a matrix, and all chips of a slice the weights; copies are in other slices alone."""
    return Place(slice_.topology, slice_.count, slice_.chips_in_one // tensor, tensor, slice_.count)


def limit_of(slice_: Slice) -> int:
    """Bytes of a chip that the compiler gives a program."""
    return slice_.chip.limit


def estimate(job: Step) -> float:
    """Bytes a chip, before anything is compiled. What a chip keeps of a token in each layer is of the model's width where all `tensor`
    chips have it, and a share of it where they split it; without rematerialisation the gathered weights of all layers are kept, too."""
    m, place, remat = job.model, job.place, job.finetune["remat"]
    W, outer, split = flops.layer_weights(m), m.vocab_size * m.d_model, place.fsdp * place.tensor
    tokens = job.rows // job.parts * job.length / place.groups
    trained, graded, frozen = parameter_count(m), W, 0.0
    if adapted := job.lora:
        frozen, trained, graded = _FROZEN_BYTES[adapted.base] * trained / split, adapted.count(m), adapted.count(m)
    state = 12 * trained / split + frozen + (4 + 4 * (job.parts > 1)) * graded / split
    gathered = 4 * W / m.num_layers / place.tensor + 4 * outer / place.tensor
    alike, split_up = {"full": (0, 0), "dots": (2, 4 * m.d_model + 2 * m.d_ff), "none": (10, 4 * m.d_model + 5 * m.d_ff)}[remat]
    kept = 2 * (alike * m.d_model + split_up / place.tensor)
    gathered += 2 * W / place.tensor if remat == "none" and place.fsdp > 1 else 0
    inside = 4 * (6 * m.d_model + 4 * m.d_ff / place.tensor)
    return state + gathered + tokens * (m.num_layers * (2 * m.d_model + kept) + inside)


def _payload(traffic: roofline.Traffic) -> float:
    return sum(payload for _, payload in traffic.values())
