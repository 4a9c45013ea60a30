"""`humpback doctor`: what this machine is to JAX, what is wrong with it, and the line that mends it. Exit code 3 when something is wrong.

A machine with signs of a TPU on which JAX runs on its CPU is wrong, whatever works there: hours would pass before anybody saw it. JAX is
asked in a process of its own, which a runtime that hangs or aborts does not take along, and which gives the devices back.
"""

import importlib.metadata
import json
import os
import pathlib
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from absl import flags

from humpback import chips, internals, machine, metadata, storage
from humpback.errors import UserError

WRONG = 3  # exit code
_GIB = 2**30
_SECONDS = 180.0  # for JAX to name its devices; a TPU's runtime takes half a minute, and waits for its other hosts without end
_CHUNK, _CHUNKS = 1 << 23, 32  # bytes of a write, and how many: 256 MiB show what a disk does when its buffers are full
_PACKAGES = ("humpback", "jax", "jaxlib", "flax", "numpy")
_VARIABLES = ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "TPU_NAME", "COLAB_TPU_ADDR")
_FILES = ("accel[0-9]*", "vfio/[0-9]*")  # of the driver, below /dev: up to v4, and later
_NEW_PYTHON = (
    "python3 -m pip install uv && python3 -m uv venv --python 3.13 .venv && "
    "python3 -m uv pip install --python .venv -c launch/constraints.txt -e '.[demo,tpu]'"
)
_LIBTPU = "-m pip install -c launch/constraints.txt -e '.[demo,tpu]'"


class Problem(NamedTuple):
    """What is wrong, and a line that mends it."""

    what: str
    line: str


class Facts(NamedTuple):
    """What was found. signs: of a TPU; libtpu: its version, "" where it is not installed; wanted: the versions of it that JAX asks for,
    "0.0.42."; answer: `ask_jax`'s; silent: what to say of a metadata server that gives no answer, "" otherwise."""

    python: tuple[int, ...]
    signs: list[str]
    libtpu: str
    wanted: str
    environment: Mapping[str, str]
    answer: Mapping[str, Any]
    silent: str


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("workdir", ".", "a folder on the disk to be measured, where a run will be")


def main() -> None:
    """Prints what was found and what is wrong; ends with exit code 3 for that."""
    folder = pathlib.Path(flags.FLAGS.workdir)
    if not storage.is_local(folder):
        raise UserError(f"--workdir={flags.FLAGS.workdir}: a local disk is measured, no bucket; name a folder")
    told, silent = ask_metadata()
    facts = Facts(sys.version_info[:3], signs(os.environ), _version("libtpu"), _wanted_libtpu(), os.environ, ask_jax(), silent)
    versions = ", ".join(f"{name} {_version(name) or 'missing'}" for name in _PACKAGES)
    print(f"python     {'.'.join(map(str, facts.python))}, {sys.executable}")
    print(f"versions   {versions}, libtpu {facts.libtpu or 'missing'}")
    print(f"TPU        {'signs of one: ' + ', '.join(facts.signs) if facts.signs else 'no signs of one'}")
    print(f"JAX        {described(facts.answer)}")
    print(f"memory     {_total_memory() / _GIB:.1f} GiB, {machine.free_bytes() / _GIB:.1f} free; {machine.cores()} cores")
    print(f"metadata   {told}")
    found = problems(facts)
    try:
        print(f"disk       {folder.absolute()}: {measure_disk(folder)}", flush=True)
    except OSError as error:
        found.append(Problem(f"nothing can be written to {folder.absolute()}: {error.strerror}", "name another folder: --workdir=/path"))
    for problem in found:
        print(f"\nWRONG: {problem.what}\n  mend it: {problem.line}")
    if found:
        sys.exit(WRONG)
    print(f"\nall is well; what runs here, runs on {described(facts.answer)}")


def signs(environment: Mapping[str, str], devices: pathlib.Path = pathlib.Path("/dev")) -> list[str]:
    """What says that this machine has a TPU: chips on its bus, files of their driver, variables that a cloud sets."""
    found = [f"{count} chips on the PCI bus"] if (count := internals.tpu_chips()) else []
    found += [str(path) for pattern in _FILES for path in sorted(devices.glob(pattern))[:1]]
    return found + [f"{name}={environment[name]}" for name in _VARIABLES if environment.get(name)]


def ask_jax(seconds: float = _SECONDS, **variables: str) -> dict[str, Any]:
    """{backend, kind, count, memory} of the devices that JAX finds in a process with these variables; {error} where it finds none."""
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"JAX has named no device within {seconds:.0f} s; of several hosts, each must ask at the same time"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": said[-1] if said else f"the process that asked ended with exit code {done.returncode}"}
    return json.loads(lines[-1])


def _answer() -> dict[str, Any]:
    """What `ask_jax` returns: of JAX's devices in this process, one of which has added up numbers."""
    devices = jax.local_devices()
    if float(jax.numpy.ones((256, 256)).sum()) != 65_536:
        raise ArithmeticError(f"{devices[0]} cannot add up 65,536 ones")
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", 0)  # a CPU has none of its own
    return {"backend": jax.default_backend(), "kind": devices[0].device_kind, "count": len(devices), "memory": memory}


