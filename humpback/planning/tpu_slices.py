"""The slices that the cloud offers of the TPU chips, and their names."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from humpback.chips import CHIPS, REFUSED, Chip
from humpback.errors import UserError
from humpback.rounding import ceil_div

# Chips of a slice -> its usual shape; larger ones can be named by their shape, as in v4:8x8x12.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_SOLID = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8", 1024: "8x8x16",
    2048: "8x16x16", 4096: "16x16x16",
}  # fmt: skip
_NAME = re.compile(r"(?:([1-9]\d*)x)?(v4|v5e|v5litepod|v5p|v6e)(?:-([1-9]\d*)|:([1-9]\d*(?:x[1-9]\d*)*))")
_HOST, _WHOLE_HOST = 4, 8  # chips of a host; a slice of eight v5e or v6e has them all on one


@dataclass(frozen=True)
class Slice:
    """Slices of one shape. name: as it was asked for; sizes: of its axes; count: how many, joined by the data centre's network;
    host: chips that one process sees, 0 for those of the cloud's machines."""

    name: str
    generation: str
    sizes: tuple[int, ...]
    count: int = 1
    host: int = 0

    @property
    def chip(self) -> Chip:
        """The figures of its chips."""
        return CHIPS[self.generation]

    @property
    def topology(self) -> str:
        """The name that planning.compile.topology takes, of one of them."""
        return f"{self.generation}:{'x'.join(map(str, self.sizes))}"

    @property
    def chips_in_one(self) -> int:
        """Of one slice."""
        return math.prod(self.sizes)

    @property
    def chips(self) -> int:
        """Of all."""
        return self.count * self.chips_in_one

    @property
    def chips_a_host(self) -> int:
        """Chips that one process sees."""
        return self.host or min(self.chips_in_one, _WHOLE_HOST if self.chip.axes == 2 and self.chips_in_one <= _WHOLE_HOST else _HOST)

    @property
    def hosts_in_one(self) -> int:
        """Processes of one slice."""
        return self.chips_in_one // self.chips_a_host

    def speed(self, chips: int) -> float:
        """Bytes/s into a chip from so many that lie together: the links of as many axes as these take, the largest first. An axis that
        is no ring has one link the way."""
        speed, left = 0.0, chips
        for size in sorted(self.sizes, reverse=True):
            if left > 1 and size > 1:
                speed += self.chip.link * (2 if size % self.chip.ring == 0 else 1)
                left = ceil_div(left, size)
        return speed or self.chip.link

    def part(self, chips: int) -> "Slice":
        """So many of its chips, whole hosts of them, as a slice of its own: where a replica decodes."""
        if chips == self.chips_in_one:
            return self
        if chips in _shapes(self.generation):
            return named(self.generation, chips)
        return Slice(f"{chips} {self.generation}", self.generation, (chips, *(1,) * (self.chip.axes - 1)))

    def larger(self) -> "Slice | None":
        """The next larger slice of the same generation that has a name; None when there is none."""
        known = _shapes(self.generation)
        return next((named(self.generation, chips, self.count) for chips in known if chips > self.chips_in_one), None)


def parse(name: str) -> Slice:
    """`v5e-32`, `v5litepod-32`, `v4-32` (TensorCores: 16 chips), a shape (`v5e:4x8`), several (`2xv5e-16`). UserError for anything else."""
    match = _NAME.fullmatch(name)
    if refused := next((generation for generation in REFUSED if re.match(rf"(\d+x)?{generation}[-:]", name)), None):
        raise UserError(f"TPU slice {name!r}: {refused} is not planned for: its chips are two devices each; take {', '.join(CHIPS)}")
    if not match:
        raise UserError(f"TPU slice {name!r}: must be a name of the cloud's, as v5e-32, v4-32, v5p-16 or v6e-16; a shape, as v5e:4x8; "
                        "or several of one sort, as 2xv5e-16")  # fmt: skip
    generation, count = match[2].replace("v5litepod", "v5e"), int(match[1] or 1)
    shapes, cores = _shapes(generation), CHIPS[generation].cores
    if match[4]:
        sizes = tuple(map(int, match[4].split("x")))
        if len(sizes) != CHIPS[generation].axes:
            raise UserError(f"TPU slice {name!r}: {generation} has {CHIPS[generation].axes} sizes, as in {generation}:{shapes[8]}")
        return Slice(name, generation, sizes, count)
    chips, rest = divmod(int(match[3]), cores)
    if rest or chips not in shapes:
        counted = "TensorCores, two a chip" if cores == 2 else "chips"
        raise UserError(
            f"TPU slice {name!r}: {generation} counts {counted}, and has {', '.join(f'{generation}-{n * cores}' for n in shapes)}; "
            f"another shape can be named as in {generation}:{shapes[8]}"
        )
    return Slice(name, generation, tuple(map(int, shapes[chips].split("x"))), count)


def named(generation: str, chips: int, count: int = 1) -> Slice:
    """The slice of so many chips that has a name."""
    name = f"{generation}-{chips * CHIPS[generation].cores}"
    return parse(name if count == 1 else f"{count}x{name}")


def of_devices(devices: Sequence[Any], host: int) -> Slice | None:
    """What these devices of JAX are, of which one process sees `host`; None where they are no TPUs of the table."""
    generation = next((name for name, chip in CHIPS.items() if chip.kind == devices[0].device_kind), None)
    if generation is None:
        return None
    count = len({getattr(device, "slice_index", 0) for device in devices})
    chips, axes = len(devices) // count, CHIPS[generation].axes
    spans = tuple(len({device.coords[axis] for device in devices}) for axis in range(axes))
    sizes = spans if math.prod(spans) == chips else (chips, *(1,) * (axes - 1))
    return Slice(f"{len(devices)} {CHIPS[generation].kind}", generation, sizes, count, host)


def sizes(generation: str) -> list[int]:
    """Chips of the slices that have names."""
    return list(_shapes(generation))


def _shapes(generation: str) -> dict[int, str]:
    return _FLAT if CHIPS[generation].axes == 2 else _SOLID
