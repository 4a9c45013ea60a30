"""Soak: ten thousand records; the last are served as fast as the first, in the same memory."""

import os
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


def busy(pid: int) -> float:
    """Seconds of CPU time that a process has had."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine() -> float:
    """Seconds of CPU time that all processes together have had."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[i]) for i in (0, 1, 2)) / os.sysconf("SC_CLK_TCK")


def watch(process: subprocess.Popen, parts: pathlib.Path) -> np.ndarray:
    """[T, 5] of (seconds, CPU time, that of others, records published, MiB), several times a second until the process ends."""
    rows, started = [], time.monotonic()
    while process.poll() is None:
        names = [name for path in parts.glob("*.jsonl") if (name := PartName.parse(path.name))]
        done, cpu = sum(name.records for name in names), busy(process.pid)
        rows.append((time.monotonic() - started, cpu, machine() - cpu, done, memory(process.pid)))
        time.sleep(0.1)
    return np.array(rows)


def measure(folder: pathlib.Path) -> tuple[float, float]:
    """(rate of the last thousand over that of the first after the warm-up, peak memory over that at one thousand)."""
    job = make_job(folder, [f"record {number}" for number in range(RECORDS)], "--samples=3")
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(kills.humpback(*job.arguments(folder)), cwd=kills.REPOSITORY, stderr=log, stdout=log)
        seconds, cpu, others, records, mib = watch(process, folder / "out" / "parts").T
    assert process.returncode == 0, (folder / "log").read_text()[-3000:]
    published = (records > 0) & (np.arange(len(records)) <= records.argmax())  # until the parts are merged, and then removed one by one
    most = int(records.max())
    assert most >= RECORDS - THOUSAND
    seconds, cpu, others, done = (row[published] for row in (seconds, cpu, others, records))

    def during(clock: np.ndarray, first: int) -> float:
        begin, end = np.searchsorted(done, [first, first + THOUSAND])
        return (clock[end] - clock[begin]) / (done[end] - done[begin])

    starts = [*range(THOUSAND, most - 2 * THOUSAND + 1, THOUSAND), most - THOUSAND]
    for clock, name in ((seconds, "second"), (cpu, "second of CPU time")):
        print(f"records a {name}, each thousand after the first: {', '.join(f'{1 / during(clock, start):.0f}' for start in starts)}")
    peaks = [mib[records < THOUSAND].max(), mib.max()]
    print(f"memory: {peaks[0]:.0f} MiB at one thousand records, {peaks[1]:.0f} MiB at most")
    # Beside other work the seconds say nothing about this one.
    alone = all(during(others, start) < TOLERATED * during(seconds, start) for start in (starts[0], starts[-1]))
    print("timed by the clock" if alone else "timed by CPU time, as others are working here")
    clock = seconds if alone else cpu
    return during(clock, starts[0]) / during(clock, starts[-1]), peaks[1] / peaks[0]


def test_corpus(tmp_path):
    """Memory must hold every time; the rate once in three, since what others do here can disturb it and a real loss would stay."""
    rates = []
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        rate, peak = measure(folder)
        rates.append(rate)
        assert peak <= 1 + TOLERATED
        if abs(rate - 1) <= TOLERATED:
            return
    raise AssertionError(f"rate of the last thousand over that of the first: {rates}")