def described(answer: Mapping[str, Any]) -> str:
    """`ask_jax`'s answer in words."""
    if "error" in answer:
        return answer["error"]
    memory = f", {answer['memory'] / _GIB:.2f} GiB each" if answer["memory"] else ""
    return f"{answer['backend']}: {answer['count']} × {answer['kind']}{memory}"


def problems(facts: Facts) -> list[Problem]:
    """What is wrong; [] when nothing is."""
    backend, error, python = facts.answer.get("backend", ""), facts.answer.get("error", ""), f'"{sys.executable}"'
    platforms = facts.environment.get("JAX_PLATFORMS", "")
    if not facts.signs and backend != "tpu":
        line = "unset JAX_PLATFORMS" if platforms else f"{python} -m pip install -c launch/constraints.txt -e '.[demo]'"
        return [Problem(f"JAX finds no device: {error}", line)] if error else []
    found = []
    if facts.python < (3, 12):
        version = ".".join(map(str, facts.python))
        found.append(Problem(f"Python {version}: the newest libtpu for it copies every cache while it decodes", _NEW_PYTHON))
    elif not facts.libtpu:
        found.append(Problem("libtpu is missing, without which JAX sees no TPU", f"{python} {_LIBTPU}"))
    elif facts.wanted and not facts.libtpu.startswith(facts.wanted):
        what = f"libtpu {facts.libtpu} is not the one that this JAX asks for, {facts.wanted}*"
        found.append(Problem(what, f"{python} {_LIBTPU}"))
    if library := facts.environment.get("TPU_LIBRARY_PATH"):
        found.append(Problem(f"TPU_LIBRARY_PATH={library} is taken in place of this Python's libtpu", "unset TPU_LIBRARY_PATH"))
    if facts.silent and not {"TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"} & facts.environment.keys():
        what = f"whether this machine is one of several cannot be found out: {facts.silent}"
        found.append(Problem(what, "export TPU_SKIP_MDS_QUERY=1    # for one machine alone"))
    if backend == "tpu":
        if chips.of_device(facts.answer["kind"]) is None:
            what = f"{facts.answer['kind']}: its chips are not known here, so that nothing can be planned or found for it"
            found.append(Problem(what, f"take a machine with one of {', '.join(chips.CHIPS)}"))
        return found
    if platforms and "tpu" not in platforms.split(","):
        found.append(Problem(f"JAX_PLATFORMS={platforms} forbids JAX to look for a TPU", "unset JAX_PLATFORMS"))
    if not found:
        why = error or ask_jax(JAX_PLATFORMS="tpu").get("error", "it works when JAX_PLATFORMS=tpu says that it must")
        found.append(Problem(f"the TPU does not begin: {why}", "end what holds it, if it is held: lsof -t /dev/accel* /dev/vfio/*"))
    there = f"this machine has a TPU ({', '.join(facts.signs)}), and JAX "
    fallen = there + (f"runs on {backend}" if backend else f"finds no device ({error})")
    return [Problem(f"{fallen}: {found[0].what}", found[0].line), *found[1:]]


def ask_metadata() -> tuple[str, str]:
    """(what a cloud's metadata server says, in words; "" or that it is silent)."""
    try:
        found = metadata.tpu()
    except metadata.Silent as error:
        return str(error), str(error)
    return f"tells {', '.join(found)}" if found else "no server, or it says nothing of a TPU", ""


def measure_disk(folder: pathlib.Path) -> str:
    """Free room of the disk that a folder is on, and MB/s of a file that is written, synced, and read again from the disk. OSError where
    that cannot be. Of a folder that is not there yet, the nearest one above it is measured.
    """
    while not folder.exists():
        folder = folder.parent
    file = folder / f"{storage.TEMPORARY}{secrets.token_hex(8)}"
    data = os.urandom(_CHUNK)  # zeros would not reach every disk
    try:
        started = time.monotonic()
        with open(file, "xb") as writing:
            for _ in range(_CHUNKS):
                writing.write(data)
            writing.flush()
            os.fsync(writing.fileno())
            written = time.monotonic() - started
            machine.forget_pages(writing.fileno())
        started = time.monotonic()
        for _ in storage.read_chunks(file, _CHUNK):
            pass
        read = time.monotonic() - started
    finally:
        file.unlink(missing_ok=True)
    megabytes = _CHUNK * _CHUNKS / 1e6
    free = shutil.disk_usage(folder).free
    return f"{free / _GIB:.1f} GiB free, writes {megabytes / written:,.0f} MB/s, reads {megabytes / read:,.0f} MB/s"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _wanted_libtpu() -> str:
    """The beginning of the libtpu versions that the installed JAX asks for, "" when it does not say."""
    requirements = importlib.metadata.requires("jax") or []
    return next((match[1] for line in requirements if (match := re.match(r"libtpu\s*==\s*([\d.]+\.)\*", line))), "")


def _total_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(_answer()))
