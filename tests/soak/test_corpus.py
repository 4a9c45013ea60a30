"""Soak: ten thousand records; the last are served as fast as the first, in the same memory."""

import pathlib
import subprocess
import time

import numpy as np

from humpback.decoding.parts import PartName
from tests import kills
from tests.decoding.test_offline_pod import make_job

RECORDS, THOUSAND = 10_000, 1_000
TOLERATED = 0.1


def memory(pid: int) -> float:
    """MiB that a process has in memory."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


def watch(process: subprocess.Popen, parts: pathlib.Path) -> np.ndarray:
    """[T, 3] of (seconds, records published, MiB), several times a second until the process ends."""
    rows, started = [], time.monotonic()
    while process.poll() is None:
        names = [name for path in parts.glob("*.jsonl") if (name := PartName.parse(path.name))]
        if names or not rows:
            rows.append((time.monotonic() - started, sum(name.records for name in names), memory(process.pid)))
        time.sleep(0.1)
    return np.array(rows)


def test_corpus(tmp_path):
    """Rates from the parts that are there at each moment, so that nothing but the work itself is timed."""
    job = make_job(tmp_path, [f"record {number}" for number in range(RECORDS)])
    command = job.command(tmp_path, 1)[4:]  # without the launcher, so that the process is the one that is measured
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(kills.humpback(*command[1:]), cwd=kills.REPOSITORY, stderr=log, stdout=log)
        rows = watch(process, tmp_path / "out" / "parts")
    assert process.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    seconds, records, mib = rows.T

    def rate(first: int, last: int) -> float:
        begin, end = np.searchsorted(records, first), np.searchsorted(records, last)
        return (records[end] - records[begin]) / (seconds[end] - seconds[begin])

    most = records.max()  # that were seen before the merge
    rates = [rate(THOUSAND, 2 * THOUSAND), rate(most - THOUSAND, most)]
    peaks = [mib[: np.searchsorted(records, THOUSAND) + 1].max(), mib.max()]
    each = ", ".join(f"{rate(n, n + THOUSAND):.0f}" for n in range(THOUSAND, int(most) - THOUSAND + 1, THOUSAND))
    print(f"records/s of each thousand after the first: {each}; of the last {rates[1]:.0f}")
    print(f"memory: {peaks[0]:.0f} MiB at one thousand records, {peaks[1]:.0f} MiB at most")
    assert most >= RECORDS - THOUSAND
    assert abs(rates[1] / rates[0] - 1) <= TOLERATED, rates
    assert peaks[1] <= (1 + TOLERATED) * peaks[0], peaks
