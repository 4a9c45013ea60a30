"""The peers of tests/benchmarks/decode.py: the forms in which each is tried, and how one does its share of a workload."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import common

TRANSFORMERS, TUNIX, LLAMA_CPP = "transformers_peer.py", "tunix_peer.py", "llama_cpp_peer.py"
TRIAL = 16  # prompts of a trial: those in the middle of the lengths
F32, BF16 = "float32", "bfloat16"
_SHORT = {F32: "f32", BF16: "bf16"}


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to run a peer. batch: prompts at once; `continuous`: by its own continuous batching with as many slots; `head`:
    what all prompts begin with is read once.
    """

    script: str
    dtype: str
    batch: int
    head: bool = False
    continuous: bool = False

    @property
    def name(self) -> str:
        """As it is shown."""
        peer = self.script.removesuffix("_peer.py")
        how = f"continuous batching, {self.batch} slots" if self.continuous else f"batches of {self.batch}"
        return f"{peer} {_SHORT.get(self.dtype, self.dtype)}, {how}{', common head read once' if self.head else ''}"


def _both(*forms: Form) -> list[Form]:
    return [dataclasses.replace(form, dtype=dtype) for form in forms for dtype in (BF16, F32)]


# What is tried for each workload. Larger batches of long prompts lose more to padding than they gain. With the head read once, a
# form has strictly less to do; without it is tried where the head is most of the prompt, to see what it gives. bf16 in Tunix is
# XLA's, slower on a CPU than its f32.
FORMS = {
    "augment": [
        *_both(Form(TRANSFORMERS, F32, 16), Form(TRANSFORMERS, F32, 8), Form(TRANSFORMERS, F32, 16, continuous=True)),
        Form(TUNIX, F32, 16),
    ],
    "rate": [
        *_both(Form(TRANSFORMERS, F32, 4), Form(TRANSFORMERS, F32, 4, head=True), Form(TRANSFORMERS, F32, 1, head=True)),
        *(Form(TRANSFORMERS, BF16, batch, head=True) for batch in (2, 8)),
    ],
    "sampled_rate": [
        *(Form(TRANSFORMERS, BF16, batch, head=True) for batch in (16, 8)),
        Form(TRANSFORMERS, BF16, 16, continuous=True),
        Form(TRANSFORMERS, F32, 8, head=True),
    ],
    "decode": _both(Form(TRANSFORMERS, F32, 16), Form(TUNIX, F32, 16), Form(TRANSFORMERS, F32, 16, continuous=True)),
}

