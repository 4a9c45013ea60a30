"""What the benchmarks share: the peers' environment, a peer as a process of its own, medians, and the figures peers must reach.

Both sides run in turns within one run, because a machine's speed drifts; a peer far below its known figure would make any
comparison worthless, so that is an error.
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from humpback.model.llama import LlamaConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
# An environment below the repository -> what is installed into it, and the file in launch/ that names the versions. The TPU's
# compiler has pytest beside it, because tests/planning runs there, too.
ENVIRONMENTS = {
    ".venv-peers": (("torch", "transformers", "peft"), "constraints.txt"),
    ".venv-tunix": (("google-tunix",), "constraints-bench.txt"),
    ".venv-llama": (("llama-cpp-python",), "constraints-bench.txt"),
    ".venv-trafilatura": (("trafilatura", "lxml_html_clean", "resiliparse"), "constraints-bench.txt"),
    ".venv-image": (("jax", "numpy", "protobuf", "nbclient", "ipykernel"), "constraints-image.txt"),
    ".venv-tpu": (("jax", "flax", "libtpu", "qwix", "google-crc32c", "pytest"), "constraints-bench.txt"),
}
PEERS = {
    "transformers_peer.py": ".venv-peers",
    "tunix_peer.py": ".venv-tunix",
    "llama_cpp_peer.py": ".venv-llama",
    "trafilatura_peer.py": ".venv-trafilatura",
}
TOLERATED = 0.8  # of its figure; below that the peer, or the machine, is not at its best
PAUSE_SECONDS = 0.5  # between two turns, so that the side before has gone to sleep
STARTED = time.monotonic()

# A model of the family for --smoke, which shows that a benchmark works and measures nothing.
SMOKE_MODEL = LlamaConfig(
    vocab_size=256, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=64, tied=True, max_positions=512
)


def say(text: str) -> None:
    """A progress line with the time since the start."""
    seconds = int(time.monotonic() - STARTED)
    print(f"[{seconds // 60}:{seconds % 60:02d}] {text}", flush=True)


def arguments(
    description: str, rounds: int = 5, least: int = 5, more: Callable[[argparse.ArgumentParser], None] = lambda parser: None
) -> argparse.Namespace:
    """The flags `rounds` (default; the least that is allowed) and `smoke`, and those that `more` adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"measurements of each side, in turns (default {rounds})")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, two rounds: shows only that it works")
    more(parser)
    values = parser.parse_args()
    if values.rounds < least:
        parser.error(f"--rounds={values.rounds}: must be at least {least}")
    if values.smoke:
        values.rounds = 2
    return values


def python_of(name: str, base: Callable[[], str] = lambda: sys.executable) -> pathlib.Path:
    """The Python of one of ENVIRONMENTS, made anew, with the Python `base`, when it is missing, half made or of other versions."""
    packages, versions = ENVIRONMENTS[name]
    folder, constraints = ROOT / name, ROOT / "launch" / versions
    python, stamp = folder / "bin" / "python", folder / ".installed"
    want = hashlib.sha256(b"\n".join([str(folder).encode(), *map(str.encode, packages), constraints.read_bytes()])).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == want:
        return python
    if folder.exists():
        say(f"{name} is half made or of other versions: making it anew")
        shutil.rmtree(folder)
    making = [base(), "-m", "venv", str(folder)]
    say(f"installing {' and '.join(packages)} into {name} with {making[0]} (some minutes)")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    for command in (making, [*pip, "--constraint", str(constraints), *packages]):
        if subprocess.run(command, env=clean_environment(), check=False).returncode:
            sys.exit(f"error: could not make {name}: {' '.join(command)} failed; the same command tries again")
    stamp.write_text(want)
    return python


def clean_environment() -> dict[str, str]:
    """Without what would show another Python other packages, or bring it to ask the network for a model; huge pages are ours alone."""
    ours = ("PYTHONPATH", "PYTHONHOME", "GLIBC_TUNABLES")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "HF_HUB_OFFLINE": "1"}


class Peer:
    """A script of peers/ that stays alive and answers one JSON line for each it is given: `peer.ask("train_step", …)`."""

    def __init__(self, script: str):
        self.script = script
        command = [str(python_of(PEERS[script])), str(pathlib.Path(__file__).parent / "peers" / script)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment(), cwd=ROOT
        )

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Calls the script's function `do` and waits for what it returns. Ends the benchmark when the peer has ended."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the empty answer says too
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"error: {self.script} ended with exit code {self._process.wait()}; its own message stands above")
        return json.loads(answer)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()  # it holds nothing that is worth saving
        self._process.wait()


def turns(names: Sequence[str], number: int) -> list[str]:
    """The names in the order of one round: each round begins with another one."""
    start = number % len(names)
    return [*names[start:], *names[:start]]


def median_rate(work: float, seconds: Sequence[float]) -> float:
    """Work per second at the median of the measured times."""
    return work / statistics.median(seconds)


def show(rates: Mapping[str, Sequence[float]], unit: str) -> None:
    """A table: median, lowest and highest rate of each side."""
    width = max(map(len, rates))
    for name, values in rates.items():
        say(f"  {name:<{width}}  median {statistics.median(values):8.2f} {unit}   ({min(values):.2f} to {max(values):.2f})")


def machine() -> dict[str, Any]:
    """The processor's name, how many of its cores this process may use, and whether it is of the figures' kind."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name, flags = fields.get("model name", "unknown"), fields.get("flags", "").split()
    # The figures are of 2 cores: more can only be faster, fewer cannot reach them.
    return {"cpu": name, "cores": cores(), "known": "EPYC" in name and "avx512f" in flags and cores() >= 2}


@functools.cache
def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin(what: str) -> None:
    """Says what is measured, on what, and whether the machine is quiet."""
    here = machine()
    load = os.getloadavg()[0]
    say(f"{what}; {here['cpu']}, {here['cores']} cores, load {load:.1f}")
    if load > 0.5:
        say("NOTE: something else is running on this machine; the figures will be too low, and not alike for both sides")


def finish(result: Mapping[str, Any], measured: Mapping[str, float], figures: Mapping[str, float], smoke: bool) -> int:
    """Compares the peers with their known figures, prints the result as the last line; returns the exit code.

    measured, figures: workload -> its rate; one that was not measured is left out. 1 when the processor is of the figures' kind
    and a peer stayed below `TOLERATED` of one.
    """
    here, low = machine(), []
    if smoke:
        say("smoke run: tiny shapes, so the figures mean nothing and are not compared")
    elif not here["known"]:
        say(f"the peers' known figures are of an AMD EPYC with AVX-512; this is {here['cpu']}, so they are not compared")
    else:
        for name, figure in ((name, figure) for name, figure in figures.items() if name in measured):
            say(f"  {name}: {measured[name]:.2f} a second here, known {figure:g} ({measured[name] / figure:.0%})")
            if measured[name] < TOLERATED * figure:
                low.append(name)
        for name in low:
            say(f"ERROR: {name} is below {TOLERATED:.0%} of its known figure: no fair comparison; is the machine busy?")
    print(json.dumps({**rounded(result), "machine": here, "peers_below_their_figures": low, "smoke": smoke}), flush=True)
    return 1 if low else 0


def rounded(value: Any) -> Any:
    """With four significant digits, at any depth."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value
