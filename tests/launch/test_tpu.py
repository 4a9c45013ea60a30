"""launch/tpu.py against a gcloud that keeps state: whole lives of a slice, with trouble, and nothing left behind."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from tests.launch.fake_gcloud import ALPHA, FLAGS
from tests.launch.pods import ROOT, TYPE, WHERE, calls, command, count, job, start, tpu, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are Linux machines")


def test_verb_by_verb(cloud, tmp_path):
    """Each verb, twice where it may be called again; and a command that outlives the connection, and is stopped."""
    assert "there is none" in tpu(cloud, "status")
    assert "not up" in tpu(cloud, "setup", code=2)
    tpu(cloud, "create", TYPE, "--provision=spot")
    assert "pod is there" in tpu(cloud, "create", TYPE)
    wait_for(lambda: "ACTIVE READY" in tpu(cloud, "status"))
    assert "made with --type=v5litepod-8, now v4-32" in tpu(cloud, "create", "--type=v4-32", code=2)
    assert "2 workers set up" in tpu(cloud, "setup")
    assert "set up before" in tpu(cloud, "setup")
    homes = [cloud.worker("pod", number) for number in range(2)]
    assert all((home / "humpback" / "launch" / "tpu.py").exists() and not (home / "humpback" / ".git").exists() for home in homes)
    assert '"commit": "' in (homes[0] / "humpback" / "source.json").read_text()
    tpu(cloud, "run", *job(tmp_path, "--steps=100000", "--text=a b'c$HOME", folder="--workdir"))
    wait_for(lambda: count(tmp_path))
    told = tpu(cloud, "status")
    assert re.search(r"slice 0 worker 0: running, counting \d+/100000, 9.87step/s, 00:02 left\n", told) and "worker 1: running" in told
    assert "still runs (run" in tpu(cloud, "run", *job(tmp_path), code=2)
    assert "a command runs there" in tpu(cloud, "setup", "--extras=demo", code=2)
    assert "counting:" in tpu(cloud, "logs")
    tpu(cloud, "stop")
    told = tpu(cloud, "status")
    assert told.count("preempted (exit code 75)") == 2
    logs = sorted((tmp_path / "run" / "logs").iterdir())
    assert logs and "counting:" in logs[0].read_text()
    tpu(cloud, "run", *job(tmp_path, "--exit=1"))
    wait_for(lambda: "failed (exit code 1): ValueError: as it was told" in tpu(cloud, "status"))
    assert "nothing is left" in tpu(cloud, "delete") and cloud.left() == []
    assert "nothing is left" in tpu(cloud, "delete")


def test_supervised_through_preemptions_a_queue_and_trouble(cloud, tmp_path):
    """Preempted twice, once without a notice; gcloud limits one call in ten, one connection in seven breaks."""
    cloud.set(limited=0.1, breaks=0.15, seed=3, quota=8)  # the slice that was taken holds all of the quota
    supervisor = start(cloud, "supervise", TYPE, *job(tmp_path, "--steps=60"))
    for mark, notice in ((10, 0.1), (30, 0.0)):
        wait_for(lambda mark=mark: count(tmp_path) >= mark)
        assert cloud.preempt(notice) == ["pod"]
    text, _ = supervisor.communicate(timeout=120)
    assert supervisor.returncode == 0, text
    assert count(tmp_path) == 60 and cloud.left() == []
    with cloud.state() as state:
        assert state["made"] >= 3
    # Asked for again it is done, and makes nothing.
    before = len(calls(cloud))
    assert "was done before" in tpu(cloud, "supervise", TYPE, *job(tmp_path, "--steps=60"))
    assert len(calls(cloud)) == before


@pytest.mark.parametrize("moment", ["scp", "delete"])
def test_a_supervisor_that_is_killed_goes_on(cloud, tmp_path, moment):
    """More moments are in the soak `launch`."""
    more = [TYPE, "--provision=spot", *job(tmp_path, "--steps=5")]
    supervisor = start(cloud, "supervise", *more)
    wait_for(lambda: (cloud.folder / "calls.log").exists() and any(moment in line for line in calls(cloud)))
    supervisor.send_signal(signal.SIGKILL)
    supervisor.communicate()
    tpu(cloud, "supervise", *more)
    assert count(tmp_path) == 5 and cloud.left() == []
    starts = (tmp_path / "run" / "starts").read_text().split()
    assert sorted(starts) == ["0", "1"]  # the command was not started anew


@pytest.mark.parametrize(
    ("flags", "more", "code", "told"),
    [
        (["--exit=1"], [], 1, "failed after 3 starts"),
        (["--exit=130"], [], 130, "stopped on a worker after 1 starts"),
        (["--steps=100000"], ["--max_chip_hours=0.001"], 3, "over the budget"),
        (["--steps=1"], ["--type=v3-8"], 2, "INVALID_ARGUMENT"),
        (["--steps=1"], ["--type=v2-8"], 2, "is not there"),
        (["--steps=1"], ["--type=v99-8"], 2, "not a type that is known"),
    ],
)
def test_supervision_ends_with_a_reason_and_leaves_nothing(cloud, tmp_path, flags, more, code, told):
    assert told in tpu(cloud, "supervise", TYPE, *more, *job(tmp_path, *flags), code=code)
    assert cloud.left() == []


def test_workers_with_other_packages_are_told(cloud):
    tpu(cloud, "create", TYPE, "--noqueued")
    (cloud.worker("pod", 1) / "freeze").write_text("jax==0.1\n")
    assert "2 different sets of packages" in tpu(cloud, "setup", code=2)
    tpu(cloud, "delete")
    assert cloud.left() == []


def test_several_slices(cloud, tmp_path):
    more = ["--provision=reserved", "--noautodelete", *job(tmp_path, "--steps=5")]
    text = tpu(cloud, "supervise", TYPE, "--slices=2", *more)
    assert text.count("done (exit code 0)") == 4 and "costs money" in text and cloud.left() == ["pod", "pod-0", "pod-1"]
    tpu(cloud, "run", *job(tmp_path, "--exit=1", folder="--workdir"))
    ends = {f"{number}-{worker:04d}-000000.txt" for number in range(2) for worker in range(2)}  # each worker's log is kept
    wait_for(lambda: {path.name.partition("-")[2] for path in tmp_path.glob("run/logs/*.txt")} == ends)
    tpu(cloud, "delete")
    assert cloud.left() == []


def test_slices_that_are_kept_run_the_next_command(cloud, tmp_path):
    for steps in (2, 4):
        tpu(cloud, "supervise", TYPE, "--noautodelete", *job(tmp_path, f"--steps={steps}"))
        assert count(tmp_path) == steps  # and what the workers know of the first one's attempts is not taken for the second's


def test_half_of_the_slices_is_not_kept(cloud):
    cloud.set(quota=8)
    assert "Quota limit" in tpu(cloud, "create", TYPE, "--slices=2", "--noqueued", code=2)
    assert sum(call.startswith("tpu-vm create") for call in calls(cloud)) >= 2 and cloud.left() == []


def test_when_no_try_is_left_no_slice_is_made(cloud, tmp_path):
    supervisor = start(cloud, "supervise", TYPE, "--tries=1", *job(tmp_path, "--steps=100000"))
    wait_for(lambda: count(tmp_path))
    cloud.preempt()
    text, _ = supervisor.communicate(timeout=120)
    assert supervisor.returncode == 1 and "failed after 1 starts" in text, text
    assert sum(call.startswith("queued-resources create") for call in calls(cloud)) == 1 and cloud.left() == []


def test_two_supervisors_and_two_commands_are_kept_apart(cloud, tmp_path):
    supervisor = start(cloud, "supervise", TYPE, *job(tmp_path, "--steps=100000"))
    wait_for(lambda: count(tmp_path))
    assert "another supervisor" in tpu(cloud, "supervise", TYPE, *job(tmp_path, "--steps=100000"), code=2)
    supervisor.send_signal(signal.SIGINT)
    text, _ = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 130 and "costs money" in text and cloud.left() == ["pod", "pod"]
    assert "for another command" in tpu(cloud, "supervise", TYPE, *job(tmp_path, "--steps=1"), code=2)


def test_ctrl_c_while_gcloud_ends_is_no_error(tmp_path):
    """Otherwise a supervisor would take it for a fault of its own and delete the slices."""
    gcloud = tmp_path / "gcloud"
    gcloud.write_text("#!/bin/sh\n")
    gcloud.chmod(0o755)
    launch(
        tmp_path,
        """
