"""What the plan compiles: the run's own functions, imported, with the shapes they would be called with, named by values that JSON holds.

`python -m humpback.planning.jobs` is the child that compiles: one job on stdin, one answer as the last line of stdout. A process for each
job, because the compiler takes gigabytes that it does not give back, writes where it likes, and may be killed.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import resource
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from humpback import machine, tpu_flags
from humpback.config import Finetune
from humpback.model.adapters import Lora
from humpback.model.weights import LlamaConfig, RopeScaling

# Fields of Finetune that are in the program; the others decide which examples it gets, or when it saves.
_IN_PROGRAM = (
    "lr", "end_lr", "weight_decay", "beta1", "beta2", "eps", "clip", "dropout", "compute_dtype", "remat", "spike", "skip_spikes",
    "lora_rank", "lora_alpha", "lora_names", "lora_base", "lora_dropout",
)  # fmt: skip
_READ = 5  # logits of a rating in `expected` mode


@dataclass(frozen=True)
class Place:
    """Where: slices of a topology (planning.compile.topology's name) and the mesh on them."""

    topology: str
    data: int
    fsdp: int
    tensor: int
    slices: int = 1

    @property
    def groups(self) -> int:
        """How many parts the rows are dealt to."""
        return self.data * self.fsdp

    @property
    def chips(self) -> int:
        """Of all slices."""
        return self.groups * self.tensor


@dataclass(frozen=True)
class Step:
    """A training step: rows of `length` tokens, all `parts` of it together, and M targets in each group of a part's rows."""

    place: Place
    model: LlamaConfig
    finetune: dict[str, Any]
    length: int
    rows: int
    parts: int
    targets: int

    @classmethod
    def of(cls, place: Place, model: LlamaConfig, ft: Finetune, **shape: int) -> "Step":
        """With those fields of `ft` that are in the program."""
        return cls(place, model, {name: getattr(ft, name) for name in _IN_PROGRAM}, **shape)

    @property
    def lora(self) -> Lora | None:
        """The adapters that train in place of the weights."""
        from humpback.training import lora  # here, as the functions below import, for commands that compile nothing

        return lora.of(Finetune(**self.finetune))


@dataclass(frozen=True)
class Decode:
    """One of the engine's programs: `generate`, or `prefill N`, `insert N` and `read N` of bucket N. slots: of a replica. From slots to
    lengths the fields are those of executables.Layout, which itself holds a mesh and so cannot be written as JSON."""

    place: Place
    model: LlamaConfig
    program: str
    slots: int
    length: int
    prefix: int
    dtype: str
    steps: int
    prefill_tokens: int
    weights: str
    temperature: float
    top_p: float
    lengths: tuple[int, ...] = ()

    def layout(self, mesh: Any = None) -> Any:
        """The engine's executables.Layout; on a mesh without devices, when none is given, it still knows buckets and rows."""
        from jax.sharding import AbstractMesh

        from humpback.decoding.executables import Layout
        from humpback.model.sharding import MESH_AXES

        mesh = mesh or AbstractMesh((self.place.data, self.place.fsdp, self.place.tensor), MESH_AXES)
        fields = [item.name for item in dataclasses.fields(Layout) if item.name not in ("config", "mesh")]
        return Layout(self.model, mesh, **{name: getattr(self, name) for name in fields})


Job = Step | Decode


@dataclass(frozen=True)
class Answer:
    """What the compiler says: `total` and `limit` in bytes a chip, and, of a program that it does not refuse, the rest.

    memory: planning.compile.Memory's fields; traffic: kind -> (times, payload bytes a chip) of one run, loops of unknown length counted
    once, so one step of decoding; kernels: of Pallas; cycles: of the rest, by the compiler's estimate; program: a hash of what was
    compiled.
    """

    program: str
    total: int
    limit: int
    refused: bool
    memory: dict[str, int] = field(default_factory=dict)
    traffic: dict[str, tuple[int, int]] = field(default_factory=dict)
    kernels: int = 0
    cycles: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0  # of the host

    @property
    def fits(self) -> bool:
        """Whether the compiler takes it."""
        return not self.refused and self.total <= self.limit

    @property
    def headroom(self) -> int:
        """Bytes a chip that are left; negative: that are missing."""
        return self.limit - self.total


def to_json(job: Job) -> dict[str, Any]:
    """For `from_json`."""
    return {"kind": type(job).__name__.lower(), **asdict(job)}


def from_json(values: dict[str, Any]) -> Job:
    """The job of `to_json`."""
    values = dict(values)
    kind = {"step": Step, "decode": Decode}[values.pop("kind")]
    model = dict(values.pop("model"))
    scaling = model.pop("rope_scaling", None)
    config = LlamaConfig(**model, rope_scaling=RopeScaling(**scaling) if scaling else None)
    if "lengths" in values:
        values["lengths"] = tuple(values["lengths"])
    return kind(place=Place(**values.pop("place")), model=config, **values)


def answer_of(values: dict[str, Any]) -> Answer:
    """From the child's line, or the cache's file."""
    known = {item.name for item in dataclasses.fields(Answer)}
    fields = {name: value for name, value in values.items() if name in known}
    return Answer(**{**fields, "traffic": {kind: tuple(each) for kind, each in fields.get("traffic", {}).items()}})


def compiled_before(folder: str | os.PathLike, program: str) -> dict[str, Any] | None:
    """What the cache's file says of a program, for `answer_of`; None where there is none, or one that somebody cut."""
    try:
        values = json.loads((pathlib.Path(folder) / f"compiled-{program}.json").read_text(encoding="utf-8"))
        answer_of(values)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return values


def build(job: Job) -> tuple[Any, tuple, Any]:
    """(the jitted function, its arguments, the mesh), nothing allocated."""
    from humpback.model import sharding
    from humpback.planning.compile import topology

    place = job.place
    mesh = sharding.make_mesh(place.data, place.fsdp, place.tensor, devices=topology(place.topology, place.slices))
    return *(_step(job, mesh) if isinstance(job, Step) else _decode(job, mesh)), mesh


def _step(job: Step, mesh: Any) -> tuple[Any, tuple]:
    from humpback.training import lora, optimizer, placement, update

    ft = Finetune(**job.finetune)
    adamw = optimizer.make_optimizer(ft)
    shapes = update.state_shapes(job.model, adamw, mesh, job.lora)
    step = update.jit_step(job.model, ft, adamw, shapes)
    rows = placement.abstract_rows(mesh, job.length, job.rows, job.targets, job.parts)
    return step, (shapes, rows, update.abstract_fixed(mesh), *lora.frozen_shapes(job.model, mesh, job.lora))


def _decode(job: Decode, mesh: Any) -> tuple[Any, tuple]:
    from humpback.decoding import executables
    from humpback.decoding.sampling import Sampler

    read = _READ if job.program.startswith("read") else 0
    layout = executables.alone(job.layout(mesh), job.program)
    program = executables.abstract(layout, Sampler(job.temperature, job.top_p), read=read)[job.program]
    return program.function, (*program.static, *program.arguments)


def source_digest(folder: pathlib.Path | None = None) -> str:
    """Of every file that decides what a job's program is, or how it is read: with the same digest there is nothing to lower again."""
    package = folder or pathlib.Path(__file__).resolve().parents[1]
    names = [
        *(f"decoding/{name}.py" for name in ("executables", "sampling")),
        *(f"training/{name}.py" for name in ("lora", "loss", "optimizer", "placement", "update")),
        *(f"planning/{name}.py" for name in ("collectives", "compile", "jobs")),
        *sorted(f"model/{path.name}" for path in (package / "model").glob("*.py")),
        "chips.py",
        "keys.py",
        "tpu_flags.py",
    ]
    return _digest(*(f"{name}\0{hashlib.sha256((package / name).read_bytes()).hexdigest()}" for name in names))


def reader_digest() -> str:
    """Of the files that turn a compiled program into an answer."""
    package = pathlib.Path(__file__).resolve().parents[1]
    names = ("planning/collectives.py", "planning/compile.py", "chips.py", "tpu_flags.py")
    return _digest(*((package / name).read_text(encoding="utf-8") for name in names))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def compile_job(job: Job, versions: dict[str, str], known: str) -> dict[str, Any]:
    """Lowers and compiles. known: a folder whose file compiled-HASH.json is the answer for a program that was compiled before."""
    from humpback.planning import compile as planning

    started = time.perf_counter()
    function, arguments, mesh = build(job)
    lowered = planning.lower_for(function, arguments, mesh)
    place = json.dumps([asdict(job.place), planning.topology_arguments(job.place.topology)], sort_keys=True)
    program = _digest(lowered.as_text(), place, json.dumps(versions, sort_keys=True), reader_digest())
    if before := compiled_before(known, program):
        return before
    limit = planning.memory_limit(mesh)
    try:
        compiled = planning.compile_lowered(lowered, mesh, started)
    except planning.DoesNotFit as error:
        answer = Answer(program, error.used, limit, refused=True, seconds=time.perf_counter() - started)
    else:
        traffic = {kind: (sent.times, sent.payload) for kind, sent in compiled.traffic().items()}
        kernels = compiled.text.count('custom_call_target="tpu_custom_call"')
        answer = Answer(
            program, compiled.memory.total, limit, False, asdict(compiled.memory), traffic, kernels, compiled.cycles, compiled.seconds
        )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = {"cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1), "peak_bytes": machine.peak_bytes()}
    return {**asdict(answer), **spent, "seconds": round(answer.seconds, 1), "job": to_json(job), "versions": versions}


def _end_with(parent: int) -> None:
    """Ends this process when its parent has been killed: nobody waits for the answer."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """The child."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    request = json.load(sys.stdin)
    job = from_json(request["job"])
    # Those of the job's own generation, whatever the machine's are: the answer is kept for everybody.
    os.environ[tpu_flags.VARIABLE] = " ".join(tpu_flags.FLAGS.get(job.place.topology.partition(":")[0], ()))
    print(json.dumps(compile_job(job, request["versions"], request["known"])), flush=True)


if __name__ == "__main__":
    main()
