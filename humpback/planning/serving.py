"""The plan of the decoding stages on a slice: the chips of a replica, its mesh and slots, the memory that they take, records a second."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from humpback.config import Config
from humpback.decoding.executables import Layout
from humpback.model.weights import LlamaConfig
from humpback.planning import finetuning, roofline
from humpback.planning.cache import Compiler
from humpback.planning.jobs import Answer, Decode, Place
from humpback.planning.stage import StagePlan
from humpback.planning.tpu_slices import Slice
from humpback.planning.workload import Requests
from humpback.training.flops import layer_weights

_MOST = 256  # slots of the chips that share a matrix: more gain little, as the cache is then most of what is read
_LEAST = 4  # slots of a replica, config.decoding.slots' own
_NO_BETTER = 1.02  # a replica of more hosts must be faster by more than this
_TRIES = 6
_POWERS = [2**power for power in range(10)]


@dataclass(frozen=True)
class Replica:
    """What may be chosen: hosts of a replica, chips that share a matrix, slots, and the form of the weights."""

    hosts: int
    tensor: int
    slots: int
    weights: str


class Serving:
    """Plans one slice's decoding. requests: of `augment`, whose programs have the longer rows, and `rate`."""

    def __init__(self, cfg: Config, model: LlamaConfig, requests: Mapping[str, Requests], compiler: Compiler, quick: bool):
        self._cfg, self._model, self._compiler, self._quick, self._requests = cfg, model, compiler, quick, requests

    def plan(self, slice_: Slice) -> list[StagePlan]:
        """Both stages, with the same replicas. What does not fit is tried otherwise."""
        weights = self._cfg.decoding.weights
        tensors = {hosts: self._tensors(hosts * slice_.chips_a_host)[-1] for hosts in _hosts(slice_)}
        hosts = min(tensors, key=lambda hosts: (-tensors[hosts], hosts))  # the fewest that split a matrix as far as it can be
        widest = Replica(hosts, tensors[hosts], max(_LEAST, hosts * slice_.chips_a_host // tensors[hosts]), weights)
        replica = self._best(slice_, weights) or widest
        answers = self._ask(slice_, "augment", replica)
        notes: list[str] = []
        if not _fits(answers):
            replica, answers, notes = self._rescue(slice_, replica, answers)
        searched = not self._quick and _fits(answers)
        if searched:
            replica, answers = self._most(slice_, replica, answers)
        plans = []
        for stage in self._requests:
            # Rating runs the same functions on shorter rows: what fits for augmentation fits for it.
            own = answers if stage == "augment" or self._quick or not _fits(answers) else self._ask(slice_, stage, replica)
            chips = slice_.chips_a_host * replica.hosts
            plan = self._described(slice_, stage, replica, own, tuple(notes if stage == "augment" else ()))
            plans.append(dataclasses.replace(plan, most=replica.slots / chips if searched else None))
        return plans

    def _tensors(self, chips: int) -> list[int]:
        """How many of so many chips may share a matrix: powers of two that divide query heads, no more than there are key heads."""
        m = self._model
        return [t for t in _POWERS if t <= min(chips, m.num_kv_heads) and not m.num_heads % t and not m.d_ff % t]

    def _candidates(self, slice_: Slice, weights: str) -> Iterator[Replica]:
        """With the slots that should fit, fewest hosts first."""
        for hosts in _hosts(slice_):
            for tensor in self._tensors(hosts * slice_.chips_a_host):
                replica = Replica(hosts, tensor, _LEAST, weights)
                if slots := self._slots(slice_, replica):
                    yield dataclasses.replace(replica, slots=slots)

    def _best(self, slice_: Slice, weights: str) -> Replica | None:
        """The fastest by the model alone; None when none should fit."""
        best, rate = None, 0.0
        for replica in self._candidates(slice_, weights):
            found = 1 / sum(self._times(slice_, stage, replica, {}).seconds for stage in self._requests) / replica.hosts
            if found > rate * (_NO_BETTER if best and replica.hosts > best.hosts else 1):
                best, rate = replica, found
        return best

    def _slots(self, slice_: Slice, replica: Replica) -> int:
        """The most that are estimated to fit beside weights and the longest prefill; 0: none."""
        job = self._job(slice_, "augment", replica)
        m, shards, tokens = self._model, job.place.groups, _longest(job.layout()) / job.place.groups
        prefill = tokens * (4 * m.num_layers * m.num_kv_heads * m.head_dim / replica.tensor + 8 * m.d_model + 6 * m.d_ff / replica.tensor)
        free = finetuning.SURE * finetuning.limit_of(slice_) - roofline.weight_bytes(m, replica.weights) / replica.tensor - prefill
        slots = min(_MOST, math.floor(free / (roofline.slot_bytes(job) / replica.tensor))) if free > 0 else 0
        slots = slots // 4 * 4 if slots > 4 else slots
        return slots * shards if slots * shards >= _LEAST else 0

    def _job(self, slice_: Slice, stage: str, replica: Replica, program: str = "generate") -> Decode:
        chips, d = slice_.chips_a_host * replica.hosts, self._cfg.decoding
        sampler = self._cfg.augment if stage == "augment" else self._cfg.curate
        place = Place(slice_.part(chips).topology, 1, chips // replica.tensor, replica.tensor)
        slots = replica.slots if program == "generate" else _LEAST * place.groups  # a prefill is the same beside any slots
        return Decode(
            place, self._model, program, slots, d.length, self._requests[stage].prefix, d.compute_dtype, d.steps_per_visit,
            d.prefill_tokens, replica.weights, sampler.temperature, sampler.top_p,
        )  # fmt: skip

    def _reads(self, stage: str) -> bool:
        """Whether the stage only reads prompts."""
        return stage == "rate" and self._cfg.curate.mode == "expected"

    def _programs(self, stage: str, job: Decode) -> list[str]:
        longest = job.layout().buckets[-1]
        return [f"read {longest}"] if self._reads(stage) else ["generate", f"prefill {longest}"]

    def _ask(self, slice_: Slice, stage: str, replica: Replica) -> dict[str, Answer]:
        """The stage's largest programs; a second one is not asked for when the first does not fit."""
        answers: dict[str, Answer] = {}
        for program in self._programs(stage, self._job(slice_, stage, replica)):
            job = self._job(slice_, stage, replica, program)
            if not answers or _fits(answers):
                kind = program.split()[0]
                answers[kind] = self._compiler.ask(job, f"{slice_.name} {stage} {kind} ({self._text(slice_, replica)})")
        return answers

    def _times(self, slice_: Slice, stage: str, replica: Replica, answers: dict[str, Answer]) -> roofline.Times:
        """Of a record, on a replica: its share of reading prompts and of steps, and of the host's visits."""
        requests, job = self._requests[stage], self._job(slice_, stage, replica)
        layout, part = job.layout(), slice_.part(job.place.chips)
        buckets, count, parts = layout.buckets, len(requests.prompts), []
        compiled = _prefill(answers)
        for bucket, records in sorted(Counter(next(b for b in buckets if own <= b) for own in requests.prompts).items()):
            rows = layout.rows(bucket)
            traffic = roofline.decode_traffic(job, rows * bucket)
            if compiled:
                share = rows * bucket / _longest(layout)
                traffic = {kind: (n, round(sent * share)) for kind, (n, sent) in compiled.traffic.items()}
            parts.append(roofline.prefill_times(job, part, traffic, rows, bucket).times(records / count / rows))
        new = sum(requests.answers) / count
        if new:
            parts.append(self._step(slice_, stage, replica, answers).times(new / job.slots))
        total = roofline.total(parts)
        # A visit of the host ends when a row does, or after steps_per_visit.
        visits = new / job.slots * min(1.0, max(job.slots / new, 1 / job.steps)) if new else 1 / layout.shards
        return dataclasses.replace(total, seconds=total.seconds + roofline.HOST_SECONDS * visits)

    def _step(self, slice_: Slice, stage: str, replica: Replica, answers: dict[str, Answer]) -> roofline.Times:
        """Of one step of decoding of all slots; of a stage that only reads, of the longest prompts that are read together."""
        job = self._job(slice_, stage, replica)
        layout, part = job.layout(), slice_.part(job.place.chips)
        if self._reads(stage):
            bucket, answer = layout.buckets[-1], _prefill(answers)
            traffic = answer.traffic if answer else roofline.decode_traffic(job, _longest(layout))
            return roofline.prefill_times(job, part, traffic, layout.rows(bucket), bucket)
        answer = _taken(answers, "generate")
        traffic = answer.traffic if answer else roofline.decode_traffic(job, job.slots)
        return roofline.decode_times(job, part, traffic, answer.memory["arguments"] if answer else None)

    def _described(
        self, slice_: Slice, stage: str, replica: Replica, answers: dict[str, Answer], notes: tuple[str, ...]
    ) -> StagePlan:
        requests, times = self._requests[stage], self._times(slice_, stage, replica, answers)
        step = answers.get("generate") or next(iter(answers.values()))
        repeats = self._cfg.iterations if stage == "rate" else 1
        records, replicas = requests.records * repeats, slice_.count * slice_.hosts_in_one // replica.hosts
        m = self._model
        weights, tokens = layer_weights(m) + m.d_model * m.vocab_size, requests.tokens
        operations = 2 * weights * (tokens - requests.prefix) + 2 * m.num_layers * m.num_heads * m.head_dim * tokens**2
        settings = {
            "decoding.slots": replica.slots, "decoding.tensor": replica.tensor, "decoding.processes_per_replica": replica.hosts,
            "decoding.weights": replica.weights,
        }  # fmt: skip
        return StagePlan(
            slice_, stage, settings, self._text(slice_, replica), _fits(answers), needed(answers), step.limit, step.memory,
            step.traffic, operations, self._step(slice_, stage, replica, answers), times.bound, 0.0, records * tokens, records,
            records * times.seconds / replicas / 3600, notes=notes,
            answers=tuple((f"{stage} {kind}", answer) for kind, answer in answers.items()),
        )  # fmt: skip

    def _text(self, slice_: Slice, replica: Replica) -> str:
        chips = slice_.chips_a_host * replica.hosts
        weights = "; int8" if replica.weights == "int8" else ""
        return f"tensor {replica.tensor} of {chips} chips a replica; {replica.slots} slots{weights}"

    def _rescue(self, slice_: Slice, replica: Replica, answers: dict[str, Answer]) -> tuple[Replica, dict[str, Answer], list[str]]:
        """Others, in this order, until one fits: fewer slots, another mesh or more hosts, int8 weights, larger slices."""
        notes = [f"{self._text(slice_, replica)} needs {(needed(answers) - limit(answers)) / 2**30:.2f} GiB a chip more than there is"]
        for tried, (what, where, other) in enumerate(self._others(slice_, replica)):
            if tried == _TRIES:
                break
            found = self._ask(where, "augment", other)
            if _fits(found):
                notes.append(f"fits first with {what}: {self._text(where, other)}")
                return (other, found, notes) if where == slice_ and other.weights == replica.weights else (replica, answers, notes)
            notes.append(f"{what}: {(needed(found) - limit(found)) / 2**30:.2f} GiB too much")
        return replica, answers, notes

    def _others(self, slice_: Slice, replica: Replica) -> Iterator[tuple[str, Slice, Replica]]:
        shards = slice_.chips_a_host * replica.hosts // replica.tensor
        for share in (4, 2):
            slots = max(_LEAST, replica.slots * (share - 1) // share // shards * shards)
            if slots < replica.slots:
                yield f"{slots} slots", slice_, dataclasses.replace(replica, slots=slots)
        for other in self._candidates(slice_, replica.weights):
            if (other.hosts, other.tensor) > (replica.hosts, replica.tensor):
                yield f"tensor = {other.tensor} of {other.hosts} hosts", slice_, other
                break
        if replica.weights != "int8" and (narrow := self._best(slice_, "int8")):
            yield "decoding.weights = int8", slice_, narrow
        for larger in finetuning.larger_than(slice_):
            if fitting := self._best(larger, replica.weights):
                yield larger.name, larger, fitting

    def _most(self, slice_: Slice, replica: Replica, answers: dict[str, Answer]) -> tuple[Replica, dict[str, Answer]]:
        """With the most slots that fit: two compilations give the line of memory against slots, a third confirms."""
        shards = slice_.chips_a_host * replica.hosts // replica.tensor
        fewer = max(_LEAST, replica.slots // 2 // shards * shards)
        if fewer == replica.slots:
            return replica, answers
        less = self._ask(slice_, "augment", dataclasses.replace(replica, slots=fewer))
        most = finetuning.line_to(limit(answers), (fewer, needed(less)), (replica.slots, needed(answers)))
        most = min(_MOST * shards, most // shards * shards)

        def ask(slots: int) -> dict[str, Answer]:
            return self._ask(slice_, "augment", dataclasses.replace(replica, slots=slots))

        most = finetuning.confirm(most, replica.slots, lambda slots: _fits(ask(slots)), shards)
        return dataclasses.replace(replica, slots=most), ask(most)


def needed(answers: dict[str, Answer]) -> int:
    """Bytes a chip: of a step of decoding, or of the longest prefill beside the slots' cache, whichever is more."""
    beside = answers["generate"].memory.get("aliased", 0) if "generate" in answers else 0
    return max(answer.total + (beside if kind == "prefill" else 0) for kind, answer in answers.items())


def limit(answers: dict[str, Answer]) -> int:
    """Bytes a chip that the compiler gives."""
    return next(iter(answers.values())).limit


def _fits(answers: dict[str, Answer]) -> bool:
    return all(not answer.refused for answer in answers.values()) and needed(answers) <= limit(answers)


def _hosts(slice_: Slice) -> list[int]:
    """How many hosts a replica may have, so that whole replicas fill a slice."""
    return [hosts for hosts in _POWERS if not slice_.hosts_in_one % hosts]


def _longest(layout: Layout) -> int:
    """Tokens of the longest prompts that are read together, with what fills them up."""
    return layout.rows(layout.buckets[-1]) * layout.buckets[-1]


def _prefill(answers: dict[str, Answer]) -> Answer | None:
    """Of the program that reads the longest prompts; None when there is none, or it was refused."""
    return _taken(answers, "prefill") or _taken(answers, "read")


def _taken(answers: dict[str, Answer], kind: str) -> Answer | None:
    return answers[kind] if kind in answers and not answers[kind].refused else None