class Interrupted(gcloud.subprocess.Popen):
    def communicate(self, *_, **__):
        self.wait()  # it has ended, and nothing of it is there any more
        raise KeyboardInterrupt
gcloud.subprocess.Popen = Interrupted
try:
    gcloud.call(["tpu-vm", "list"], seconds=3)
except KeyboardInterrupt:
    pass
else:
    raise AssertionError
""",
    )


def test_a_folder_that_git_does_not_know_costs_nothing(cloud, tmp_path):
    """A downloaded archive, say: it cannot be set up, which is told before anything is made."""
    folder = tmp_path / "downloaded"
    shutil.copytree(ROOT / "launch", folder / "launch")
    (folder / "humpback").mkdir()
    for name in ("__init__", "credentials", "errors", "metadata"):  # all that it needs of the package
        shutil.copy(ROOT / "humpback" / f"{name}.py", folder / "humpback")
    words = [sys.executable, str(folder / "launch" / "tpu.py"), *command(cloud, "supervise", TYPE, *job(tmp_path))[2:]]
    environment = {**os.environ, "PATH": f"{cloud.folder}/bin:{os.environ['PATH']}", "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "git must know this folder" in done.stderr and calls(cloud) == []


def test_a_lost_key_does_not_cost_the_slice(cloud, tmp_path):
    """An ssh agent that was started anew, say, and with it the supervisor: the workers are well, and go on."""
    more = [TYPE, *job(tmp_path, "--steps=200")]
    supervisor = start(cloud, "supervise", *more)
    wait_for(lambda: count(tmp_path))
    supervisor.send_signal(signal.SIGKILL)
    supervisor.communicate()
    cloud.set(key=False)
    before = len(calls(cloud))
    supervisor = start(cloud, "supervise", *more)
    wait_for(lambda: sum(call.startswith("tpu-vm ssh") for call in calls(cloud)[before:]) >= 5)
    cloud.set(key=True)
    text, _ = supervisor.communicate(timeout=120)
    assert supervisor.returncode == 0 and "ssh-add" in text and "1 starts" in text, text
    with cloud.state() as state:
        assert state["made"] == 1
    assert cloud.left() == []


def test_a_log_is_copied_whatever_the_flag_looks_like(cloud, tmp_path):
    tpu(cloud, "supervise", TYPE, "--", "run", "--workdir", str(tmp_path / "run"), "--exit=0")
    assert list((tmp_path / "run" / "logs").iterdir())


LAUNCH = """
from launch import gcloud, journal, slices, supervision, tpu
tpu.FLAGS(["tpu.py", "--name=pod", "--zone=z", "--type=v5litepod-8", "--journal=journal", "--poll_seconds=60"])
"""


def launch(folder, script):
    """Runs lines with launch/'s modules in a process of its own, as they have global flags."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-c", LAUNCH + script], cwd=folder, env=environment, check=True, timeout=60)


