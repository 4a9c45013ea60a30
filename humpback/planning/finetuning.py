"""The plan of the trainings on a slice: mesh, rows at once and rematerialisation, the memory that they take, the time, what is idle."""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from humpback.config import Config, Finetune
from humpback.model.weights import LlamaConfig, parameter_count
from humpback.planning import roofline, workload
from humpback.planning.cache import Compiler
from humpback.planning.jobs import Answer, Place, Step
from humpback.planning.stage import StagePlan
from humpback.planning.tpu_slices import Slice
from humpback.rounding import ceil_div, round_up
from humpback.tokens import packing
from humpback.tokens.examples import TokenExample
from humpback.training import batches, flops
from humpback.training import optimizer as optimizers

_REMATS = ("none", "dots", "full")
_TENSORS = (1, 2, 4, 8)
SURE = 0.9  # of the limit: what is estimated below it is taken to fit before it is compiled
_TRIES = 6  # compilations for a stage that does not fit
_GOOD_ENOUGH = 0.97  # another mesh must save more of the time than this leaves
_STEPS = 256  # of a training that are packed; they stand for all
_TRIALS = 3  # to confirm a line
_TARGETS = 64  # places with a loss are counted in these


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


class Finetuning:
    """Plans one slice's trainings."""

    def __init__(self, cfg: Config, model: LlamaConfig, work: workload.Workload, compiler: Compiler, quick: bool):
        self._cfg, self._model, self._compiler, self._quick = cfg, model, compiler, quick
        self._trainings = trainings(cfg, work)
        self._courses: dict[tuple[str, int, int], Course] = {}

    def plan(self, slice_: Slice, rescue: bool = True) -> list[StagePlan]:
        """Both trainings, on one mesh. rescue: what does not fit is tried otherwise."""
        place = min(self._places(slice_), key=lambda place: self._hours(slice_, place) / (1 if place.tensor == 1 else _GOOD_ENOUGH))
        plans = [self._stage(slice_, place, training, rescue) for training in self._trainings]
        tensors = {each.settings["mesh.tensor"] for each in plans if each.fits}
        if len(tensors) > 1:  # one of them fits on another mesh only, and a run has one mesh
            plans = [self._stage(slice_, _place(slice_, max(tensors)), training, rescue) for training in self._trainings]
        return plans

    def idle(self, slice_: Slice) -> dict[str, float]:
        """Stage -> idle share on the mesh without tensor parallelism; nothing is compiled."""
        return {each.name: self._course(each, _place(slice_, 1).groups, 0).idle for each in self._trainings}

    def _places(self, slice_: Slice) -> Iterator[Place]:
        m = self._model
        for tensor in _TENSORS:
            if not slice_.chips_in_one % tensor and not any(size % tensor for size in (m.num_heads, m.d_ff)):
                yield _place(slice_, tensor)

    def _hours(self, slice_: Slice, place: Place) -> float:
        """Of both trainings by the model alone, with the rematerialisation that should fit."""
        return sum(self._whole(slice_, training, self._first(slice_, training, place)).seconds for training in self._trainings) / 3600

    def _first(self, slice_: Slice, training: Training, place: Place) -> Choice:
        """The fastest choice on this mesh that is estimated to fit; else the one that takes least."""
        own = getattr(self._cfg, training.parts[0][0])
        remats = (own.remat,) if self._quick else _REMATS
        at_once = [own.tokens_at_once, *self._fewer(training, place, own.tokens_at_once)]
        choices = [Choice(place, remat, tokens) for tokens in at_once for remat in remats]

        def needed(choice: Choice) -> float:
            return _estimate(self._job(training, choice))

        sure = (choice for choice in choices if needed(choice) <= SURE * limit_of(slice_))
        # Not the fewest rows at once: their gradients are added up in memory of their own.
        return next(sure, None) or min(choices, key=needed)

    def _fewer(self, training: Training, place: Place, at_once: int) -> list[int]:
        """Tokens at once in a group, halved from those of the largest shape until its rows are the shortest there are."""
        groups = place.groups
        most = max(shape.rows // shape.parts // groups * shape.length for _, shape in self._course(training, groups, at_once).steps)
        return [most // 2**power for power in range(1, most.bit_length()) if most // 2**power >= packing.UNIT]

    def _course(self, training: Training, groups: int, at_once: int) -> Course:
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
            model_flops += round(share * flops.step_flops(self._model, lengths.tolist(), targets))
        return Course(steps, tokens, examples, model_flops)

    def _jobs(self, training: Training, choice: Choice) -> list[tuple[Step, float]]:
        """Each shape's step and how often it runs."""
        found = []
        for (field, shape), count in self._course(training, choice.place.groups, choice.at_once).steps.items():
            ft = dataclasses.replace(getattr(self._cfg, field), remat=choice.remat)
            of_shape = {"length": shape.length, "rows": shape.rows, "parts": shape.parts, "targets": shape.targets}
            found.append((Step.of(choice.place, self._model, ft, **of_shape), count))
        return found

    def _job(self, training: Training, choice: Choice) -> Step:
        """The step that takes most memory."""
        return max((job for job, _ in self._jobs(training, choice)), key=lambda job: (_estimate(job), job.targets))

    def _whole(self, slice_: Slice, training: Training, choice: Choice, answer: Answer | None = None) -> roofline.Times:
        """All steps."""
        largest = self._job(training, choice)
        return roofline.total([self._times(slice_, job, answer, largest).times(count) for job, count in self._jobs(training, choice)])

    def _times(self, slice_: Slice, job: Step, answer: Answer | None, largest: Step) -> roofline.Times:
        """Of a step. What the compiled program of the largest one sends is scaled by what both should send."""
        expected = roofline.step_traffic(job)
        traffic: roofline.Traffic = expected
        if answer and answer.traffic:
            share = _payload(expected) / _payload(roofline.step_traffic(largest))
            traffic = {kind: (times, payload * share) for kind, (times, payload) in answer.traffic.items()}
        return roofline.step_times(job, slice_, traffic)

    def _stage(self, slice_: Slice, place: Place, training: Training, rescue: bool) -> StagePlan:
        choice = self._first(slice_, training, place)
        notes: list[str] = []
        answer = self._ask(slice_, training, choice)
        if not answer.fits and rescue:
            choice, answer, notes = self._rescue(slice_, training, choice, answer)
        plan = self._described(slice_, training, choice, answer, tuple(notes))
        return plan if self._quick or not answer.fits else self._with_most(plan, slice_, training, choice, answer)

    def _ask(self, slice_: Slice, training: Training, choice: Choice) -> Answer:
        return self._compiler.ask(self._job(training, choice), f"{slice_.name} {training.name} ({self._text(training, choice)})")

    def _described(self, slice_: Slice, training: Training, choice: Choice, answer: Answer, notes: tuple[str, ...]) -> StagePlan:
        course, job = self._course(training, choice.place.groups, choice.at_once), self._job(training, choice)
        place, steps, whole = choice.place, sum(course.steps.values()), self._whole(slice_, training, choice, answer)
        settings: dict[str, Any] = {"mesh.data": place.data, "mesh.fsdp": place.fsdp, "mesh.tensor": place.tensor}
        for field, *_ in training.parts:
            settings[f"{field}.remat"] = choice.remat
            settings[f"{field}.tokens_at_once"] = choice.at_once
        return StagePlan(
            slice_, training.name, settings, self._text(training, choice), answer.fits, answer.total, answer.limit, answer.memory,
            answer.traffic or roofline.step_traffic(job), course.model_flops / steps, self._times(slice_, job, answer, job),
            whole.bound, course.idle, course.tokens, course.examples, whole.seconds / 3600, notes=notes, answers=((training.name, answer),),
        )  # fmt: skip

    def _text(self, training: Training, choice: Choice) -> str:
        job, place = self._job(training, choice), choice.place
        axes = ("data", place.data), ("fsdp", place.fsdp), ("tensor", place.tensor)
        mesh = " × ".join(f"{name} {size}" for name, size in axes if size > 1)
        rows = job.rows // job.parts // place.groups
        parts = f", {job.parts} times" if job.parts > 1 else ""
        return f"{mesh or 'one chip'}; {rows} × {job.length}{parts}; {choice.remat}"

    def _rescue(self, slice_: Slice, training: Training, choice: Choice, answer: Answer) -> tuple[Choice, Answer, list[str]]:
        """Other choices, in this order, until one fits: more rematerialisation, fewer rows at once, another mesh, larger slices."""
        missing = -answer.headroom / 2**30
        notes = [f"{self._text(training, choice)} needs {missing:.2f} GiB a chip more than there is"]
        tried = [self._job(training, choice)]
        for what, other in self._others(slice_, training, choice):
            if len(tried) > _TRIES:
                break
            job = self._job(training, other)
            if job in tried or (len(tried) > 1 and _estimate(job) > 1.5 * limit_of(slice_)):
                continue
            tried.append(job)
            found = self._ask(slice_, training, other)
            if found.fits:
                return other, found, [*notes, f"fits first with {what}: {self._text(training, other)}"]
            notes.append(f"{what} ({self._text(training, other)}): {-found.headroom / 2**30:.2f} GiB too much")
        for larger in larger_than(slice_):
            other = self._first(larger, training, _place(larger, 1))
            if _estimate(self._job(training, other)) > limit_of(larger):
                continue
            found = self._ask(larger, training, other)
            if found.fits:
                notes.append(f"fits first on {larger.name}: {self._text(training, other)}")
                break
            notes.append(f"{larger.name}: {-found.headroom / 2**30:.2f} GiB too much")
        return choice, answer, notes

    def _others(self, slice_: Slice, training: Training, choice: Choice) -> Iterator[tuple[str, Choice]]:
        for remat in _REMATS[_REMATS.index(choice.remat) + 1 :]:
            yield f"remat = {remat}", dataclasses.replace(choice, remat=remat)
        full = dataclasses.replace(choice, remat="full")
        for tokens in self._fewer(training, choice.place, choice.at_once):
            yield f"fewer rows at once and accumulation, {tokens} tokens a chip", dataclasses.replace(full, at_once=tokens)
        for place in self._places(slice_):
            if place.tensor > choice.place.tensor:
                yield f"tensor = {place.tensor}", Choice(place, "full", choice.at_once)

    def _with_most(self, plan: StagePlan, slice_: Slice, training: Training, choice: Choice, answer: Answer) -> StagePlan:
        """With the most rows a chip that fit: two compilations give the line of memory against rows, a third confirms."""
        job, groups = self._job(training, choice), choice.place.groups
        one = job.rows // job.parts // groups

        def of_rows(rows: int) -> Step:
            targets = max(_TARGETS, round_up(ceil_div(job.targets * rows, one), _TARGETS))
            return dataclasses.replace(job, rows=rows * groups, parts=1, targets=targets)

        def ask(rows: int) -> Answer:
            return self._compiler.ask(of_rows(rows), f"{slice_.name} {training.name}, {rows} × {job.length} a chip")

        first, other = ask(one) if job.parts > 1 else answer, 2 * one
        second = ask(other)
        if not second.fits and one > 1:
            other = one // 2
            second = ask(other)
        known = max((rows for rows, found in ((one, first), (other, second)) if found.fits), default=0)
        most = line_to(answer.limit, (one, first.total), (other, second.total))
        return dataclasses.replace(plan, most=confirm(most, known, lambda rows: ask(rows).fits))


def confirm(most: int, known: int, fits: Callable[[int], bool], unit: int = 1) -> int:
    """The most that fits by a trial, from what a line says: the compiler may save memory in other ways near the limit, so that the line
    bends. known: fits already; unit: of what is counted."""
    for _ in range(_TRIALS):
        if most <= known or fits(most):
            break
        most = max(known, math.floor(0.95 * most) // unit * unit)
    else:
        return known
    return max(most, known)


def line_to(limit: int, first: tuple[int, int], second: tuple[int, int]) -> int:
    """The largest number whose memory is within the limit, by the line through two (number, bytes); at least the smaller that fits."""
    (a, at_a), (b, at_b) = sorted((first, second))
    slope = (at_b - at_a) / (b - a)
    return max(a, math.floor(a + (limit - at_a) / slope)) if slope > 0 else b


def larger_than(slice_: Slice) -> Iterator[Slice]:
    """The next three."""
    for _ in range(3):
        larger = slice_.larger()
        if larger is None:
            return
        yield larger
        slice_ = larger


def _place(slice_: Slice, tensor: int) -> Place:
    return Place(slice_.topology, slice_.count, slice_.chips_in_one // tensor, tensor, slice_.count)


def limit_of(slice_: Slice) -> int:
    """Bytes of a chip that the compiler gives a program."""
    return slice_.chip.limit


def _estimate(job: Step) -> float:
    """Bytes a chip, roughly, to order the choices before one is compiled."""
    m, place, remat = job.model, job.place, job.finetune["remat"]
    W, outer, split = flops.layer_weights(m), m.vocab_size * m.d_model, place.fsdp * place.tensor
    tokens = job.rows // job.parts * job.length / place.groups
    state = 12 * parameter_count(m) / split + 4 * W / split + (4 * W / split if job.parts > 1 else 0)
    gathered = 4 * W / m.num_layers / place.tensor + 4 * outer / place.tensor
    kept = {"full": 0, "dots": 2 * (4 * m.d_model + 2 * m.d_ff), "none": 2 * (14 * m.d_model + 5 * m.d_ff)}[remat] / place.tensor
    inside = 4 * (6 * m.d_model + 4 * m.d_ff / place.tensor)
    return state + gathered + tokens * (m.num_layers * (2 * m.d_model + kept) + inside)


def _payload(traffic: roofline.Traffic) -> float:
    return sum(payload for _, payload in traffic.values())
