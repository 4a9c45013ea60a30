"""What may be chosen for decoding on a slice, and what by the model alone is the fastest: nothing is compiled.

`plan` begins with it and asks the compiler; a run on TPUs takes it as it is (stages/fitting.py).
"""

import bisect
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from humpback.config import FOUND, Config
from humpback.decoding import buckets, executables
from humpback.decoding.executables import Layout
from humpback.model.weights import LlamaConfig
from humpback.planning import choices, loaded, roofline
from humpback.planning.jobs import Answer, Decode, Place
from humpback.planning.loaded import Loaded
from humpback.planning.tpu_slices import Slice
from humpback.planning.workload import Requests

MOST = 256  # slots of the chips that share a matrix: more gain little, as the cache is then most of what is read
LEAST = 4  # slots of a replica, config.decoding.slots' own
PREFILL_TOKENS = (4_096, 2_048, 1_024, 512)  # more are read no faster
_NO_BETTER = 1.02  # a replica of more hosts must be faster by more than this
_POWERS = [2**power for power in range(10)]


@dataclass(frozen=True)
class Replica:
    """What may be chosen: hosts of a replica, chips that share a matrix, slots, prompt tokens read at once, the form of the weights."""

    hosts: int
    tensor: int
    slots: int
    prefill_tokens: int
    weights: str

    @property
    def settings(self) -> dict[str, Any]:
        """As fields of the config."""
        return {
            "decoding.slots": self.slots, "decoding.tensor": self.tensor, "decoding.processes_per_replica": self.hosts,
            "decoding.prefill_tokens": self.prefill_tokens, "decoding.weights": self.weights,
        }  # fmt: skip


