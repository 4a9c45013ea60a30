"""Memory and disk of the quickstart's job, by stage: what a laptop must have.

Runs `humpback run` with the demo's config and looks at its processes from outside once a second: resident memory, and the part of it
that is no page of a file (RssAnon), which cannot be given back. Disk is the run's folder with all that is in it at that moment, a
training's checkpoints included, and what the environment takes. Exit code 1 when more is taken than the aims.

Run it on a quiet machine: .venv/bin/python tests/benchmarks/memory.py [--config=FILE] [--folder=DIR]. The last line is a JSON object.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import common

MOST_RESIDENT_GB, MOST_DISK_GB, MOST_DISK_AFTERWARDS_GB = 7.0, 5.5, 3.8


def memory(pid: int) -> tuple[int, int]:
    """(resident, anonymous) bytes of a process, 0 when it has ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0, 0
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines.get("VmRSS", "0").split()[0]) * 1024, int(lines.get("RssAnon", "0").split()[0]) * 1024


def disk(folder: pathlib.Path) -> int:
    """Bytes that a folder takes, each file counted once."""
    blocks = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # renamed or removed while this looks
                blocks += os.lstat(os.path.join(path, name)).st_blocks
    return blocks * 512


def stage_in_progress(workdir: pathlib.Path) -> str:
    """The stage that is begun and not complete."""
    begun = [path for path in workdir.glob("*/stage.json") if not (path.parent / "manifest.json").exists()]
    return begun[0].parent.name if begun else "between stages"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.py", help="configs/demo.py:ci only shows that it works")
    parser.add_argument("--folder", default=None, help="where there is room (default: the system's temporary folder)")
    values = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="humpback-memory-", dir=values.folder))
    try:
        measure(values.config, work / "run")
    finally:
        shutil.rmtree(work)


def measure(config: str, workdir: pathlib.Path) -> None:
    """The measurement; `workdir` is not there yet."""
    command = [sys.executable, "-m", "humpback", "run", f"--config={config}", f"--workdir={workdir}"]
    peaks: dict[str, list[float]] = {}  # stage -> resident, anonymous, disk
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=common.ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        row = [size / 1e9 for size in (*memory(process.pid), disk(workdir))]
        stage = stage_in_progress(workdir)
        peaks[stage] = [max(pair) for pair in zip(row, peaks.get(stage, row))]
        time.sleep(1)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} failed")
    environment, afterwards = disk(pathlib.Path(sys.prefix)) / 1e9, disk(workdir) / 1e9
    for stage, (resident, anonymous, size) in peaks.items():
        common.say(f"{stage:>16}: {resident:5.2f} GB resident, {anonymous:5.2f} anonymous, {size:5.2f} on disk")
    resident, anonymous, most_disk = (max(column) for column in zip(*peaks.values()))
    figures = {
        "resident_gb": resident,
        "anonymous_gb": anonymous,
        "disk_peak_gb": environment + most_disk,
        "disk_afterwards_gb": environment + afterwards,
        "environment_gb": environment,
        "seconds": seconds,
        "resident_by_stage": {stage: row[0] for stage, row in peaks.items()},
    }
    print(json.dumps({name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}))
    limits = {"resident_gb": MOST_RESIDENT_GB, "disk_peak_gb": MOST_DISK_GB, "disk_afterwards_gb": MOST_DISK_AFTERWARDS_GB}
    over = [f"{name} {figures[name]:.2f} > {most}" for name, most in limits.items() if figures[name] > most]
    if over:
        sys.exit(f"error: more than README says: {', '.join(over)}")


if __name__ == "__main__":
    main()
