"""Prompts in, tokens out: a fixed number of slots, refilled as they finish (ids only; text stays outside).

Three programs run over and over, each with static shapes (executables.py): `prefill` reads a few prompts of one length bucket, `insert`
puts their caches into free slots and draws each one's first token, `generate` decodes all slots a few steps. What all prompts begin
with, the prefix, is read once. Rows of like length are decoded together, class after class (`Engine.expect`), so that a cache holds no
more than its rows need. A row's numbers depend on its own prompt, key, bucket and class, which follow from its length alone, never on
its neighbours, its slot or the order of the work.
"""

import copy
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from humpback import chips, machine, watchdog
from humpback import config as configs
from humpback.config import Decoding
from humpback.decoding import buckets, executables
from humpback.decoding.branches import Row
from humpback.decoding.sampling import Sampler
from humpback.errors import UserError
from humpback.model import llama, sharding
from humpback.rounding import round_up

_WINDOW = 4  # requests for each slot that are looked at together
_COMPILING_BYTES_A_LAYER = 64 * 2**20  # of the host, while a program is compiled: 2 GiB for a 7B


@dataclass(frozen=True)
class Request:
    """One prompt. `key` is the key data uint32 [2] of its draws, `max_new` the most tokens to write (the stop id included).

    start: for `Engine.score`, the place, of at least 1, of the first token that is asked about. row: for `Engine.score_branches`, what
    `ids` and `start` are of.
    """

    id: str
    ids: np.ndarray
    key: np.ndarray
    max_new: int
    start: int = 0
    row: Row | None = None


@dataclass(frozen=True)
class Result:
    """What was written: ids without the stop id, the log-probability of each drawn id, and why it ended: `stop` or `length`."""

    id: str
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish: str


class NotFinite(UserError):
    """A model's logits are not numbers. request: whose; place: which token of its answer they were for, 1 for the first."""

    def __init__(self, request: str, place: int, who: str = ""):
        super().__init__(
            f"{who or f'request {request}'}: the logits for token {place} of its answer are not finite; the weights may be damaged "
            "(compare them by `humpback verify`), or too large for this compute type: try float32"
        )
        self.request, self.place = request, place


@dataclass
class Stats:
    """What an engine has read and how full its slots were."""

    prompt_tokens: int = 0  # of the requests, whatever was shared
    read_tokens: int = 0  # of them, those that went through the model
    room: int = 0  # slots, summed over the steps of decoding
    slot_steps: int = 0  # of them, those with a tenant


