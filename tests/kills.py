"""Kills a command's process group with SIGKILL at a random moment, and says what that hit."""

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
    done = subprocess.run(command, cwd=REPOSITORY, env=_environment(), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.monotonic() - started, done.stderr


def kill_at(command: Sequence[str], seconds: float) -> bool:
    """Starts a command in a process group of its own and kills the group after `seconds`; False when it had ended before."""
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def in_progress(run: pathlib.Path) -> str:
    """The stage that a kill interrupted: begun and not complete; "" for none."""
    begun = [path.parent for path in run.glob("*/stage.json") if not (path.parent / "manifest.json").exists()]
    return begun[0].name if begun else ""


def moments(seed: int, count: int, duration: float) -> list[float]:
    """Uniform moments of a run of `duration` seconds."""
    generator = random.Random(seed)
    return [generator.uniform(0, duration) for _ in range(count)]


def _environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu"}