def test_chip_hours_last_until_the_slices_are_gone(tmp_path):
    launch(
        tmp_path,
        """
now = [1e9]
journal.time.time = lambda: now[0]
def watch(record, command):
    record.count(16)
    now[0] += 3600
    record.count(8)
    now[0] += 3600
    record.count(0)  # preempted at an unknown moment since the look before
    now[0] += 3600
    record.count(8)
    return journal.DONE
def delete(record):
    now[0] += 1800
supervision.watch, supervision.delete = watch, delete
supervision.git = lambda *_: ""
supervision.check_command = lambda _: None
assert supervision.supervise(journal.Journal(), ["run"]) == journal.DONE
found = journal.Journal().values["chip_hours"]
assert abs(found - (16 + 8 / 60 + 8 * 0.5)) < 1e-6, found
record = journal.Journal()  # a slice that was to delete itself while nobody looked: it was there until then, at most
record.write(chip_hours=0.0, seen=now[0], seen_chips=8, ends=now[0] + 7200)
now[0] += 36000
record.count(0)
assert abs(record.values["chip_hours"] - 8 * (2 + 1 / 30)) < 1e-6, record.values
""",
    )


def test_what_hangs_ends_with_all_that_it_started(tmp_path):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(f"#!/bin/bash\nsleep 1000 & echo $! >{shlex.quote(str(tmp_path))}/pid\nwait\n")
    gcloud.chmod(0o755)
    launch(
        tmp_path,
        """
done = gcloud.call(["tpu-vm", "list"], seconds=3)
assert done.returncode and done.stderr == "no answer within 3 s", done
""",
    )
    wait_for(lambda: not pathlib.Path(f"/proc/{int((tmp_path / 'pid').read_text())}").exists())


def dry_run(*arguments):
    """The gcloud lines, as words without `compute tpus`, "alpha" before those that need it."""
    done = subprocess.run([sys.executable, ROOT / "launch" / "tpu.py", "--dry_run", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line.partition("\npod: ")[0]) for line in re.split(r"(?:^|\n)\+ gcloud ", done.stdout)[1:]]
    alpha = [line[0] == "alpha" for line in lines]
    assert all(line[is_alpha : is_alpha + 2] == ["compute", "tpus"] for line, is_alpha in zip(lines, alpha, strict=True))
    return [[*["alpha"] * is_alpha, *line[is_alpha + 2 :]] for line, is_alpha in zip(lines, alpha, strict=True)]