class Engine:
    """Decodes on a mesh. `params` is the unstacked tree; `decoding.length` holds prompt and new tokens.

    `prefix` is what the prompts begin with: a prompt shares with it as many tokens as agree, so one that begins otherwise is served,
    too, if its own part is at most `length` - len(prefix) long. `decoding.slots` is rounded up to what the mesh can share; what
    `decoding` leaves to be found is config.ANYWHERE's.
    """

    def __init__(
        self,
        config: llama.LlamaConfig,
        params: Mapping[str, Any],
        mesh: jax.sharding.Mesh,
        decoding: Decoding,
        prefix: Sequence[int] = (),
    ):
        decoding = configs.settled(decoding)
        length = decoding.length
        if length > config.max_positions:
            raise ValueError(f"length {length} is more than this model's max_positions, {config.max_positions}")
        self.layout = executables.Layout(
            config, mesh, round_up(decoding.slots, sharding.batch_shards(mesh)), length, 0, decoding.compute_dtype,
            decoding.steps_per_visit, decoding.prefill_tokens, decoding.weights,
        )  # fmt: skip
        self.length, self.slots = length, self.layout.slots
        self.most_classes = decoding.classes or (1 if self.layout.platform == "cpu" else buckets.CLASSES)
        self.params = executables.decoding_params(self.layout, params)
        self._begin(prefix)

    def with_prefix(self, prefix: Sequence[int]) -> "Engine":
        """An engine on the same weights for prompts that begin otherwise."""
        other = copy.copy(self)
        other._begin(prefix)
        return other

    def _begin(self, prefix: Sequence[int]) -> None:
        if len(prefix) >= self.length:
            raise ValueError(f"a prefix of {len(prefix)} tokens leaves no room in {self.length}")
        self.layout, self.stats = replace(self.layout, prefix=len(prefix), lengths=()), Stats()
        self.classes: tuple[executables.Layout, ...] = (self.layout,)
        self._prefix = np.array(prefix, np.int32)
        with jax.set_mesh(self.layout.mesh):
            ids_1P = sharding.place(self._prefix[None], self.layout.whole())
            self._cache = executables.read_prefix(self.layout, self.params, ids_1P) if len(prefix) else None

    @property
    def longest_visit(self) -> float:
        """Seconds that may pass between two visits of the host, or two prompts that are read, without being a hang: every slot of
        the whole rows is filled anew, with records from a store in trouble."""
        chip = chips.of_device(self.layout.mesh.devices.flat[0].device_kind)
        operations = 2.0 * llama.parameter_count(self.layout.config) * self.slots * self.length
        return watchdog.STORE_SECONDS + watchdog.computing_seconds(operations, self.layout.mesh.size, chip.flops if chip else None)

    def expect(
        self, prompts: Iterable[np.ndarray], all_of_them: bool, each: float = 1, max_new: int = 0, limits: Sequence[int] | None = None
    ) -> tuple[int, ...]:
        """Takes as few programs as these prompts need, and the classes of rows that pay for them; others fit, too, unless these are all
        that will come. Returns the lengths of the classes' rows; none where all rows are of one class.

        each: how many requests a prompt stands for. max_new: new tokens of a request at most, 0 where nothing is decoded. limits: what
        an earlier call returned, which is kept to; None where there was none. Results depend on it to rounding, so it is to be told the
        same whenever the same requests are served.
        """
        self.layout, own = replace(self.layout, lengths=()), self.layout.own
        self.classes = (self.layout,)  # `fits`, which the prompts may ask, must not know those of an earlier task
        lengths = [len(ids) - self._shared(ids) for ids in prompts]
        chosen = buckets.choose(lengths, own) if all_of_them else (*buckets.choose(lengths, own, buckets.MOST - 1), own)
        self.layout = replace(self.layout, lengths=tuple(dict.fromkeys(chosen)))
        if limits is None and not max_new:
            limits = ()
        elif limits is None:
            counts = dict.fromkeys(self.layout.lengths, 0.0)
            for length in lengths:
                counts[next(bucket for bucket in counts if length <= bucket)] += each
            limits = buckets.classes(counts, max_new, own, self.slots, self.most_classes)
        self.classes = executables.classes(self.layout, limits, max_new)
        return tuple(limits)

    def class_of(self, ids: np.ndarray, max_new: int) -> int:
        """Which of the classes serves a prompt, by its length alone; the last one, whether it `fits` or not."""
        own = len(ids) - self._shared(ids)
        serve = (number for number, row in enumerate(self.classes) if own + max_new <= row.own and own <= row.buckets[-1])
        return next(serve, len(self.classes) - 1)

    def warm_up(self, sampler: Sampler = Sampler(), stops: int = 1, read: int = 0) -> int:  # noqa: B008
        """Compiles all that `generate` with this sampler and number of stop ids, or `read` of so many ids, or SCORE or BRANCHES, can need.

        Returns the number of programs. After it nothing is compiled any more; without it each is when it is first needed.
        """
        jobs = [_Job(layout, sampler, stops, read) for layout in ((self.layout,) if read else self.classes)]
        calls = [functools.partial(job.program, name) for job in jobs for name in executables.abstract(job.layout, sampler, stops, read)]
        with futures.ThreadPoolExecutor(_at_once(self.layout.config.num_layers)) as pool:
            list(pool.map(lambda call: call(), calls))
        return len(calls)

    def unload(self) -> None:
        """Forgets the programs where they take the memory that whoever comes next needs: on all but CPUs."""
        executables.unload(self.layout)

    def generate(
        self,
        requests: Iterable[Request],
        sampler: Sampler,
        stop_ids: frozenset[int],
        on_token: Callable[[str, int], None] | None = None,
        on_visit: Callable[[], None] = lambda: None,
    ) -> Iterator[Result]:
        """Yields one Result per request, in the order in which they finish. Takes requests only as slots become free.

        Those of one class (`class_of`) should come together: at each change the slots become empty.
        ValueError names a request that cannot fit (`fits` asks beforehand), NotFinite one whose logits are no numbers.
        `on_token` is called with (request id, token id) for each token when the host sees it, stop ids apart; `on_visit` after each
        visit, when its results have been taken.
        """
        for number, some in itertools.groupby(requests, lambda request: self.class_of(request.ids, request.max_new)):
            yield from self._generate(self.classes[number], some, sampler, stop_ids, on_token, on_visit)

    def _generate(
        self,
        layout: executables.Layout,
        requests: Iterable[Request],
        sampler: Sampler,
        stop_ids: frozenset[int],
        on_token: Callable[[str, int], None] | None,
        on_visit: Callable[[], None],
    ) -> Iterator[Result]:
        """`generate` for requests of one class, whose layout it is."""
        stops = sharding.place(np.array(sorted(stop_ids) or [-1], np.int32), layout.whole())
        job = _Job(layout, sampler, len(stops), 0)
        groups = self._groups(_longest_first(requests, _WINDOW * layout.slots), job)
        ready: deque[_Group] = deque()  # one at most
        tenants: list[_Tenant | None] = [None] * layout.slots
        with jax.set_mesh(layout.mesh):
            state = executables.empty_state(layout)
        while True:
            free = [slot for slot, tenant in enumerate(tenants) if tenant is None]
            while free and (group := ready.popleft() if ready else next(groups, None)):
                taken, rest = group.split(len(free))
                if rest:
                    ready.appendleft(rest)
                rows = dict(zip(taken.rows, free, strict=False))
                state = self._insert(job, state, taken, rows, stops)
                for row, slot in rows.items():
                    tenants[slot] = _Tenant(taken.requests[row])
                free = free[len(rows) :]
                del group, taken, rest  # what was read for them must be gone before the next ones are read
            if all(tenant is None for tenant in tenants):
                return
            state, packed = job.call("generate", self.params, self._cache, state, stops)
            packed = np.asarray(packed)
            decoded = packed[1:, 0].sum(1)  # the first entry was drawn by `insert`
            steps = int((decoded > 0).sum())
            self.stats.room += steps * layout.slots
            self.stats.slot_steps += int(decoded.sum())
            yield from _collect(packed, tenants, stop_ids, on_token)
            on_visit()

    def read(self, requests: Iterable[Request], token_ids: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
        """Prefill only: yields (id, f32 log-probabilities of `token_ids` after the prompt), for ratings that need no decoding."""
        chosen = sharding.place(np.array(token_ids, np.int32), self.layout.whole())
        return self._measure(requests, _Job(self.layout, Sampler(), 1, len(token_ids)), chosen)

    def score(self, requests: Iterable[Request]) -> Iterator[tuple[str, np.ndarray]]:
        """Prefill only: yields (id, f32 [2]): the sum of the log-probabilities of the ids from `start` on, each given all before it,
        and 1 where each of them is the likeliest, else 0."""
        return self._measure(requests, _Job(self.layout, Sampler(), 1, executables.SCORE), None)

    def score_branches(self, requests: Iterable[Request]) -> Iterator[tuple[str, np.ndarray]]:
        """`score` of the targets of each request's `row`: yields (id, f32 [targets, 2])."""
        return self._measure(requests, _Job(self.layout, Sampler(), 1, executables.BRANCHES), None)

    def _measure(self, requests: Iterable[Request], job: "_Job", chosen: jax.Array | None) -> Iterator[tuple[str, np.ndarray]]:
        for group in self._groups(requests, job, chosen):
            values = np.asarray(group.prefilled)
            for row in group.rows:
                request = group.requests[row]
                found = values[row] if request.row is None else request.row.sums(values[row], self._shared(request.ids, request.start))
                if np.isnan(found).any():
                    raise NotFinite(request.id, 1)
                yield request.id, found

    def fits(self, ids: np.ndarray, max_new: int, start: int = 0) -> bool:
        """Whether a prompt with so many new tokens can be served, or scored from `start` on."""
        own, last = len(ids) - self._shared(ids, start), self.classes[-1]
        return len(ids) > 0 and own + max_new <= last.own and own <= last.buckets[-1]

    def _shared(self, ids: np.ndarray, start: int = 0) -> int:
        """How many tokens of the prefix a prompt begins with; its last token, or the one before `start`, is always its own."""
        most = min(len(self._prefix), (start or len(ids)) - 1)
        differ = np.flatnonzero(ids[:most] != self._prefix[:most])
        return int(differ[0]) if len(differ) else most

    def _groups(self, requests: Iterable[Request], job: "_Job", chosen: jax.Array | None = None) -> Iterator["_Group"]:
        """Prefills requests of one bucket together; the last of a bucket run with empty rows."""
        waiting: dict[int, list[Request]] = {}
        for request in requests:
            if not self.fits(request.ids, request.max_new, request.start):
                raise ValueError(
                    f"request {request.id}: {len(request.ids)} prompt ids and {request.max_new} new ones do not fit into {self.length}"
                )
            own = len(request.ids) - self._shared(request.ids, request.start)
            bucket = next(b for b in job.layout.buckets if own <= b)
            waiting.setdefault(bucket, []).append(request)
            if len(waiting[bucket]) == job.layout.rows(bucket):
                yield self._prefill(job, bucket, waiting.pop(bucket), chosen)
        for bucket in sorted(waiting):
            yield self._prefill(job, bucket, waiting[bucket], chosen)

    def _prefill(self, job: "_Job", bucket: int, requests: list[Request], chosen: jax.Array | None) -> "_Group":
        P = job.layout.rows(bucket)
        ids_PT = np.zeros((P, bucket), np.int32)
        values = {name: np.zeros(x.shape, x.dtype) for name, x in executables.new_rows(P).items()}
        values["filled"][:] = 1
        starts_P = np.ones(P, np.int32)
        for row, request in enumerate(requests):
            shared = self._shared(request.ids, request.start)
            starts_P[row] = request.start - shared
            suffix = request.ids[shared:]
            ids_PT[row, : len(suffix)] = suffix
            values["shared"][row], values["filled"][row], values["keys"][row] = shared, len(suffix), request.key
            values["remaining"][row] = request.max_new
            self.stats.prompt_tokens += len(request.ids)
            self.stats.read_tokens += len(suffix)
        rows = {name: sharding.place(value, self.layout.by_row()) for name, value in values.items()}
        inputs = (self.params, self._cache, sharding.place(ids_PT, self.layout.by_row()), rows["filled"], rows["shared"])
        if job.read == executables.SCORE:
            prefilled = job.call(f"score {bucket}", *inputs, sharding.place(starts_P, self.layout.by_row()))
        elif job.read == executables.BRANCHES:
            prefilled = job.call(f"branches {bucket}", *inputs, *self._branches(requests, values["shared"], ids_PT.shape))
        elif chosen is None:
            prefilled = job.call(f"prefill {bucket}", *inputs)
        else:
            prefilled = job.call(f"read {bucket}", *inputs, chosen)
        return _Group(list(range(len(requests))), requests, bucket, rows, prefilled)

    def _branches(self, requests: Sequence[Request], shared_P: np.ndarray, shape: tuple[int, int]) -> list[jax.Array]:
        """numbers_PT and places_PT of a prefill's rows, without what is shared."""
        arrays = np.zeros((2, *shape), np.int32)
        for row, request in enumerate(requests):
            if request.row is None:
                raise ValueError(f"request {request.id}: has no row of branches")
            shared, own = int(shared_P[row]), len(request.ids) - int(shared_P[row])
            arrays[0, row, :own] = request.row.numbers[shared:]
            arrays[1, row, :own] = request.row.places[shared:] - shared
        return [sharding.place(array, self.layout.by_row()) for array in arrays]

    def _insert(self, job: "_Job", state: dict, group: "_Group", rows: dict[int, int], stops: jax.Array) -> dict:
        slots_P = np.full(job.layout.rows(group.bucket), job.layout.slots, np.int32)  # past the end: not inserted
        for row, slot in rows.items():
            slots_P[row] = slot
        logits_PV, chunk = group.prefilled
        slots = sharding.place(slots_P, self.layout.by_row())
        return job.call(f"insert {group.bucket}", state, logits_PV, chunk, slots, group.values, stops)


def _at_once(layers: int) -> int:
    """How many programs of so many layers are compiled at once: a core for each, in half of the memory that is free."""
    memory = machine.free_bytes() // 2 // (layers * _COMPILING_BYTES_A_LAYER)
    return max(1, min(machine.cores(), memory))


def _longest_first(requests: Iterable[Request], window: int) -> Iterator[Request]:
    """The requests, of each `window` the longest first: rows of like length wait less for each other, in prefill and in decoding."""
    requests = iter(requests)
    while some := list(itertools.islice(requests, window)):
        yield from sorted(some, key=lambda request: -len(request.ids))


@dataclass(frozen=True)
class _Job:
    """The compiled programs for one sampler and one number of stop ids, or of ids to read, or to score."""

    layout: executables.Layout
    sampler: Sampler
    stops: int
    read: int

    def program(self, name: str) -> jax.stages.Compiled:
        return executables.compiled(executables.alone(self.layout, name), self.sampler, self.stops, self.read, name)

    def call(self, name: str, *arguments):
        return self.program(name)(*arguments)


@dataclass
class _Tenant:
    """The request in a slot and what it has drawn so far."""

    request: Request
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def take(self, token: int, log_prob: float, stop_ids: frozenset[int]) -> Result | None:
        """Adds a drawn token; the Result when it was the last. Raises NotFinite for one that could not be drawn."""
        if np.isnan(log_prob):
            raise NotFinite(self.request.id, len(self.log_probs) + 1)
        self.log_probs.append(log_prob)
        if token not in stop_ids:
            self.ids.append(token)
            if len(self.ids) < self.request.max_new:
                return None
        finish = "stop" if token in stop_ids else "length"
        return Result(self.request.id, tuple(self.ids), tuple(self.log_probs), finish)


@dataclass(frozen=True)
class _Group:
    """Requests prefilled together; `rows` are those that are not in a slot yet."""

    rows: list[int]
    requests: list[Request]
    bucket: int
    values: dict[str, jax.Array]  # what `insert` needs to know of all P rows
    prefilled: tuple  # logits_PV, cache of P rows

    def split(self, count: int) -> tuple["_Group", "_Group | None"]:
        """(the first `count` rows, the others or None)."""
        rest = replace(self, rows=self.rows[count:]) if len(self.rows) > count else None
        return replace(self, rows=self.rows[:count]), rest


def _collect(
    packed: np.ndarray,
    tenants: list[_Tenant | None],
    stop_ids: frozenset[int],
    on_token: Callable[[str, int], None] | None,
) -> Iterator[Result]:
    """Deals one visit's draws, int32 [steps + 1, 3, B] of (valid, id, log-probability's bits), to the tenants of the slots."""
    valid, tokens, bits = packed[:, 0], packed[:, 1], packed[:, 2]
    log_probs = bits.view(np.float32)
    for slot, tenant in enumerate(tenants):
        if tenant is None:
            continue
        for step in np.flatnonzero(valid[:, slot]):
            token = int(tokens[step, slot])
            if on_token and token not in stop_ids and not np.isnan(log_probs[step, slot]):
                on_token(tenant.request.id, token)
            if result := tenant.take(token, float(log_probs[step, slot]), stop_ids):
                tenants[slot] = None
                yield result
