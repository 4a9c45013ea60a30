"""launch/local_pod.py: several processes come up together, and none is left behind, whichever of them is killed."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from humpback import distributed
from launch import local_pod

ROOT = pathlib.Path(__file__).parents[2]
WORKER = ["python", "-m", "tests.distributed_worker", "work"]
# Writes its process id to a file, says a line and waits.
SLEEPER = "import os, sys, time; open(sys.argv[1] + os.environ['JAX_PROCESS_ID'], 'w').write(str(os.getpid())); time.sleep(60)"


def launch(*command, processes=2, devices=4, flags=(), **environment):
    """The launcher in a process group of its own, with both its outputs in pipes."""
    arguments = [sys.executable, ROOT / "launch" / "local_pod.py", f"--processes={processes}", f"--devices={devices}", *flags, "--"]
    environment = {**os.environ, "HUMPBACK_HEARTBEAT_SECONDS": "5", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 (who runs the tests may ignore it)
    return subprocess.Popen([*arguments, *command], cwd=ROOT, env=environment, start_new_session=True, preexec_fn=heed, **pipes)


def finish(launcher, timeout=60):
    """(exit code, standard output, standard error) when it has ended."""
    try:
        out, err = launcher.communicate(timeout=timeout)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    return launcher.returncode, out, err


def process_ids(folder, count=2):
    """What the processes wrote about themselves, when all have."""
    deadline = time.monotonic() + 60
    while True:
        found = [path.read_text() if (path := folder / str(index)).exists() else "" for index in range(count)]
        if all(found):
            return [int(text) for text in found]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pids):
    deadline = time.monotonic() + 10
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_processes_come_up_and_pass_barriers():
    code, out, err = finish(launch(*WORKER, "--task=meet"))
    assert code == 0, err
    assert out.splitlines() == [
        "2 processes, 8 devices, 4 here",
        "replica 0 of 2: [0, 1, 2, 3] True",
        "replica 0 of 1: [0, 1, 2, 3, 2048, 2049, 2050, 2051] True",
        "processes_per_replica = 0: it must divide the number of processes, 2",
        "processes_per_replica = 3: it must divide the number of processes, 2",
        "barrier 'alone': not all of the 2 processes came within 0.5 s",
    ]
    assert "[1] 2 processes, 8 devices, 4 here\n[1] replica 1 of 2: [" in err and "local_pod:" not in err


@pytest.fixture(scope="module")
def pods(tmp_path_factory):
    """(launcher, folder) of each pod that shall lose a process; all at once, as most of their time is waiting."""
    started = {}
    for name, task in {"second": "wait", "first": "wait", "collective": "reduce", "failure": "fail_alone"}.items():
        folder = tmp_path_factory.mktemp(name)
        started[name] = launch(*WORKER, f"--task={task}", f"--folder={folder}", devices=1), folder
    yield started
    for launcher, _ in started.values():
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("name", "victim", "number"),
    [("second", 1, signal.SIGKILL), ("first", 0, signal.SIGKILL), ("collective", 1, signal.SIGKILL)],
)
def test_a_killed_process_is_reported_as_peer_lost(name, victim, number, pods):
    launcher, folder = pods[name]
    os.kill(process_ids(folder)[victim], number)
    killed = time.monotonic()
    code, _, err = finish(launcher)
    assert code == distributed.PEER_LOST == local_pod.PEER_LOST == 134
    assert time.monotonic() - killed < 20  # the heartbeat is 5 s
    assert f"local_pod: process {victim} ended first, with {number.name} (exit code {128 + number})\n" in err
    assert f"local_pod: peer lost: process {victim}; therefore ended with 134: {1 - victim}\n" in err


def test_one_process_that_fails_ends_at_once_and_then_the_other(pods):
    code, _, err = finish(pods["failure"][0])
    assert code == 2
    assert "[1] humpback: a mistake that only one process can see\n" in err
    assert "local_pod: process 1 ended first, with exit code 2\n" in err and "therefore ended with 134: 0\n" in err


def test_all_processes_with_the_same_mistake_end_alike():
    code, _, err = finish(launch(*WORKER, "--task=fail_together", devices=1))
    assert code == 2
    assert re.search(r"^humpback: a mistake that all can see$", err, re.MULTILINE) and "[1] humpback: a mistake that all can" in err
    assert "lost" not in err and "killed" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed parent")
@pytest.mark.parametrize(("number", "group"), [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGTERM, False)])
def test_no_process_outlives_the_launcher(number, group, tmp_path):
    launcher = launch("python", "-c", SLEEPER, f"{tmp_path}/")
    pids = process_ids(tmp_path)
    assert {os.getpgid(pid) for pid in pids} == {launcher.pid}
    (os.killpg if group else os.kill)(launcher.pid, number)
    code, _, _ = finish(launcher)
    assert code == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_until_gone(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="of the processes' states")
def test_ctrl_c_is_the_processes_own_to_answer_and_a_second_one_ends_them(tmp_path):
    """A terminal sends it to the group. The first process saves and ends; the second one hangs."""
    saving = (
        "import os, signal, sys, time; path = sys.argv[1] + os.environ['JAX_PROCESS_ID']; first = os.environ['JAX_PROCESS_ID'] == '0'\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.5), print('saved', flush=True), os._exit(130)) if first else None)\n"
        "open(path, 'w').write(str(os.getpid()))\nwhile True: time.sleep(1)"
    )
    launcher = launch("python", "-c", saving, f"{tmp_path}/", HUMPBACK_HEARTBEAT_SECONDS="60")
    pids = process_ids(tmp_path)
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.stdout.readline() == "saved\n"
    wait_until_gone(pids[:1])
    assert not gone(pids[1])
    os.killpg(launcher.pid, signal.SIGINT)
    assert finish(launcher)[0] == 130
    wait_until_gone(pids)


def test_a_process_that_does_not_notice_is_killed(tmp_path):
    script = "import os, sys, time; sys.exit(3) if os.environ['JAX_PROCESS_ID'] == '1' else time.sleep(60)"
    started = time.monotonic()
    code, _, err = finish(launch("python", "-c", script, HUMPBACK_HEARTBEAT_SECONDS="0"))
    assert code == 3 and time.monotonic() - started < 20
    assert "process 1 ended first, with exit code 3" in err and "were killed: 0" in err


def test_who_ended_because_it_lost_another_was_not_the_first(capsys):
    """All have ended before the launcher looks; an abort of its own accord is not a lost peer."""
    scripts = {"lost": "exit 134", "aborted": "kill -ABRT $$", "killed": "kill -9 $$", "fine": "exit 0"}

    def outcome(*names):
        processes = [subprocess.Popen(["sh", "-c", scripts[name]]) for name in names]
        for process in processes:
            process.wait()
        codes = [process.returncode for process in processes]
        return local_pod.report(local_pod.watch(processes), codes), capsys.readouterr().err

    assert outcome("lost", "aborted", "killed") == (
        134,
        "local_pod: process 2 ended first, with SIGKILL (exit code 137)\nlocal_pod: peer lost: process 2; therefore ended with 134: 0, 1\n",
    )
    assert outcome("fine", "aborted") == (134, "local_pod: process 1 ended first, with SIGABRT (exit code 134)\n")
    assert outcome("fine", "killed") == (137, "local_pod: process 1 ended first, with SIGKILL (exit code 137)\n")
    assert outcome("fine", "fine") == (0, "")


def test_output_of_the_others_goes_to_files(tmp_path):
    script = "import os, sys; print(os.environ['JAX_NUM_CPU_DEVICES']); print(os.environ['JAX_PROCESS_ID'], file=sys.stderr)"
    code, out, err = finish(launch("python", "-c", script, processes=3, devices=5, flags=[f"--log_dir={tmp_path}/new"]))
    assert (code, out, err) == (0, "5\n", "0\n")
    logs = {path.name: sorted(path.read_text().split()) for path in (tmp_path / "new").iterdir()}
    assert logs == {"process-1.log": ["1", "5"], "process-2.log": ["2", "5"]}


def test_the_first_word_humpback_is_the_command():
    code, out, _ = finish(launch("humpback", "help", processes=1))
    assert code == 0 and out.startswith("usage: humpback COMMAND")


@pytest.mark.parametrize(
    ("flags", "command", "message"),
    [(["--processes=0"], ["python"], "at least 1"), (["--hosts=2"], ["python"], "--hosts"), ([], ["no-such-program"], "no-such-program")],
)
def test_mistakes_are_named(flags, command, message):
    code, _, err = finish(launch(*command, flags=flags))
    assert code in (1, 2) and message in err