# Of pure decoding, reported beside the others and no measure of ours: its weights have 4 bits.
REPORTED = Form(LLAMA_CPP, "q4_1", 16)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A workload as the peers get it: prompts (ids), new tokens (0: read the logits of `score_ids`), ends, length of the head."""

    prompts: Sequence[Sequence[int]]
    new_tokens: int
    ends: Sequence[int]
    score_ids: Sequence[int]
    head: int
    temperature: float
    top_p: float


@dataclasses.dataclass
class Work:
    """What a peer has done so far; `logits` by the number of the prompt."""

    seconds: float = 0.0
    records: int = 0
    tokens: int = 0
    later_seconds: float = 0.0  # from the first draws on
    later_tokens: int = 0
    logits: dict[int, list[float]] = dataclasses.field(default_factory=dict)

    def __add__(self, more: "Work") -> "Work":
        both = [vars(self)[name] + vars(more)[name] for name in ("seconds", "records", "tokens", "later_seconds", "later_tokens")]
        return Work(*both, self.logits | more.logits)

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


class Peers:
    """The peers' processes and models, started and loaded when they are first asked."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._processes: dict[str, common.Peer] = {}
        self._loaded: set[tuple[str, str]] = set()
        self.versions: dict[str, str] = {}  # of every peer that was asked anything

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes.values():
            process.__exit__(*error)

    def ask(self, script: str, do: str, **values: Any) -> dict[str, Any]:
        """Calls a function of a peer's script."""
        if script not in self._processes:
            self._processes[script] = common.Peer(script)
            self.versions |= self._processes[script].ask("versions")
        return self._processes[script].ask(do, **values)

    def stop(self, script: str) -> None:
        """Ends a peer's process, whose memory and threads nobody needs any more."""
        if process := self._processes.pop(script, None):
            process.__exit__()
            self._loaded = {(loaded, name) for loaded, name in self._loaded if loaded != script}

    def run(self, form: Form, asked: Asked, numbers: Sequence[Sequence[int]]) -> Work:
        """Does the batches of prompts (by their numbers); a continuous form gets them all at once."""
        # Continuous batching changes a model's attention, so it has one of its own.
        name = f"{form.dtype}{' continuous' if form.continuous else ''}"
        if (form.script, name) not in self._loaded:
            self.ask(form.script, "load", name=name, folder=str(self._folder), dtype=form.dtype)
            self._loaded.add((form.script, name))
        batches = [[[int(token) for token in asked.prompts[number]] for number in batch] for batch in numbers]
        records, head = sum(map(len, batches)), asked.head if form.head else 0
        if not asked.new_tokens:
            answer = self.ask(form.script, "read", name=name, batches=batches, token_ids=list(asked.score_ids), head=head)
            logits = dict(zip([number for batch in numbers for number in batch], answer["logits"], strict=True))
            return Work(answer["seconds"], records, logits=logits)
        drawing = {"new_tokens": asked.new_tokens, "ends": list(asked.ends), "temperature": asked.temperature, "top_p": asked.top_p}
        if form.continuous:
            prompts = [prompt for batch in batches for prompt in batch]
            answer = self.ask(form.script, "generate_continuously", name=name, prompts=prompts, slots=form.batch, **drawing)
        else:
            answer = self.ask(form.script, "generate", name=name, batches=batches, head=head, **drawing)
        if not asked.ends and answer["tokens"] != records * asked.new_tokens:
            raise ValueError(f"{form.name} wrote {answer['tokens']} tokens, not {records * asked.new_tokens}")
        return Work(records=records, **answer)


def batches(form: Form, asked: Asked) -> list[list[int]]:
    """The numbers of all prompts, longest first, in the form's batches."""
    order = sorted(range(len(asked.prompts)), key=lambda number: len(asked.prompts[number]), reverse=True)
    size = len(order) if form.continuous else form.batch
    return [order[start : start + size] for start in range(0, len(order), size)]


def try_all(peers: Peers, forms: Sequence[Form], asked: Asked) -> dict[Form, Work]:
    """What each form does with the prompts of middling length."""
    order = sorted(range(len(asked.prompts)), key=lambda number: len(asked.prompts[number]), reverse=True)
    start = max(0, (len(order) - TRIAL) // 2)
    few = dataclasses.replace(asked, prompts=[asked.prompts[number] for number in order[start : start + TRIAL]])
    done = {}
    for form in forms:
        shortest = dataclasses.replace(few, prompts=[few.prompts[-1]] * 2, new_tokens=min(2, few.new_tokens))
        if form.script == TRANSFORMERS:  # Tunix leaves its compilation out itself
            peers.run(form, shortest, [[0, 1]])
        done[form] = peers.run(form, few, batches(form, few))
        common.say(f"trial: {form.name}: {done[form].rate:.2f} records/s")
    return done


def is_there(peers: Peers, script: str) -> bool:
    """Whether a peer that has to be built runs on this machine."""
    try:
        peers.ask(script, "versions")
    except SystemExit as error:
        common.say(f"{script} is left out: {error}")
        return False
    return True


def choose(trials: dict[Form, Work]) -> list[Form]:
    """The fastest form, and the fastest in f32 where that is another."""
    by_rate = sorted(trials, key=lambda form: trials[form].rate, reverse=True)
    return list(dict.fromkeys([by_rate[0], next(form for form in by_rate if form.dtype == F32)]))
