"""launch/tpu.py as a process, against tests/launch/fake_gcloud.py: what the tests of its verbs, its money and its supervision share."""

import os
import pathlib
import signal
import subprocess
import sys
import time

from launch import local_pod
from tests.launch.fake_gcloud import Cloud

ROOT = pathlib.Path(__file__).parents[2]
WHERE = ["--name=pod", "--zone=z"]
TYPE = "--type=v5litepod-8"


def begin(folder, **settings):
    """An empty project whose workers run tests/launch/fake_humpback.py."""
    return Cloud(folder).begin(FAKE_HUMPBACK=str(ROOT / "tests" / "launch" / "fake_humpback.py"), **settings)


def command(cloud, verb, *more):
    return [sys.executable, str(ROOT / "launch" / "tpu.py"), verb, *WHERE, "--poll_seconds=0.6", f"--journal={cloud.folder}/journal", *more]


def start(cloud, verb, *more, script=None):
    """A verb as a process of its own, both outputs in one pipe. It heeds Ctrl-C, also where these tests run in the background."""
    environment = {**os.environ, "PATH": f"{cloud.folder}/bin:{os.environ['PATH']}"}
    words = command(cloud, verb, *more)
    if script:
        words[1] = str(script)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, env=environment, preexec_fn=heed_signals, **pipes)


def heed_signals():
    """In the child, before the command: a shell that starts this suite in the background has SIGINT ignored, and nohup SIGHUP. And it
    ends when the suite is killed."""
    local_pod.die_with_launcher()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def tpu(cloud, verb, *more, code=0):
    """What a verb prints; fails when its exit code is another one."""
    process = start(cloud, verb, *more)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == code, text
    return text


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def calls(cloud):
    """The commands that gcloud has got, with their flags."""
    path = cloud.folder / "calls.log"
    return path.read_text().splitlines() if path.exists() else []


def job(tmp_path, *flags, folder="--out"):
    """What comes after the verb: a command that counts in a folder."""
    return ["--", "run", f"{folder}={tmp_path / 'run'}", *flags]


def count(tmp_path):
    path = tmp_path / "run" / "count"
    return int(path.read_text()) if path.exists() else 0
