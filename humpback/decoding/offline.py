"""Record files through a model: any number of replicas, results published as small parts, so a kill costs seconds, and merged.

A replica takes the inputs whose number, modulo the number of replicas, is its own. Replicas share no collective and need not be in
step. Inputs are read and tokenised only as slots become free, and only those in flight are held; with classes of rows they are read once
for each class, and a record of a later class is tokenised twice.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from humpback import distributed, keys, storage
from humpback.decoding.branches import Row, Target, pack
from humpback.decoding.engine import Engine, NotFinite, Request, Result
from humpback.decoding.parts import REJECTED, Inputs, Parts, Reject, Totals
from humpback.decoding.sampling import Sampler
from humpback.locks import Maker
from humpback.progress import Bar
from humpback.watchdog import Watchdog

TOO_LONG = "prompt too long"
_KEYS_AT_ONCE = 512
_SHOW_SECONDS = 1
_METRICS_SECONDS = 10
_UNKNOWN = 255  # the class of a record that was not read
_SAMPLE = 2_048  # records whose prompts tell how long all are
_LOOK_SHARE = 20  # of the time, at most one part in so many goes into listing the other replicas' parts


class Unservable(Exception):
    """A record cannot be served; the text is the reason that the rejects file gives."""


@dataclass(frozen=True)
class Task:
    """What is asked of the model for a record, and what becomes of its answers.

    encode: the record's prompt ids, None when they are too long; raises Unservable for other reasons. make: the record to write from
    an input and its answers: a Result for each sample, or the f32 log-probabilities of the ids in `read`, or none when `asks` said no.
    With `score`, encode gives several Targets, and the answers are what `Engine.score` says of each; with `branched` they share rows, and
    what they begin with is read once.
    """

    encode: Callable[[Any], Any]
    make: Callable[[Any, list], Any]
    asks: Callable[[Any], bool] = lambda _: True
    max_new: int = 0
    samples: int = 1
    seed: int = 0
    purpose: str = ""  # of the draws
    sampler: Sampler = Sampler()  # noqa: RUF009
    stop_ids: frozenset[int] = frozenset()
    read: tuple[int, ...] = ()  # log-probabilities of these after the prompt, instead of an answer
    score: bool = False  # how likely the ends of prompts are, instead
    branched: bool = False


@dataclass(frozen=True)
class Output:
    """Where the records go, FOLDER/NAME-….jsonl, and who hears how far it is: the terminal by `label`, `metrics` by rows.

    maker: who writes them, from what; see parts.py.
    """

    folder: storage.PathLike
    name: str
    label: str
    metrics: Callable[[dict[str, Any]], None]
    maker: Maker | None = None


class Done(NamedTuple):
    """What `run` has made: files, in = out + rejects, and for a manifest the rejects by reason, all known to the first process only;
    tokens of all calls, but for work that was killed before it was published."""

    files: list[str]
    counts: dict[str, int]
    rejected: dict[str, int]
    tokens: int


def run(engine: Engine, task: Task, inputs: Inputs, output: Output, *, replica: distributed.Replica, seconds: float) -> Done:
    """Makes FOLDER/NAME-….jsonl, one record for each input, and FOLDER/rejects-….jsonl; goes on where an earlier call stopped.

    What is done is in FOLDER/parts after `seconds`. The bytes depend neither on the replicas nor on what was killed. Every process
    calls it, each with its replica's engine.
    """
    parts = Parts(f"{output.folder}/parts", inputs, replica, seconds, output.maker)
    progress = _Progress(output, parts, engine, len(inputs))
    try:
        _Replica(engine, task, inputs, parts, replica, progress.show).serve()
    except BaseException:
        with contextlib.suppress(Exception):  # what was given for publishing is on disk, and does not hide the error
            parts.settle()
        raise
    parts.publish(now=True)
    parts.settle()
    progress.wait()
    files, made, rejects = parts.merge(output.folder, output.name)
    counts = {"in": len(inputs), "out": made, "rejects": sum(rejects.values())}
    return Done(files, counts, {f"{REJECTED}{reason}": count for reason, count in rejects.items()}, progress.tokens)


def expect(engine: Engine, task: Task, inputs: Inputs, limits: Sequence[int] | None = None) -> tuple[int, ...]:
    """Tells the engine how long the prompts are, all of them or a sample of many, and returns its classes. The same for every replica and
    after every kill. limits: the classes that were found before."""
    chosen = inputs.sample(_SAMPLE)

    def prompts() -> Iterator[np.ndarray]:
        for position, _, record in inputs.of(chosen):
            with contextlib.suppress(Unservable):
                if (ids := _encode(engine, task, inputs, position, record)) is not None:
                    yield from (target.ids for target in ids) if task.score else (ids,)

    each = task.samples * len(inputs) / max(1, int(chosen.sum()))
    return engine.expect(prompts(), bool(chosen.all()), each, task.max_new, limits)


def _encode(engine: Engine, task: Task, inputs: Inputs, position: int, record: Any) -> Any:
    """Prompt ids, or Targets, that fit; None when nothing is to be asked. Raises Unservable."""
    if reason := inputs.rejected[position]:
        raise Unservable(Inputs.REASONS[reason - 1])
    if not task.asks(record):
        return None
    ids = task.encode(record)
    if ids is not None and task.branched:
        ids = list(pack(ids, engine.layout.own))
    if ids is not None and not len(ids):
        raise Unservable("empty")
    if ids is not None and task.score:
        fits = all(engine.fits(target.ids, 0, target.start) for target in ids)
    else:
        fits = ids is not None and engine.fits(ids, task.max_new)
    if not fits:
        raise Unservable(TOO_LONG)
    return ids


@dataclass
class _Flight:
    """A record whose answers are not all there."""

    position: int
    record: Any
    prompt_tokens: int
    answers: list = field(default_factory=list)
    missing: int = 0
    output_tokens: int = 0


class _Replica:
    """One replica's share of the work."""

    def __init__(
        self, engine: Engine, task: Task, inputs: Inputs, parts: Parts, replica: distributed.Replica, show: Callable[[], None]
    ):
        self._engine, self._task, self._inputs, self._parts, self._show = engine, task, inputs, parts, show
        self._flights: dict[int, _Flight] = {}
        mine = inputs.numbers % np.uint64(replica.count) == replica.index
        self._mine = mine & ~parts.done  # fixed here: all processes of a replica must take the same
        self._todo = np.flatnonzero(self._mine)

    def serve(self) -> None:
        """Serves what is not done. RuntimeError when the engine forgot a record, NotFinite names the one that the model fails at."""
        try:
            self._serve()
        except NotFinite as error:
            self._parts.publish(now=True)
            position = int(error.request.partition("/")[0])
            raise NotFinite(error.request, error.place, self._parts.describe(position)) from error
        forgotten = self._todo[~self._parts.done[self._todo]]
        if len(forgotten):
            raise RuntimeError(f"no answer came for {len(forgotten)} records, the first is {self._parts.describe(forgotten[0])}")

    def _serve(self) -> None:
        task, longest = self._task, self._engine.longest_visit
        with Watchdog("visit", floor_seconds=longest, first_seconds=longest).pieces() as done:
            if task.read or task.score:
                asked = self._requests(done)
                score = self._engine.score_branches if task.branched else self._engine.score
                for name, log_probs in score(asked) if task.score else self._engine.read(asked, task.read):
                    self._answer(name, log_probs, 0)
                    done()
            else:

                def visited() -> None:
                    self._visited()
                    done()

                for result in self._engine.generate(self._requests(done), task.sampler, task.stop_ids, on_visit=visited):
                    self._answer(result.id, result, len(result.log_probs))

    def _requests(self, looked: Callable[[], None]) -> Iterator[Request]:
        """The requests of this replica's records, class after class of the engine's, made as they are asked for; what needs no answer is
        dealt with on the way. The first pass over the records tells which others are of which class. looked: called at each record."""
        classes = np.full(len(self._mine), _UNKNOWN, np.uint8)
        yield from self._of_class(self._mine, classes, 0, looked)
        for number in range(1, len(self._engine.classes)):
            yield from self._of_class(classes == number, classes, number, looked)

    def _of_class(self, wanted: np.ndarray, classes: np.ndarray, number: int, looked: Callable[[], None]) -> Iterator[Request]:
        """The requests of those records that are of a class; of the others it is noted which they are of."""
        draws = self._draws(np.flatnonzero(wanted))
        for position, where, record in self._inputs.of(wanted):
            keys_k2 = next(draws)
            looked()
            try:
                ids = _encode(self._engine, self._task, self._inputs, position, record)
            except Unservable as error:
                self._parts.add(position, Reject(record.id, str(error), where, position))
                self._show()
                continue
            if ids is None:
                self._parts.add(position, self._task.make(record, []))
                self._show()
                continue
            if not self._task.score and (own := self._engine.class_of(ids, self._task.max_new)) != number:
                classes[position] = own
                continue
            asked = ids if self._task.score else [Target(ids, 0)] * self._task.samples
            count = len(asked)
            self._flights[position] = _Flight(position, record, sum(len(target.ids) for target in asked), [None] * count, count)
            for sample, target in enumerate(asked):
                key = keys_k2[0 if self._task.score else sample]
                row = target if isinstance(target, Row) else None
                yield Request(f"{position}/{sample}", target.ids, key, self._task.max_new, target.start, row)

    def _draws(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        """Key data uint32 [samples, 2] for each of some records; computed for many at once, always of one shape."""
        for start in range(0, len(positions), _KEYS_AT_ONCE):
            numbers = self._inputs.numbers[positions[start : start + _KEYS_AT_ONCE]]
            if self._task.read or self._task.score:
                yield from np.zeros((len(numbers), 1, 2), np.uint32)
                continue
            ids = [f"{number:016x}" for number in numbers] + ["0" * 16] * (_KEYS_AT_ONCE - len(numbers))
            drawn = [keys.record_keys(self._task.seed, self._task.purpose, ids, sample) for sample in range(self._task.samples)]
            yield from np.stack(drawn, 1)[: len(numbers)]

    def _answer(self, name: str, answer: Result | np.ndarray, tokens: int) -> None:
        position, sample = map(int, name.split("/"))
        flight = self._flights[position]
        flight.answers[sample] = answer
        flight.output_tokens += tokens
        flight.missing -= 1
        if not flight.missing:
            del self._flights[position]
            answers = list(itertools.chain(*flight.answers)) if self._task.branched else flight.answers
            output = self._task.make(flight.record, answers)
            self._parts.add(position, output, flight.prompt_tokens, flight.output_tokens)
        self._show()

    def _visited(self) -> None:
        self._parts.publish()  # what is finished goes to disk even when nothing else finishes for long
        self._show()


class _Progress:
    """How far all replicas are, drawn and written as metrics by process 0, since this call began."""

    def __init__(self, output: Output, parts: Parts, engine: Engine, total: int):
        self._parts, self._engine, self._metrics, self._total = parts, engine, output.metrics, total
        self._before, self._started = parts.totals(), time.monotonic()
        self._room = engine.stats.room, engine.stats.slot_steps
        self._shown = self._measured = self._looked = self._started
        self._look_seconds = 0.0
        self._bar = Bar(output.label, "record", total, done=self._before.records)

    @property
    def tokens(self) -> int:
        """Prompt and output tokens of all calls, of all replicas."""
        return sum(self._parts.totals()[1:])

    def show(self, now: bool = False) -> None:
        """Draws, if it is time or `now`; and adds a row of metrics, more rarely."""
        time_ = time.monotonic()
        if not distributed.is_first() or (not now and time_ - self._shown < _SHOW_SECONDS):
            return
        self._shown = time_
        if time_ - self._looked > max(_METRICS_SECONDS, _LOOK_SHARE * self._look_seconds):
            self._parts.look()
            self._looked = time.monotonic()
            self._look_seconds = self._looked - time_
        row = self.row()
        self._bar.note(
            f"prompts {row['prompt_tokens_per_second']:.0f} and output {row['output_tokens_per_second']:.0f} tokens/s, "
            f"{row['tokens_per_second_per_device']:.0f} tokens/s a device, slots {row['slot_occupancy']:.0%} full"
        )
        self._bar.reach(self._parts.totals().records)
        if now or time_ - self._measured > _METRICS_SECONDS:
            self._measured = time_
            self._metrics(row)

    def row(self) -> dict[str, float | None]:
        """The state and the rates since this call began. Occupancy is that of this process' replica."""
        done, seconds = self._since(), max(1e-9, time.monotonic() - self._started)
        records = self._before.records + done.records
        room, slot_steps = self._engine.stats.room - self._room[0], self._engine.stats.slot_steps - self._room[1]
        return {
            "records": records,
            "total": self._total,
            "seconds": seconds,
            "records_per_second": done.records / seconds,
            "prompt_tokens_per_second": done.prompt_tokens / seconds,
            "output_tokens_per_second": done.output_tokens / seconds,
            "tokens_per_second_per_device": (done.prompt_tokens + done.output_tokens) / seconds / jax.device_count(),
            "slot_occupancy": slot_steps / room if room else 0.0,
            "eta_seconds": (self._total - records) * seconds / done.records if done.records else None,
        }

    def wait(self) -> None:
        """Returns when all is done, so that the bar goes on while other replicas work."""
        while distributed.is_first() and self._parts.totals().records < self._total:
            time.sleep(_SHOW_SECONDS)
            self._parts.look()
            self.show()
        self.show(now=True)
        self._bar.close()

    def _since(self) -> Totals:
        return Totals(*(now - before for now, before in zip(self._parts.totals(), self._before, strict=True)))
