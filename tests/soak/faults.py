"""What befalls a run: it is killed, interrupted, started twice, or a file that it has used is edited before it is continued."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

import fsspec
from etils import epath

from humpback.errors import INTERRUPTED
from humpback.stages import identity
from tests import kills

KINDS = ("kill -9", "Ctrl-C", "Ctrl-C twice", "two at once", "edited")
# Folder that has used a file -> the file among `tiny.make_inputs`' own, and the field that names it.
USED = {"seed": ("pairs.jsonl", "seed_pairs.source"), "ratings-1": ("rubric.txt", "curate.rubric_file")}


def befall(kind: str, command: Sequence[str], moment: float, chance: random.Random, inputs: pathlib.Path, workdir: str) -> bool:
    """Starts a command and disturbs it after `moment` seconds; whether that was before its end. Nothing of it runs afterwards.

    inputs: the folder of the files that it is given; workdir: where it writes. Checks what the kind promises.
    """
    if kind == "two at once":
        return two_at_once(command, moment)
    if kind.startswith("Ctrl-C"):
        return interrupt(command, moment, chance.uniform(0.1, 1) if kind == "Ctrl-C twice" else None)
    hit = kills.kill_at(command, moment)
    if kind == "edited":
        edit(inputs, workdir, lambda field: refuse(command, field, workdir))
    return hit


def start(command: Sequence[str]) -> subprocess.Popen:
    """A command in a group of its own that heeds Ctrl-C, which who runs the tests may ignore."""
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        command, cwd=kills.REPOSITORY, env=kills.environment(60), start_new_session=True, preexec_fn=heed, **pipes
    )


def interrupt(command: Sequence[str], moment: float, again: float | None) -> bool:
    """Ctrl-C to all of a command's processes, and one more after `again` seconds: they end with one line, and without a traceback."""
    process = start(command)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=moment)
        return False
    for wait in [0.0] if again is None else [0.0, again]:
        time.sleep(wait)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    # The last is Python's own end, while it starts.
    assert process.returncode in (INTERRUPTED, 0, -signal.SIGINT), (process.returncode, told[-3000:])
    assert "Traceback" not in told or process.returncode == -signal.SIGINT, told[-3000:]
    return process.returncode != 0


def two_at_once(command: Sequence[str], moment: float) -> bool:
    """The second waits for the first, which is killed, and does the rest."""
    first = start(command)
    time.sleep(moment / 2)
    second = start(command)
    try:
        first.communicate(timeout=moment / 2)
        hit = False
    except subprocess.TimeoutExpired:
        hit = True
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    _, told = second.communicate(timeout=600)
    assert second.returncode == 0 and "Traceback" not in told, told[-3000:]
    return hit


def edit(inputs: pathlib.Path, workdir: str, during: Callable[[str], None]) -> None:
    """Changes a file that some folder has used, calls `during` with the field that names it, and puts it back."""
    for folder, (name, field) in USED.items():
        used = epath.Path(workdir) / folder
        if (used / identity.STAGE).exists() and not identity.nothing_made(used):
            path = inputs / name
            before = path.read_bytes()
            path.write_bytes(before.replace(b"a", b"A", 1))
            try:
                during(field)
            finally:
                path.write_bytes(before)


def refuse(command: Sequence[str], field: str, workdir: str) -> None:
    """The command names the field and changes nothing."""
    before = _tree(workdir)
    done = subprocess.run(command, cwd=kills.REPOSITORY, env=kills.environment(60), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and f"with {field} = " in done.stderr and "whose contents have changed" in done.stderr, done.stderr[-3000:]
    assert _tree(workdir) == before


def _tree(workdir: str) -> dict[str, object]:
    """All files, with what changes when one is written."""
    if "://" in workdir:
        return {name: about["generation"] for name, about in fsspec.filesystem("gs").find(workdir, detail=True).items()}
    return {str(path): path.stat().st_mtime_ns for path in pathlib.Path(workdir).rglob("*") if path.is_file()}
