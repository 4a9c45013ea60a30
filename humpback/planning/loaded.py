"""What lies on a chip while a stage decodes, all of it together: estimated, and from what the compiler says of the programs.

    weights + the slots' cache + the shared prefix's + the code of every program that is loaded
            + the prompts that are read and in no slot yet + what the program that takes most holds while it runs

Each program fits by itself where their sum does not: the code stays as long as a program may be called, and the prompts that were read
last lie beside `generate`. Estimates need no compiler. Their constants are from the compiler's answers for the sizes of model/sizes.py.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from humpback.decoding.executables import LOGITS, cache_bytes
from humpback.model import kernels
from humpback.planning import roofline
from humpback.planning.jobs import Answer, Decode

_MIB = 2**20
# Code of a layer of each program, which is unrolled, whatever its shapes.
_CODE_A_LAYER = {"prefill": 6.3 * _MIB, "read": 6.3 * _MIB, "generate": 0.5 * _MIB, "insert": 0.5 * _MIB}
_WIDTHS, _INNER_WIDTHS = 12, 9  # bytes a prompt's token takes while it is read, for each of d_model and of a chip's d_ff


@dataclass(frozen=True)
class Loaded:
    """Bytes a chip."""

    weights: float
    cache: float
    prefix: float
    code: float
    prompts: float
    running: float

    @property
    def total(self) -> int:
        """All of it."""
        return round(sum(dataclasses.astuple(self)))

    @property
    def fixed(self) -> int:
        """What no other program, and no smaller one, could do without: weights, cache and prefix."""
        return round(self.weights + self.cache + self.prefix)

    def text(self) -> str:
        """For a line: each part in GiB."""
        return ", ".join(f"{item.name} {getattr(self, item.name) / 2**30:.1f}" for item in dataclasses.fields(self))


def estimate(job: Decode, reads: bool = False, classes: int = 1) -> Loaded:
    """Of a stage with such a `generate`. reads: it only reads prompts. classes: of rows at most, each of which has a `generate`, with the
    slots that fill the same memory."""
    model, place, layout = job.model, job.place, job.layout()
    rows = {bucket: layout.rows(bucket) // place.groups for bucket in layout.buckets}  # on a chip
    tokens, most = max(rows[bucket] * bucket for bucket in rows), max(rows.values())
    slots = 0 if reads else job.slots // place.groups
    cache = slots * cache_bytes(model, layout.places, place.tensor)
    kinds = {"read": len(rows)} if reads else {"prefill": len(rows), "insert": len(rows), "generate": classes}
    logits = 4 * model.vocab_size * most
    reading = tokens * (_WIDTHS * model.d_model + _INNER_WIDTHS * model.d_ff / place.tensor) + 2 * logits
    return Loaded(
        weights=roofline.weight_bytes(model, job.weights) / place.tensor,
        cache=cache,
        prefix=cache_bytes(model, job.prefix, place.tensor) if job.prefix else 0.0,
        code=sum(count * _CODE_A_LAYER[kind] * model.num_layers for kind, count in kinds.items()),
        prompts=max(rows[bucket] * cache_bytes(model, bucket, place.tensor) for bucket in rows) + logits,
        # Of heads that do not fill the lanes `generate` holds the cache once more, as it writes them in another layout.
        running=max(reading, LOGITS * 4 * model.vocab_size * slots + (cache if model.head_dim % kernels.LANES else 0)),
    )


def compiled(answers: Mapping[str, Answer], buckets: int, classes: int = 1) -> Loaded:
    """The same from the compiler's answers, by kind of program, those of the longest bucket standing for all `buckets`, and that of whole
    rows for all `classes`.

    What the weights and the cache take is what the programs are given. Only for answers that are not refused.
    """
    reading = answers.get("prefill") or answers["read"]
    generate, insert = answers.get("generate"), answers.get("insert")
    given = (generate or reading).memory["arguments"]
    cache = generate.memory["aliased"] if generate else 0
    kept = [each for each in (reading, insert) if each]
    code = buckets * sum(each.memory["program"] for each in kept) + (classes * generate.memory["program"] if generate else 0)
    held = [_held(each) - (each.memory["outputs"] if each is reading else 0) for each in (*kept, generate) if each]
    return Loaded(given - cache, cache, 0, code, reading.memory["outputs"], max(held))


def _held(answer: Answer) -> int:
    """What a program takes beside its arguments and its code while it runs."""
    memory = answer.memory
    return memory["temporaries"] + memory["outputs"] - memory["aliased"]
