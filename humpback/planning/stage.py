"""What is said of one stage on one slice: the values that the table, --json and --apply are made of."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from humpback.planning.jobs import Answer
from humpback.planning.roofline import Times, Traffic
from humpback.planning.tpu_slices import Slice


@dataclass(frozen=True)
class StagePlan:
    """One line of the plan.

    settings: config field -> value that the plan takes. shape: how they read. needed, limit: bytes a chip; memory: arguments and
    temporaries of them. traffic: kind -> (times, bytes a chip) of a step. times: of a step of training or of decoding, or, where
    nothing is decoded, of the longest prompts. bound: what the whole stage waits for. flops: of a step of training, or of a record, by
    formula, on all chips. idle: the share of a step's rows that only fills up. most: the most rows, or
    slots, a chip that fit, when that was searched, as a compilation confirmed. notes: what was tried when it did not fit, and of what
    lengths rows are. kernels: of Pallas in a step, and their FLOPs a chip.
    """

    slice: Slice
    stage: str
    settings: dict[str, Any]
    shape: str
    fits: bool
    needed: int
    limit: int
    memory: dict[str, int]
    traffic: Traffic
    flops: float
    times: Times
    bound: str
    idle: float
    tokens: float  # of the whole stage, without padding
    records: float  # examples seen, or records served
    hours: float
    most: float | None = None
    notes: tuple[str, ...] = ()
    kernels: int = 0
    kernel_flops: float = 0.0
    answers: tuple[tuple[str, Answer], ...] = field(default=(), repr=False)

    @property
    def chip_hours(self) -> float:
        """Of the whole slice."""
        return self.hours * self.slice.chips

    @property
    def headroom(self) -> int:
        """Bytes a chip that are left; negative: that are missing."""
        return self.limit - self.needed

    @property
    def tokens_a_second(self) -> float:
        """A chip."""
        return self.tokens / self.chip_hours / 3600

    @property
    def records_a_second(self) -> float:
        """A chip."""
        return self.records / self.chip_hours / 3600

    def to_json(self, price: float | None) -> dict[str, Any]:
        """For --json: bytes, seconds, hours, and cost in the price's currency."""
        values = {name: getattr(self, name) for name in ("stage", "settings", "shape", "fits", "needed", "limit", "headroom", "memory",
                  "flops", "bound", "idle", "hours", "chip_hours", "tokens_a_second", "records_a_second", "most")}  # fmt: skip
        times = {**dataclasses.asdict(self.times), "roofline": self.times.roofline}
        traffic = {kind: {"times": times_, "bytes": payload} for kind, (times_, payload) in self.traffic.items()}
        programs = {label: dataclasses.asdict(answer) for label, answer in self.answers}
        cost = None if price is None else price * self.chip_hours
        return {**values, "times": times, "traffic": traffic, "notes": list(self.notes), "cost": cost, "programs": programs}
