"""Soak: `launch/tpu.py supervise` while two workers are taken away at random moments: the bytes of an undisturbed run, no VM left."""

import os
import random
import signal
import subprocess
import sys
import time

from tests import compare, kills, tiny
from tests.launch.fake_gcloud import Cloud
from tests.soak.test_gs import SMALL


def test_launch(tmp_path, monkeypatch):
    """HUMPBACK_SOAK_SCHEDULES lives of a slice (thirty), seed HUMPBACK_SOAK_SEED: up to three preemptions, and the supervisor killed."""
    seed, count = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "30"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))  # this is not about compiling
    inputs = [*tiny.make_inputs(tmp_path), *SMALL]
    duration, _ = kills.finish(kills.pod(2, 1, "run", *inputs, f"--workdir={tmp_path / 'undisturbed'}"))
    duration /= 2  # the others find their programs compiled
    hits = []
    for number in range(1, count + 1):
        chance = random.Random(f"{seed} {number}")
        folder = tmp_path / f"cloud-{number}"
        cloud = Cloud(folder).begin(
            quota=8, limited=0.05, breaks=0.05, seed=number, FAKE_HUMPBACK="", JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1",
            HUMPBACK_SHARED_WORKDIR="1", HUMPBACK_HEARTBEAT_SECONDS="20", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"),
        )  # fmt: skip
        moments = sorted(chance.uniform(0, 0.8 * duration) for _ in range(chance.randint(1, 3)))
        outcome = live(cloud, [*inputs, f"--workdir={folder / 'run'}"], moments, chance)
        found, left = compare.differences(folder / "run", tmp_path / "undisturbed"), cloud.left()
        hits.append(outcome["taken"])
        print(f"{number}/{count} {outcome}: {found or 'same bytes'}, left: {left}", flush=True)
        assert list((folder / "run" / "sources").iterdir()) and list((folder / "run" / "logs").iterdir())
        assert found == [] and left == [], (folder / "log").read_text()[-5000:]
    assert sum(map(bool, hits)) * 2 >= len(hits), hits


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


def live(cloud: Cloud, command: list[str], moments: list[float], chance: random.Random) -> dict[str, int]:
    """From nothing to done. moments: seconds between the worker's being there and its being taken; half of these kill the supervisor."""
    supervisor, taken, killed = start(cloud, command), 0, 0
    try:
        for moment in moments:
            while not (cloud.worker("pod", 1) / "humpback-job").exists() and supervisor.poll() is None:
                time.sleep(0.1)
            if wait(supervisor, moment):
                break
            if chance.random() < 0.5:
                supervisor.send_signal(signal.SIGKILL)
                supervisor.wait()
                killed += 1
            taken += len(cloud.preempt(notice=chance.choice([0.0, 1.0])))
            if supervisor.poll() is not None:
                supervisor = start(cloud, command)
        assert supervisor.wait(600) == 0, (cloud.folder / "log").read_text()[-5000:]
    finally:
        supervisor.kill()
        cloud.preempt()
    return {"taken": taken, "supervisors killed": killed}


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it has ended within that time."""
    try:
        process.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False


def start(cloud: Cloud, command: list[str]) -> subprocess.Popen:
    flags = ["--name=pod", "--zone=z", "--type=v5litepod-8", "--provision=spot", "--poll_seconds=0.5", f"--journal={cloud.folder}/journal"]
    environment = {**os.environ, "PATH": f"{cloud.folder}/bin:{os.environ['PATH']}"}
    with open(cloud.folder / "log", "a") as log:
        words = [sys.executable, str(kills.REPOSITORY / "launch" / "tpu.py"), "supervise", *flags, "--", "run", *command]
        return subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
