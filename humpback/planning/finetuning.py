"""The plan of the trainings on a slice: mesh, rows at once and rematerialisation, the memory that they take, the time, what is idle."""

import dataclasses
import math
from collections.abc import Callable, Iterator

from humpback.config import Config
from humpback.model.weights import LlamaConfig
from humpback.planning import roofline, workload
from humpback.planning.cache import Compiler
from humpback.planning.choices import REMATS, Choice, Choices, Training, estimate, limit_of, place_of, trainings
from humpback.planning.jobs import Answer, Place, Step
from humpback.planning.stage import StagePlan
from humpback.planning.tpu_slices import Slice
from humpback.rounding import ceil_div, round_up

_TRIES = 6  # compilations for a stage that does not fit
_TRIALS = 3  # to confirm a line
_TARGETS = 64  # places with a loss are counted in these


class Finetuning:
    """Plans one slice's trainings."""

    def __init__(self, cfg: Config, model: LlamaConfig, work: workload.Workload, compiler: Compiler, quick: bool):
        self._compiler, self._quick = compiler, quick
        self._choices = Choices(cfg, model, trainings(cfg, work))

    def plan(self, slice_: Slice, rescue: bool = True) -> list[StagePlan]:
        """Both trainings, on one mesh. rescue: what does not fit is tried otherwise."""
        place = self._choices.best(slice_)
        plans = [self._stage(slice_, place, training, rescue) for training in self._choices.trainings]
        tensors = {each.settings["mesh.tensor"] for each in plans if each.fits}
        if len(tensors) > 1:  # one of them fits on another mesh only, and a run has one mesh
            plans = [self._stage(slice_, place_of(slice_, max(tensors)), training, rescue) for training in self._choices.trainings]
        return plans

    def idle(self, slice_: Slice) -> dict[str, float]:
        """Stage -> idle share on the mesh that should be fastest; nothing is compiled."""
        place = self._choices.best(slice_)
        return {each.name: self._choices.course(each, place.groups, 0).idle for each in self._choices.trainings}

    def _stage(self, slice_: Slice, place: Place, training: Training, rescue: bool) -> StagePlan:
        choice = self._choices.first(slice_, training, place)
        notes: list[str] = []
        answer = self._ask(slice_, training, choice)
        if not answer.fits and rescue:
            choice, answer, notes = self._rescue(slice_, training, choice, answer)
        plan = self._described(slice_, training, choice, answer, tuple(notes))
        return plan if self._quick or not answer.fits else self._with_most(plan, slice_, training, choice, answer)

    def _ask(self, slice_: Slice, training: Training, choice: Choice) -> Answer:
        label = f"{slice_.name} {training.name} ({self._choices.text(training, choice)})"
        return self._compiler.ask(self._choices.job(training, choice), label)

    def _described(self, slice_: Slice, training: Training, choice: Choice, answer: Answer, notes: tuple[str, ...]) -> StagePlan:
        course, job = self._choices.course(training, choice.place.groups, choice.at_once), self._choices.job(training, choice)
        steps, whole = sum(course.steps.values()), self._choices.whole(slice_, training, choice, answer)
        settings = choice.settings(training)
        return StagePlan(
            slice_, training.name, settings, self._choices.text(training, choice), answer.fits, answer.total, answer.limit, answer.memory,
            answer.traffic or roofline.step_traffic(job), course.model_flops / steps, self._choices.times(slice_, job, answer, job),
            whole.bound, course.idle, course.tokens, course.examples, whole.seconds / 3600, notes=notes, answers=((training.name, answer),),
        )  # fmt: skip

    def _rescue(self, slice_: Slice, training: Training, choice: Choice, answer: Answer) -> tuple[Choice, Answer, list[str]]:
        """Other choices, in this order, until one fits: more rematerialisation, fewer rows at once, another mesh, larger slices."""
        missing = -answer.headroom / 2**30
        notes = [f"{self._choices.text(training, choice)} needs {missing:.2f} GiB a chip more than there is"]
        tried = [self._choices.job(training, choice)]
        for what, other in self._others(slice_, training, choice):
            if len(tried) > _TRIES:
                break
            job = self._choices.job(training, other)
            if job in tried or (len(tried) > 1 and estimate(job) > 1.5 * limit_of(slice_)):
                continue
            tried.append(job)
            found = self._ask(slice_, training, other)
            if found.fits:
                return other, found, [*notes, f"fits first with {what}: {self._choices.text(training, other)}"]
            notes.append(f"{what} ({self._choices.text(training, other)}): {-found.headroom / 2**30:.2f} GiB too much")
        for larger in larger_than(slice_):
            other = self._choices.first(larger, training, place_of(larger, 1))
            if estimate(self._choices.job(training, other)) > limit_of(larger):
                continue
            found = self._ask(larger, training, other)
            if found.fits:
                notes.append(f"fits first on {larger.name}: {self._choices.text(training, other)}")
                break
            notes.append(f"{larger.name}: {-found.headroom / 2**30:.2f} GiB too much")
        return choice, answer, notes

    def _others(self, slice_: Slice, training: Training, choice: Choice) -> Iterator[tuple[str, Choice]]:
        for remat in REMATS[REMATS.index(choice.remat) + 1 :]:
            yield f"remat = {remat}", dataclasses.replace(choice, remat=remat)
        full = dataclasses.replace(choice, remat="full")
        for tokens in self._choices.fewer(training, choice.place, choice.at_once):
            yield f"fewer rows at once and accumulation, {tokens} tokens a chip", dataclasses.replace(full, at_once=tokens)
        for place in self._choices.places(slice_):
            if place.tensor > choice.place.tensor:
                yield f"tensor = {place.tensor}", Choice(place, "full", choice.at_once)

    def _with_most(self, plan: StagePlan, slice_: Slice, training: Training, choice: Choice, answer: Answer) -> StagePlan:
        """With the most rows a chip that fit: two compilations give the line of memory against rows, a third confirms."""
        job, groups = self._choices.job(training, choice), choice.place.groups
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