NETWORK = ["--network=n", "--subnetwork=s", "--internal_ips", "--service_account=a"]


@pytest.mark.parametrize("more", [[], [*NETWORK, "--internal_ip"], [*NETWORK, "--tunnel_through_iap", "--provision=flex-start"]], ids=len)
@pytest.mark.parametrize("verb", ["create", "setup", "status", "logs", "stop", "delete", "run", "supervise"])
def test_dry_run_prints_what_the_reference_knows(verb, more, tmp_path):
    needed = [TYPE] if verb in ("create", "supervise") else []
    journal = f"--journal={tmp_path}"
    lines = dry_run(verb, *WHERE, journal, *needed, *more, *(["--", "run"] if verb in ("run", "supervise") else []))
    assert lines and not list(tmp_path.iterdir())
    for words in lines:
        alpha, words = words[:1] == ["alpha"], words[words[:1] == ["alpha"] :]
        verb, given = " ".join(words[:2]), {word[2:].partition("=")[0] for word in words[2:] if word.startswith("--")}
        known, more_known = {*FLAGS[verb].split(), "format", "project", "quiet"}, set(ALPHA.get(verb, "").split())
        assert given <= known | more_known and alpha == bool(given & more_known), words
        reached = {"internal-ip", "tunnel-through-iap"} & given
        assert len(reached) == (bool(more) and verb in ("tpu-vm ssh", "tpu-vm scp")), words
        if more and verb == "queued-resources create":
            assert {"network", "subnetwork", "internal-ips", "service-account"} <= given


@pytest.mark.parametrize(
    ("kind", "runtime"), [("v4-32", "tpu-ubuntu2204-base"), ("v5litepod-16", "v2-alpha-tpuv5-lite"), ("v5p-128", "v2-alpha-tpuv5")]
)
def test_create_takes_the_runtime_of_the_type(kind, runtime, tmp_path):
    where = [*WHERE, f"--journal={tmp_path}", f"--type={kind}"]
    *_, queued = dry_run("create", *where, "--provision=spot", "--project=mine")
    assert queued.pop(6).startswith("--labels=humpback=")
    wanted = ["--node-id=pod", f"--accelerator-type={kind}", f"--runtime-version={runtime}", "--spot", "--quiet"]
    assert queued == ["queued-resources", "create", "pod", *wanted, "--zone=z", "--project=mine"]
    *_, direct = dry_run("create", *where, "--noqueued")
    assert direct[:4] == ["tpu-vm", "create", "pod", f"--accelerator-type={kind}"] and f"--version={runtime}" in direct


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "--name=pod"], "--zone"),
        (["create", *WHERE], "--type is missing"),
        (["run", *WHERE], "comes after --"),
        (["restart", *WHERE], "restart : one of create"),
        (["logs", *WHERE, "--wroker=0"], "wroker"),
        (["create", *WHERE, TYPE, "--max_run_duration=36h"], "for --provision=flex-start only, and this is --provision=on-demand"),
        (["create", *WHERE, TYPE, "--provision=spot", "--max_run_duration=36h"], "this is --provision=spot"),
        (["create", *WHERE, TYPE, "--provision=flex-start", "--noqueued"], "cannot be had with --noqueued"),
        (["create", *WHERE, TYPE, "--provision=flex-start", "--max_run_duration=8d"], "at most seven days"),
        (["create", *WHERE, TYPE, "--provision=flex-start", "--max_run_duration=soon"], "such as 36h"),
    ],
)
def test_mistakes_are_named(arguments, message, tmp_path):
    words = [sys.executable, ROOT / "launch" / "tpu.py", "--dry_run", f"--journal={tmp_path}", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode and message in done.stderr and "+ gcloud" not in done.stdout


def test_flex_start_ends_by_itself(tmp_path):
    """The alpha command has the flags; the limit of chip-hours is given to Google, too."""
    where = [*WHERE, f"--journal={tmp_path}", TYPE, "--provision=flex-start"]
    *_, made = dry_run("create", *where, "--max_run_duration=1d12h30m5s")
    assert made[0] == "alpha" and {"--provisioning-model=flex-start", f"--max-run-duration={36 * 3600 + 1805}s"} <= set(made)
    assert not {"--spot", "--reserved"} & set(made)