class Replicas:
    """One config's. requests: of `augment`, whose programs have the longer rows, and `rate`. What the config says is not chosen."""

    def __init__(self, cfg: Config, model: LlamaConfig, requests: Mapping[str, Requests]):
        self._cfg, self.model, self.requests = cfg, model, requests
        self._most_classes = cfg.decoding.classes or buckets.CLASSES
        self._lengths = {stage: self._buckets(each) for stage, each in requests.items()}
        self._records = {stage: self._by_bucket(stage) for stage in requests}

    def _buckets(self, requests: Requests) -> tuple[int, ...]:
        """As an engine chooses them that has seen a sample of many prompts."""
        own = self._cfg.decoding.length - requests.prefix
        return tuple(dict.fromkeys((*buckets.choose(requests.prompts, own, buckets.MOST - 1), own)))

    def _by_bucket(self, stage: str) -> dict[int, int]:
        """How many prompts of the sample are padded to which length."""
        buckets = self._lengths[stage]
        return dict(sorted(Counter(next(b for b in buckets if own <= b) for own in self.requests[stage].prompts).items()))

    def tensors(self, chips: int) -> list[int]:
        """How many of so many chips may share a matrix: powers of two that divide query heads, no more than there are key heads."""
        m, given = self.model, self._cfg.decoding.tensor
        return [given] if given > 0 and not chips % given else [
            t for t in _POWERS if t <= min(chips, m.num_kv_heads) and not m.num_heads % t and not m.d_ff % t
        ]  # fmt: skip

    def hosts(self, slice_: Slice) -> list[int]:
        """How many hosts a replica may have, so that whole replicas fill a slice."""
        possible = [hosts for hosts in _POWERS if not slice_.hosts_in_one % hosts]
        given = self._cfg.decoding.processes_per_replica
        return [given] if given in possible else possible

    def candidates(self, slice_: Slice, weights: str) -> Iterator[Replica]:
        """With the slots that should fit, fewest hosts first."""
        given = self._cfg.decoding.prefill_tokens
        for hosts in self.hosts(slice_):
            for tensor in self.tensors(hosts * slice_.chips_a_host):
                for tokens in (given,) if given != FOUND else PREFILL_TOKENS:
                    replica = Replica(hosts, tensor, LEAST, tokens, weights)
                    if slots := self._slots(slice_, replica):
                        yield dataclasses.replace(replica, slots=slots)

    def best(self, slice_: Slice, weights: str) -> Replica | None:
        """The fastest by the model alone; None when none should fit."""
        best, rate = None, 0.0
        for replica in self.candidates(slice_, weights):
            found = 1 / sum(self.times(slice_, stage, replica, {}).seconds for stage in self.requests) / replica.hosts
            if found > rate * (_NO_BETTER if best and replica.hosts > best.hosts else 1):
                best, rate = replica, found
        return best

    def estimate(self, slice_: Slice, replica: Replica) -> Loaded:
        """Of the stage that takes most."""
        each = [loaded.estimate(self.job(slice_, stage, replica), self.reads(stage), self._most_classes) for stage in self.requests]
        return max(each, key=lambda estimate: estimate.total)

    def _slots(self, slice_: Slice, replica: Replica) -> int:
        """The most that are estimated to fit beside all that is loaded, or those that the config says if they fit; 0: none."""
        shards, given = replica.hosts * slice_.chips_a_host // replica.tensor, self._cfg.decoding.slots

        def needed(slots: int) -> int:
            return self.estimate(slice_, dataclasses.replace(replica, slots=slots * shards)).total

        most = bisect.bisect_right(range(1, MOST + 1), choices.SURE * choices.limit_of(slice_), key=needed)
        if given != FOUND:
            return given if given <= most * shards else 0
        slots = most // 4 * 4 if most > 4 else most
        return slots * shards if slots * shards >= LEAST else 0

    def job(self, slice_: Slice, stage: str, replica: Replica, program: str = "generate") -> Decode:
        """A program of a stage."""
        chips, d = slice_.chips_a_host * replica.hosts, self._cfg.decoding
        sampler = self._cfg.augment if stage == "augment" else self._cfg.curate
        place = Place(slice_.part(chips).topology, 1, chips // replica.tensor, replica.tensor)
        slots = LEAST * place.groups if program.startswith(("prefill", "read")) else replica.slots  # reading is the same beside any slots
        return Decode(
            place, self.model, program, slots, d.length, self.requests[stage].prefix, d.compute_dtype, d.steps_per_visit,
            replica.prefill_tokens, replica.weights, sampler.temperature, sampler.top_p, self._lengths[stage],
        )  # fmt: skip

    def reads(self, stage: str) -> bool:
        """Whether the stage only reads prompts."""
        return stage == "rate" and self._cfg.curate.mode == "expected"

    def times(self, slice_: Slice, stage: str, replica: Replica, answers: dict[str, Answer]) -> roofline.Times:
        """Of a record, on a replica: its share of reading prompts and of steps, and of the host's visits."""
        requests, job = self.requests[stage], self.job(slice_, stage, replica)
        layout, part = job.layout(), slice_.part(job.place.chips)
        count, parts, steps = len(requests.prompts), [], 0.0
        compiled = _prefill(answers)
        for bucket, records in self._records[stage].items():
            rows = layout.rows(bucket)
            traffic = roofline.decode_traffic(job, rows * bucket)
            if compiled:
                share = rows * bucket / longest(layout)
                traffic = {kind: (n, round(sent * share)) for kind, (n, sent) in compiled.traffic.items()}
            times = roofline.prefill_times(job, part, traffic, rows, bucket)
            if compiled:
                cycles = round(compiled.cycles * rows * bucket / longest(layout))
                times = roofline.with_cycles(times, cycles, roofline.attention_seconds(job, part, rows, bucket), part)
            parts.append(times.times(records / count / rows))
            if inserting := _taken(answers, "insert"):
                share = records / count / rows * rows * bucket / longest(layout)
                parts.append(roofline.insert_times(job, part, inserting).times(share))
        for share, row in self.classes(slice_, stage, replica):  # a step of decoding serves all slots of a class
            new = share * sum(requests.answers) / count
            parts.append(self.step(slice_, stage, replica, answers, row).times(new / row.slots))
            # A visit of the host ends when a row does, or after steps_per_visit.
            steps += new / row.slots * min(1.0, max(share * row.slots / new, 1 / job.steps))
        total = roofline.total(parts)
        visits = steps or 1 / layout.shards
        return dataclasses.replace(total, seconds=total.seconds + roofline.HOST_SECONDS * visits)

    def classes(self, slice_: Slice, stage: str, replica: Replica) -> list[tuple[float, Decode]]:
        """The share of the records that each class of rows serves, and its `generate`, as an engine chooses them; none of a stage that
        only reads."""
        requests, job = self.requests[stage], self.job(slice_, stage, replica)
        if not sum(requests.answers):
            return []
        records, layout, most_new = self._records[stage], job.layout(), max(requests.most_new, *requests.answers)
        each, own = requests.records / len(requests.prompts), layout.own
        weighed = dict.fromkeys(job.lengths, 0.0) | {bucket: count * each for bucket, count in records.items()}
        limits = buckets.classes(weighed, most_new, own, job.slots, self._most_classes)
        found = []
        for row in executables.classes(layout, limits, most_new):
            share = sum(records.get(bucket, 0) for bucket in row.buckets) / len(requests.prompts)
            if share:
                found.append((share, dataclasses.replace(job, slots=row.slots, length=row.length, lengths=row.lengths)))
        return found

    def step(self, slice_: Slice, stage: str, replica: Replica, answers: dict[str, Answer], row: Decode | None = None) -> roofline.Times:
        """Of one step of decoding of all slots; of a stage that only reads, of the longest prompts that are read together.

        row: the `generate` of a class of rows; what the compiler said of the whole rows' is taken as far as the model differs.
        """
        job = self.job(slice_, stage, replica)
        layout, part = job.layout(), slice_.part(job.place.chips)
        if self.reads(stage):
            bucket, answer = layout.buckets[-1], _prefill(answers)
            traffic = answer.traffic if answer else roofline.decode_traffic(job, longest(layout))
            times = roofline.prefill_times(job, part, traffic, layout.rows(bucket), bucket)
            kernels = roofline.attention_seconds(job, part, layout.rows(bucket), bucket)
            return roofline.with_cycles(times, answer.cycles if answer else 0, kernels, part)
        answer = _taken(answers, "generate")
        traffic = answer.traffic if answer else roofline.decode_traffic(job, job.slots)
        whole = roofline.decode_times(job, part, traffic, answer.memory["arguments"] if answer else None)
        if row is None or row.slots == job.slots:
            return roofline.with_cycles(whole, answer.cycles if answer else 0, roofline.write_seconds(job, part), part)
        share = row.slots / job.slots
        traffic = {kind: (n, round(sent * share)) for kind, (n, sent) in traffic.items()}
        times = roofline.decode_times(row, part, traffic)
        cycles = round(answer.cycles * times.roofline / whole.roofline) if answer else 0
        return roofline.with_cycles(times, cycles, roofline.write_seconds(row, part), part)


def text(slice_: Slice, replica: Replica) -> str:
    """A choice as it is shown."""
    chips = slice_.chips_a_host * replica.hosts
    weights = "; int8" if replica.weights == "int8" else ""
    return f"tensor {replica.tensor} of {chips} chips a replica; {replica.slots} slots{weights}"


def longest(layout: Layout) -> int:
    """Tokens of the longest prompts that are read together, with what fills them up."""
    return layout.rows(layout.buckets[-1]) * layout.buckets[-1]


def _prefill(answers: dict[str, Answer]) -> Answer | None:
    """Of the program that reads the longest prompts; None when there is none, or it was refused."""
    return _taken(answers, "prefill") or _taken(answers, "read")


def _taken(answers: dict[str, Answer], kind: str) -> Answer | None:
    return answers[kind] if kind in answers and not answers[kind].refused else None
