"""The plan of the decoding stages on a slice: the chips of a replica, its mesh and slots, the memory that they take, records a second."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from humpback.config import Config
from humpback.model.weights import LlamaConfig
from humpback.planning import finetuning, loaded, roofline
from humpback.planning.cache import Compiler
from humpback.planning.jobs import Answer
from humpback.planning.replicas import LEAST, MOST, PREFILL_TOKENS, Replica, Replicas, text
from humpback.planning.stage import StagePlan
from humpback.planning.tpu_slices import Slice
from humpback.planning.workload import Requests
from humpback.rounding import ceil_div
from humpback.training.flops import layer_weights

_TRIES = 6


@dataclass(frozen=True)
class Programs:
    """The compiler's answers for a stage's largest programs, by kind; `buckets` is how many lengths of prompts each of them stands for,
    `classes` how many lengths of rows."""

    answers: dict[str, Answer]
    buckets: int
    classes: int

    @property
    def needed(self) -> int:
        """Bytes a chip of all that is loaded; of what is refused, or was not asked for after that, the largest program alone."""
        whole = "read" in self.answers or self.answers.keys() >= {"generate", "prefill", "insert"}
        refused = any(answer.refused for answer in self.answers.values())
        if refused or not whole:
            return max(answer.total for answer in self.answers.values())
        return loaded.compiled(self.answers, self.buckets, self.classes).total

    @property
    def limit(self) -> int:
        """Bytes a chip that the compiler gives."""
        return next(iter(self.answers.values())).limit

    @property
    def fits(self) -> bool:
        """Whether all of it does."""
        return all(not answer.refused for answer in self.answers.values()) and self.needed <= self.limit


class Serving:
    """Plans one slice's decoding. requests: of `augment`, whose programs have the longer rows, and `rate`; asked_tokens: of a prompt of
    `answers`."""

    def __init__(
        self, cfg: Config, model: LlamaConfig, requests: Mapping[str, Requests], compiler: Compiler, quick: bool, asked_tokens: int = 0
    ):
        self._asked_tokens = asked_tokens
        self._cfg, self._model, self._compiler, self._quick, self._requests = cfg, model, compiler, quick, requests
        self._replicas = Replicas(cfg, model, requests)

    def plan(self, slice_: Slice) -> list[StagePlan]:
        """Both stages, with the same replicas, and `answers` where it is on. What does not fit is tried otherwise."""
        replica = self._replicas.best(slice_, self._cfg.decoding.weights) or self._widest(slice_)
        answers = self._ask(slice_, "augment", replica)
        notes: list[str] = []
        if not answers.fits:
            replica, answers, notes = self._rescue(slice_, replica, answers)
        searched = not self._quick and answers.fits
        if searched:
            replica, answers = self._most(slice_, replica, answers)
        plans = []
        for stage in self._requests:
            # Rating runs the same functions on shorter rows: what fits for augmentation fits for it.
            own = answers if stage == "augment" or self._quick or not answers.fits else self._ask(slice_, stage, replica)
            chips = slice_.chips_a_host * replica.hosts
            plan = self._described(slice_, stage, replica, own, tuple(notes if stage == "augment" else ()))
            plans.append(dataclasses.replace(plan, most=replica.slots / chips if searched else None))
        return [*plans, self._asked(slice_, replica, plans[0])] if self._cfg.answers.prompts else plans

    def _asked(self, slice_: Slice, replica: Replica, augment: StagePlan) -> StagePlan:
        """The held-out prompts to the base and every M_t, with the programs of `augment`. Mostly they are fewer than the slots, so what
        counts is the steps of an answer."""
        cfg, models = self._cfg.answers, self._cfg.iterations + 2
        rounds = ceil_div(cfg.prompts, replica.slots * slice_.count * slice_.hosts_in_one // replica.hosts)
        tokens, records = self._asked_tokens + cfg.max_new_tokens, models * cfg.prompts
        return dataclasses.replace(
            augment, stage="answers", flops=self._flops(tokens), tokens=records * tokens, records=records, most=None, notes=(), answers=(),
            hours=models * rounds * cfg.max_new_tokens * augment.times.seconds / 3600,
        )  # fmt: skip

    def _widest(self, slice_: Slice) -> Replica:
        """The fewest hosts that split a matrix as far as it can be, with the fewest slots; or what the config says."""
        d = self._cfg.decoding
        tensors = {hosts: self._replicas.tensors(hosts * slice_.chips_a_host)[-1] for hosts in self._replicas.hosts(slice_)}
        hosts = min(tensors, key=lambda hosts: (-tensors[hosts], hosts))
        slots = d.slots or max(LEAST, hosts * slice_.chips_a_host // tensors[hosts])
        return Replica(hosts, tensors[hosts], slots, d.prefill_tokens or PREFILL_TOKENS[-1], d.weights)

    def _programs(self, slice_: Slice, stage: str, replica: Replica) -> list[str]:
        longest = self._replicas.job(slice_, stage, replica).lengths[-1]
        return [f"read {longest}"] if self._replicas.reads(stage) else ["generate", f"prefill {longest}", f"insert {longest}"]

    def _ask(self, slice_: Slice, stage: str, replica: Replica) -> Programs:
        """The stage's largest programs; another one is not asked for when those before it do not fit."""
        classes = max(1, len(self._replicas.classes(slice_, stage, replica)))
        programs = Programs({}, len(self._replicas.job(slice_, stage, replica).lengths), classes)
        for program in self._programs(slice_, stage, replica):
            job = self._replicas.job(slice_, stage, replica, program)
            if not programs.answers or programs.fits:
                kind = program.split()[0]
                programs.answers[kind] = self._compiler.ask(job, f"{slice_.name} {stage} {kind} ({text(slice_, replica)})")
        return programs

    def _described(
        self, slice_: Slice, stage: str, replica: Replica, programs: Programs, notes: tuple[str, ...]
    ) -> StagePlan:
        answers, requests = programs.answers, self._requests[stage]
        times = self._replicas.times(slice_, stage, replica, answers)
        step = answers.get("generate") or next(iter(answers.values()))
        repeats = self._cfg.iterations if stage == "rate" else 1
        records, replicas = requests.records * repeats, slice_.count * slice_.hosts_in_one // replica.hosts
        classes = self._replicas.classes(slice_, stage, replica)
        if programs.fits and len(classes) > 1:
            shown = ", ".join(f"{row.slots} slots of {row.length} tokens for {share:.0%}" for share, row in classes)
            notes = (*notes, f"classes of rows, in the same memory: {shown}")
        tokens = requests.tokens
        return StagePlan(
            slice_, stage, dict(replica.settings), text(slice_, replica), programs.fits, programs.needed, step.limit, step.memory,
            step.traffic, self._flops(tokens, requests.prefix), self._replicas.step(slice_, stage, replica, answers), times.bound, 0.0,
            records * tokens, records, records * times.seconds / replicas / 3600, notes=notes, kernels=step.kernels,
            kernel_flops=self._kernel_flops(slice_, stage, replica),
            answers=tuple((f"{stage} {kind}", answer) for kind, answer in answers.items()),
        )  # fmt: skip

    def _flops(self, tokens: float, prefix: int = 0) -> float:
        """Of a record of so many tokens, of which those of the prefix were read before."""
        m = self._model
        weights = layer_weights(m) + m.d_model * m.vocab_size
        return 2 * weights * (tokens - prefix) + 2 * m.num_layers * m.num_heads * m.head_dim * tokens**2

    def _kernel_flops(self, slice_: Slice, stage: str, replica: Replica) -> float:
        """Of what a step, or the reading of the longest prompts, does in kernels; those that write multiply nothing."""
        if not self._replicas.reads(stage):
            return 0.0
        job = self._replicas.job(slice_, stage, replica)
        return roofline.attention_operations(job, job.layout().rows(job.lengths[-1]), job.lengths[-1])

    def _rescue(self, slice_: Slice, replica: Replica, answers: Programs) -> tuple[Replica, Programs, list[str]]:
        """Others, in this order, until one fits: fewer slots, another mesh or more hosts, int8 weights, larger slices."""
        notes = [f"{text(slice_, replica)} needs {(answers.needed - answers.limit) / 2**30:.2f} GiB a chip more than there is"]
        for tried, (what, where, other) in enumerate(self._others(slice_, replica)):
            if tried == _TRIES:
                break
            found = self._ask(where, "augment", other)
            if found.fits:
                notes.append(f"fits first with {what}: {text(where, other)}")
                return (other, found, notes) if where == slice_ and other.weights == replica.weights else (replica, answers, notes)
            notes.append(f"{what}: {(found.needed - found.limit) / 2**30:.2f} GiB too much")
        return replica, answers, notes

    def _others(self, slice_: Slice, replica: Replica) -> Iterator[tuple[str, Slice, Replica]]:
        shards = slice_.chips_a_host * replica.hosts // replica.tensor
        for share in (4, 2):
            slots = max(LEAST, replica.slots * (share - 1) // share // shards * shards)
            if slots < replica.slots:
                yield f"{slots} slots", slice_, dataclasses.replace(replica, slots=slots)
        for other in self._replicas.candidates(slice_, replica.weights):
            if (other.hosts, other.tensor) > (replica.hosts, replica.tensor):
                yield f"tensor = {other.tensor} of {other.hosts} hosts", slice_, other
                break
        if replica.weights != "int8" and (narrow := self._replicas.best(slice_, "int8")):
            yield "decoding.weights = int8", slice_, narrow
        for larger in finetuning.larger_than(slice_):
            if fitting := self._replicas.best(larger, replica.weights):
                yield larger.name, larger, fitting

    def _most(self, slice_: Slice, replica: Replica, answers: Programs) -> tuple[Replica, Programs]:
        """With the most slots that fit: two compilations give the line of memory against slots, a third confirms."""
        shards = slice_.chips_a_host * replica.hosts // replica.tensor
        fewer = max(LEAST, replica.slots // 2 // shards * shards)
        if fewer == replica.slots:
            return replica, answers
        less = self._ask(slice_, "augment", dataclasses.replace(replica, slots=fewer))
        most = finetuning.line_to(answers.limit, (fewer, less.needed), (replica.slots, answers.needed))
        most = min(MOST * shards, most // shards * shards)

        def ask(slots: int) -> Programs:
            return self._ask(slice_, "augment", dataclasses.replace(replica, slots=slots))

        most = finetuning.confirm(most, replica.slots, lambda slots: ask(slots).fits, shards)
        return dataclasses.replace(replica, slots=most), ask(most)
