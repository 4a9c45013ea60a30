"""Compiles a jitted function for TPUs that are not here, with the TPU's real compiler (libtpu): does it fit, what does it send?

    mesh = sharding.make_mesh(tensor=8, devices=topology("v5e:2x4"))
    compiled = compile_for(function, arguments)  # whose shardings are on that mesh

The function is the one that a run calls, imported, never a copy. Nothing is executed, so no TPU is needed, only time and memory of
the host: a 7B takes a minute and 2 GiB. Set JAX_PLATFORMS=cpu where a TPU is here and others use it.
"""

import importlib.util
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from humpback import chips
from humpback.chips import CHIPS
from humpback.errors import UserError
from humpback.planning.collectives import Collective, read_collectives, read_cycles

GIB = 2**30
_TORUS = 4  # slices of whole 4x4x4 cubes are wired as a torus

# libtpu looks for a TPU virtual machine around it. With these it asks no server, complains of none missing, writes no log files,
# and lets another process load it at the same time.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
INSTALL = "pip install -c launch/constraints-bench.txt libtpu"

# Two of the compiler's checks, one before and one after it has placed every buffer. Both count the arguments, too, whatever they say.
_REFUSALS = (
    re.compile(r"\((?P<used>[\d.]+[KMGT]?)\) exceeds available HBM \((?P<limit>[\d.]+[KMGT]?)\)"),
    re.compile(r"Used (?P<used>[\d.]+[KMGT]?) of (?P<limit>[\d.]+[KMGT]?) hbm"),
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class DoesNotFit(UserError):
    """The compiler refuses a program that needs more memory than the chip has. used, limit: bytes a chip, as the compiler says."""

    def __init__(self, used: int, limit: int):
        super().__init__(
            f"the program needs {used / GIB:.2f} GiB a chip and the compiler gives it {limit / GIB:.2f}: "
            "take fewer or shorter rows, or more chips to split it over"
        )
        self.used, self.limit = used, limit


@dataclass(frozen=True)
class Memory:
    """Bytes a chip. aliased: the outputs that take the place of donated arguments; program: the instructions."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        """What the chip must have for it."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.program


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in one run of a program: how many, and their payload together, bytes a chip."""

    times: int
    payload: int


@dataclass(frozen=True)
class Compiled:
    """A compiled program. limit: bytes a chip that the compiler gives; text: the optimised program; seconds: of compiling; cycles: of
    one run, by the compiler's estimate, kernels apart."""

    memory: Memory
    limit: int
    collectives: tuple[Collective, ...]
    text: str
    seconds: float
    cycles: int = 0

    def traffic(self) -> dict[str, Traffic]:
        """Kind -> traffic of one run. A reduce-scatter counts as all-reduce: this compiler writes it as one and a slice."""
        totals: dict[str, Traffic] = {}
        for collective in self.collectives:
            kind = "all-reduce" if collective.kind == "reduce-scatter" else collective.kind
            before = totals.get(kind, Traffic(0, 0))
            totals[kind] = Traffic(before.times + collective.times, before.payload + collective.times * collective.payload)
        return totals


def topology(name: str, slices: int = 1) -> tuple[jax.Device, ...]:
    """The devices, one a chip, of a slice that is not here: `v4:2x2x1`, `v5e:2x4`, `v5p:4x4x4`, `v6e:4x4`; or of several such.

    A mesh of them can be compiled for, nothing else. The process that asks cannot use a TPU itself afterwards. Raises UserError
    without libtpu, for a name not of this form, and for a slice that libtpu refuses.
    """
    arguments = topology_arguments(name) | ({"num_slices": slices} if slices > 1 else {})
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"compiling for {name} needs libtpu, the TPU's compiler; in Humpback's folder: {INSTALL}")
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        return tuple(topologies.get_topology_desc(**arguments, platform="tpu").devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"libtpu refuses the slice {name!r}: {error}") from error


def topology_arguments(name: str) -> dict[str, Any]:
    """What to ask libtpu for. With other arguments another program comes out: without megacore a chip is two devices of half the
    memory, and without the torus every gather of a large slice becomes an all-reduce. Raises UserError as `topology` does."""
    label, _, sizes = name.partition(":")
    chip = CHIPS.get(label)
    if chip is None:
        raise UserError(f"TPU slice {name!r}: the generation must be one of {', '.join(CHIPS)}, as in v5e:2x4")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes) or sizes.count("x") != chip.axes - 1:
        example = "x".join(["4"] * chip.axes)
        raise UserError(f"TPU slice {name!r}: {label} has {chip.axes} sizes, as in {label}:{example}")
    arguments: dict[str, Any] = {"topology_name": f"{chip.libtpu}:{sizes}"}
    if chip.megacore:
        torus = all(int(size) % _TORUS == 0 for size in sizes.split("x"))
        arguments |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1), "wrap": (torus,) * 3}
    return arguments


def compile_for(function: Any, arguments: Sequence[Any], mesh: Mesh | None = None) -> Compiled:
    """Compiles a jitted function for the devices of a mesh of `topology`'s: the one that its arguments are on, if none is given.

    arguments: those of a call, in their order; static ones as they are, arrays as jax.ShapeDtypeStruct with a NamedSharding.
    Raises DoesNotFit when the compiler refuses the program for its memory, ValueError without such a mesh; other errors are
    the compiler's.
    """
    mesh = mesh or _mesh(arguments)
    started = time.perf_counter()
    return compile_lowered(lower_for(function, arguments, mesh), mesh, started)


def lower_for(function: Any, arguments: Sequence[Any], mesh: Mesh) -> jax.stages.Lowered:
    """The first half of `compile_for`: the program as it is given to the compiler."""
    memory_limit(mesh)  # before the work, as it raises for other devices
    with jax.set_mesh(mesh):
        return function.lower(*arguments)


def compile_lowered(lowered: jax.stages.Lowered, mesh: Mesh, started: float) -> Compiled:
    """The second half of `compile_for`. started: of time.perf_counter, from which its seconds count."""
    limit = memory_limit(mesh)
    with jax.set_mesh(mesh):
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if refusal := _refusal(str(error)):
                raise refusal from error
            raise
    seconds = time.perf_counter() - started
    stats: Any = compiled.memory_analysis()
    text = compiled.as_text() or ""
    memory = Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
    )
    return Compiled(memory, limit, read_collectives(text), text, seconds, read_cycles(text))


def memory_limit(mesh: Mesh) -> int:
    """Bytes a chip that the compiler gives a program on the mesh's devices. Raises ValueError when they are not `topology`'s."""
    kind = mesh.devices.flat[0].device_kind
    if chip := chips.of_device(kind):
        return chip.limit
    raise ValueError(f"the arguments are on {kind} devices; known are {[chip.kind for chip in CHIPS.values()]}")


def _mesh(arguments: Sequence[Any]) -> Mesh:
    """The mesh of the first array."""
    for leaf in jax.tree.leaves(arguments):
        sharding = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return sharding.mesh
    raise ValueError("none of the arguments is a jax.ShapeDtypeStruct with a NamedSharding, which says what to compile for")


def _refusal(message: str) -> DoesNotFit | None:
    """What the compiler's message says of memory; None when it is about something else."""
    for pattern in _REFUSALS:
        if match := pattern.search(message):
            return DoesNotFit(_bytes(match["used"]), _bytes(match["limit"]))
    return None


def _bytes(figure: str) -> int:
    """`15.75G` -> 16911433728."""
    unit = _UNITS.get(figure[-1])
    return int(float(figure[:-1]) * unit) if unit else int(float(figure))
