"""Kills a command's process group, or one process of it, with SIGKILL at a random moment, and says what that hit."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).parent.parent


def humpback(*arguments: str) -> list[str]:
    """The command line of `humpback …` in this environment."""
    return [sys.executable, "-m", "humpback", *arguments]


def finish(command: Sequence[str], timeout: float = 600) -> tuple[float, str]:
    """Runs a command to its end and returns (seconds, standard error); fails when its exit code is not 0."""
    started = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(60), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.monotonic() - started, done.stderr


def terminate_at(command: Sequence[str], seconds: float, timeout: float = 120) -> int:
    """Starts a command, sends it SIGTERM after `seconds` and returns its exit code."""
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(60), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.terminate()
    return process.wait(timeout)


def kill_at(command: Sequence[str], seconds: float, victim: int | None = None) -> bool:
    """Starts a command in a process group of its own and kills the group after `seconds`; False when it had ended before.

    victim: of a command that starts others, kills only the one of this number among them, and waits until all have ended.
    """
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(10), stdout=nothing, stderr=nothing, start_new_session=True)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        others = [] if victim is None else children(process.pid)
        if victim is not None and victim < len(others):
            os.kill(others[victim], signal.SIGKILL)
            process.wait(120)
        return True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def children(pid: int) -> list[int]:
    """The processes that a process has started, in the order of their start."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return sorted(child for child, parent in parents.items() if parent == pid)


def pod(processes: int, devices: int, *arguments: str) -> list[str]:
    """The command line of `humpback …` as several processes."""
    return [sys.executable, "launch/local_pod.py", f"--processes={processes}", f"--devices={devices}", "--", "humpback", *arguments]


def in_progress(run: pathlib.Path) -> str:
    """The stage that a kill interrupted: begun and not complete; "" for none."""
    begun = [path.parent for path in run.glob("*/stage.json") if not (path.parent / "manifest.json").exists()]
    return begun[0].name if begun else ""


def moments(seed: int, count: int, duration: float) -> list[float]:
    """Uniform moments of a run of `duration` seconds."""
    generator = random.Random(seed)
    return [generator.uniform(0, duration) for _ in range(count)]


def environment(heartbeat: int) -> dict[str, str]:
    """Of a command. heartbeat: seconds after which a process of a pod counts as lost; many that compile on two cores were silent for 5."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "HUMPBACK_HEARTBEAT_SECONDS": str(heartbeat)}
