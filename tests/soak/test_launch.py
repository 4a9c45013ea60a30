"""Soak: `launch/tpu.py supervise` while two workers are taken away at random moments: the bytes of an undisturbed run, no VM left."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tests import compare, kills, tiny
from tests.launch.fake_gcloud import Cloud
from tests.soak import faults

# Every stage, as short as it can be: this is about the way from one to the next, and two steps of one training are enough to
# be stopped between.
SHORT = [
    *("--config.iterations=1", "--config.segments.limit=6", "--config.seed_pairs.limit=8", "--config.seed_pairs.held_out=2"),
    *("--config.backward.steps=2", "--config.forward_seed.steps=1", "--config.forward.steps=1"),
]


def test_launch(tmp_path, monkeypatch):
    """HUMPBACK_SOAK_SCHEDULES lives of a slice (thirty), seed HUMPBACK_SOAK_SEED: taken once or twice, the supervisor killed or not."""
    seed, count = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "30"))
    # This is not about compiling: what the first life compiles, each small program with it, the others find.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    inputs, expected = [*tiny.make_inputs(tmp_path), *SHORT], tmp_path / "undisturbed-1" / "run"
    for number in range(2):
        folder = tmp_path / f"undisturbed-{number}"
        duration = watch(begin(folder), [*inputs, f"--workdir={folder / 'run'}"])
        print(f"undisturbed: {duration:.1f} s{', compiling' if number == 0 else ''}", flush=True)
    assert compare.differences(tmp_path / "undisturbed-0" / "run", expected) == []
    hits = 0
    for number in range(1, count + 1):
        chance, began = random.Random(f"{seed} {number}"), time.monotonic()
        folder = tmp_path / f"cloud-{number}"
        cloud = begin(folder, limited=0.05, breaks=0.05, seed=number)
        moments = [chance.uniform(0, duration) for _ in range(chance.randint(1, 2))]
        outcome = live(cloud, [*inputs, f"--workdir={folder / 'run'}"], moments, chance, tmp_path)
        found, left = compare.differences(folder / "run", expected), cloud.left()
        hits += outcome["taken at work"] > 0
        told = f"taken after {' and '.join(f'{moment:.1f}' for moment in moments)} s, {outcome}, {found or 'same bytes'}, left: {left}"
        print(f"{number}/{count} in {time.monotonic() - began:.0f} s: {told}", flush=True)
        assert list((folder / "run" / "sources").iterdir()) and list((folder / "run" / "logs").iterdir())
        assert found == [] and left == [], (folder / "log").read_text()[-5000:]
        shutil.rmtree(folder)
    assert 2 * hits >= count, hits


def begin(folder: pathlib.Path, **trouble: float) -> Cloud:
    """An empty project for one slice of two workers."""
    return Cloud(folder).begin(
        quota=8, FAKE_HUMPBACK="", JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1", HUMPBACK_SHARED_WORKDIR="1",
        HUMPBACK_HEARTBEAT_SECONDS="60", **trouble,
    )  # fmt: skip


def watch(cloud: Cloud, command: list[str]) -> float:
    """Sees a life through that nobody disturbs; seconds from the start of the work to its end."""
    supervisor = start(cloud, command)
    try:
        wait_for_start(cloud, supervisor)
        began = time.monotonic()
        while at_work(cloud) and supervisor.poll() is None:
            time.sleep(0.05)
        seconds = time.monotonic() - began
        assert supervisor.wait(600) == 0, (cloud.folder / "log").read_text()[-5000:]
    finally:
        supervisor.kill()
        cloud.preempt()
    return seconds


def wait_for_start(cloud: Cloud, supervisor: subprocess.Popen) -> None:
    """Returns when the command has been started on both workers, or there is nobody to start it."""
    jobs = [cloud.worker("pod", number) / "humpback-job" for number in range(2)]
    while not all(job.exists() for job in jobs) and supervisor.poll() is None:
        time.sleep(0.05)


def at_work(cloud: Cloud) -> bool:
    """Whether the first worker's command has been started and has not ended."""
    job = cloud.worker("pod", 0) / "humpback-job"
    return job.exists() and not (job / "exit.json").exists()


