"""What is published of the TPU chips, and what their compiler says of them, in one table.

Units: FLOP/s, bytes, bytes/s; G is 1e9, Gi is 2**30. Sources, read in November 2026:
  [v4], [v5e], [v5p], [v6e]  Cloud TPU's documentation, the page of each generation: peak bf16 compute, HBM capacity and bandwidth,
                             chips a host, slice shapes; interconnect of v5e, v5p, v6e: "bidirectional ICI bandwidth per chip", half of
                             which goes one way over the chip's 4 or 6 links; data centre network: per chip [v5p], or per pod of 256 chips
  [isca23]                   Jouppi et al., "TPU v4", ISCA 2023, table 4: six links of 50 GB/s each way
  [scaling]                  "How To Scale Your Model", part 2: the data centre network of v4
  limit                      the compiler's own word: what it refuses a larger program with
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """A generation's figures. kind, libtpu: its names in JAX and in libtpu; memory: bytes of HBM; limit: those that the compiler gives a
    program; link: bytes/s one way over one link; links: of a chip, two an axis; network: bytes/s to other slices; cores: TensorCores a
    chip, which are what the names of v4's and v5p's slices count; ring: an axis of a slice is a ring when its size is a multiple of this;
    clock: cycles a second, by which the matrix units of a chip come to its FLOP/s: v4, v5p 8 and v5e 4 of 2 · 128² FLOPs a cycle, v6e 4
    of 2 · 256².
    """

    kind: str
    libtpu: str
    flops: float
    memory: int
    limit: int
    bandwidth: float
    link: float
    links: int
    network: float
    cores: int
    ring: int
    clock: float

    @property
    def axes(self) -> int:
        """Of its slices."""
        return self.links // 2

    @property
    def megacore(self) -> bool:
        """Whether a chip's two cores are one device."""
        return self.cores == 2


_GIB = 2**30
# What the compiler knows too, and nothing here does: JAX sees two devices in a chip of these, each with half of its memory, while all
# that is planned and found takes a chip for one device.
REFUSED = {"v2": "TPU v2", "v3": "TPU v3", "tpu7x": "TPU7x"}
CHIPS = {
    "v4": Chip(
        "TPU v4", "v4", 275e12, 32 * _GIB, int(30.75 * _GIB), 1200e9, 50e9, links=6, network=6.25e9, cores=2, ring=4, clock=1.05e9
    ),
    "v5e": Chip(
        "TPU v5 lite", "v5e", 197e12, 16 * _GIB, int(15.75 * _GIB), 819e9, 50e9, links=4, network=3.125e9, cores=1, ring=16, clock=1.5e9
    ),
    "v5p": Chip(
        "TPU v5", "v5", 459e12, 95 * _GIB, int(95.73 * _GIB), 2765e9, 100e9, links=6, network=6.25e9, cores=2, ring=4, clock=1.75e9
    ),
    "v6e": Chip(
        "TPU v6 lite", "v6e", 918e12, 32 * _GIB, int(31.24 * _GIB), 1638e9, 100e9, links=4, network=12.5e9, cores=1, ring=16, clock=1.75e9
    ),
}


def of_device(kind: str) -> Chip | None:
    """The chip whose devices JAX calls so; None for others, as a CPU."""
    return next((chip for chip in CHIPS.values() if chip.kind == kind), None)