def test_a_worker_that_cannot_be_set_up_is_replaced(tmp_path):
    cloud = Cloud(tmp_path / "cloud").begin(FAKE_HUMPBACK=str(kills.REPOSITORY / "tests" / "launch" / "fake_humpback.py"))
    supervisor = start(cloud, [f"--out={tmp_path / 'run'}", "--steps=3"])
    try:
        while not cloud.worker("pod", 1).exists():
            time.sleep(0.02)
        (cloud.worker("pod", 1) / "broken").touch()
        assert supervisor.wait(300) == 0
    finally:
        supervisor.kill()
        cloud.preempt()
    told = (cloud.folder / "log").read_text()
    assert "do not answer" in told and "only 1 of 2 workers" in told
    assert (tmp_path / "run" / "count").read_text() == "3" and cloud.left() == []


def live(cloud: Cloud, command: list[str], moments: list[float], chance: random.Random, inputs: pathlib.Path) -> dict[str, int]:
    """From nothing to done. moments: seconds between the start of the work and its being taken; half of these kill the supervisor.

    In between somebody else begins the same run, sends Ctrl-C to a worker, or edits a file that was used.
    """
    how = [chance.choice(["--queued", "--noqueued"])]
    supervisor = start(cloud, command, how)
    told, rivals = {"taken at work": 0, "supervisors killed": 0, "interrupted": 0, "rivals": 0, "edited": 0}, []
    try:
        for moment in moments:
            wait_for_start(cloud, supervisor)
            if wait(supervisor, moment):
                break
            if chance.random() < 0.3:
                rivals.append(faults.start(kills.pod(2, 1, "run", *command)))
                told["rivals"] += 1
            if chance.random() < 0.3 and interrupt_worker(cloud, chance.randrange(2)):
                supervisor, again = resume(cloud, supervisor, command, how)
                told["interrupted"] += again
                continue
            if chance.random() < 0.5:
                supervisor.send_signal(signal.SIGKILL)
                supervisor.wait()
                told["supervisors killed"] += 1
            told["taken at work"] += at_work(cloud)
            cloud.preempt(notice=chance.choice([0.0, 1.0]))
            if supervisor.poll() is not None:
                if not rivals and chance.random() < 0.5:
                    faults.edit(inputs, command[-1].partition("=")[2], lambda field: refuse(command, field))
                    told["edited"] += 1
                supervisor = start(cloud, command, how)
        assert supervisor.wait(600) == 0, (cloud.folder / "log").read_text()[-5000:]
        for rival in rivals:
            _, said = rival.communicate(timeout=600)
            assert rival.returncode == 0 and "Traceback" not in said, said[-3000:]
    finally:
        supervisor.kill()
        for rival in rivals:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rival.pid, signal.SIGKILL)
        cloud.preempt()
    return told


def interrupt_worker(cloud: Cloud, number: int) -> bool:
    """Sends SIGINT to the command on a worker; whether it was there."""
    job = cloud.worker("pod", number) / "humpback-job" / "job.json"
    with contextlib.suppress(OSError, ValueError, IndexError):
        os.kill(kills.children(json.loads(job.read_text())["pid"])[0], signal.SIGINT)
        return True
    return False


def resume(cloud: Cloud, supervisor: subprocess.Popen, command: list[str], how: list[str]) -> tuple[subprocess.Popen, bool]:
    """What follows a Ctrl-C on a worker: the supervisor stops, unless the command was done by then, and goes on when it is asked to."""
    code = supervisor.wait(600)
    assert code in (0, 130), (cloud.folder / "log").read_text()[-5000:]
    return (start(cloud, command, how), True) if code else (supervisor, False)


def refuse(command: list[str], field: str) -> None:
    """Who continues with an edited file is told so, and nothing changes."""
    faults.refuse(kills.pod(2, 1, "run", *command), field, command[-1].partition("=")[2])


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it has ended within that time."""
    try:
        process.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False


def start(cloud: Cloud, command: list[str], more: Sequence[str] = ()) -> subprocess.Popen:
    # A look is half a second of a core here, as each gcloud and each worker's answer is a Python of its own.
    flags = [
        "--name=pod",
        "--zone=z",
        "--type=v5litepod-8",
        "--provision=spot",
        "--poll_seconds=1",
        f"--journal={cloud.folder}/journal",
        *more,
    ]
    environment = {**os.environ, "PATH": f"{cloud.folder}/bin:{os.environ['PATH']}"}
    with open(cloud.folder / "log", "a") as log:
        words = [sys.executable, str(kills.REPOSITORY / "launch" / "tpu.py"), "supervise", *flags, "--", "run", *command]
        return subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
