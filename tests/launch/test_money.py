"""launch/tpu.py and what costs money: nothing of others is touched, and whatever is left at an exit is named in the last line."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from launch import guard, local_pod, worker
from tests.launch import pods
from tests.launch.fake_gcloud import Cloud, services
from tests.launch.pods import ROOT, TYPE, calls, count, job, start, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are Linux machines")

# launch/tpu.py within one process, as its flags are global; each gcloud line is a call of the pretended project. `tend` is what is
# looked up on the workers: here nobody is asked.
PRELUDE = """
import contextlib, gc, io, json, os, pathlib, signal, subprocess, sys, threading, time
from launch import gcloud, journal, slices, supervision, tpu, workers
from tests.launch.fake_gcloud import Cloud, Error
cloud = Cloud(pathlib.Path("cloud")).begin()
TYPE, SPOT, RUN = "--type=v5litepod-8", "--provision=spot", ("--", "run")
def call(words, *_, **__):
    alpha = ["alpha"] if any(word.partition("=")[0] in gcloud.ALPHA for word in words) else []
    try:
        return subprocess.CompletedProcess(words, 0, cloud.run([*alpha, "compute", "tpus", *words, "--zone=z"]), "")
    except Error as error:
        return subprocess.CompletedProcess(words, error.code, "", str(error))
gcloud.call = call
gcloud.TRIES = 2
supervision.tend = lambda *_: journal.DONE
def do(*words, code=0):
    tpu.FLAGS.unparse_flags()
    text, more = io.StringIO(), [] if "--" not in words else list(words[words.index("--") :])
    given = list(words[: len(words) - len(more)])
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            argv = ["tpu.py", "--name=pod", "--zone=z", "--journal=journal", "--poll_seconds=0.01", *given, *more]
            tpu.main(tpu.FLAGS(argv))
        except SystemExit as end:
            assert end.code == code, (end.code, text.getvalue())
    gc.collect()  # an error holds the journal, and that its lock
    return text.getvalue().splitlines()
def costs(lines, state="is left as it is, and costs money", what="pod (v5litepod-8 in z)"):
    assert lines[-1] == f"tpu.py: {what} {state}; `launch/tpu.py delete --name=pod --zone=z --project=p` ends it", lines
def raising(error):
    def step(*_, **__):
        raise type(error)(*error.args)
    return step
def after(seconds, step):
    threading.Timer(seconds, step).start()
def up():
    do("create", TYPE)
    while "READY" not in str(do("status")):
        pass
"""


def paths(folder, script):
    """Runs lines after the prelude in a process of its own, which heeds signals."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", PRELUDE + script]
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, preexec_fn=pods.heed_signals, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


EXITS = {
    "each verb": """
costs(do("create", TYPE), "waits in the queue, and costs money as soon as it is up")
costs(do("create", TYPE), "waits in the queue, and costs money as soon as it is up")
up()
costs(do("status"))
workers.answers = lambda *_, **__: [{"slice": 0, "worker": str(n), "setup": "x", "running": False, "versions": ""} for n in range(2)]
costs(do("setup"))
costs(do("stop"))
costs(do("logs"), "was asked for from here; what is there of it costs money")
costs(do("run", *RUN, code=2))  # started on 0 of 2 workers
costs(do("create", "--type=v4-8", code=2))
costs(do("restart", code=2), "was asked for from here; what is there of it costs money")
assert do("delete")[-1].endswith("nothing is left") and cloud.left() == []
assert do("delete")[-1].endswith("nothing is left")
""",
    "a delete that is refused": """
up()
cloud.set(refused=["queued-resources delete"])
lines = do("delete", code=2)
assert "PERMISSION_DENIED" in str(lines)
costs(lines)
lines = do("supervise", TYPE, *RUN, code=2)
assert any("done after 0 starts" in line for line in lines) and not any("nothing is left" in line for line in lines)
costs(lines)
cloud.set(refused=[])
assert not any("costs" in line for line in do("supervise", TYPE, *RUN)[-3:]) and cloud.left() == []
""",
    "a delete that does not help": """
up()
slices.gcloud.gcloud, real = (lambda *words, **more: "" if "delete" in words else real(*words, **more)), gcloud.gcloud
lines = do("delete", code=2)
assert "is still there" in lines[-2]
costs(lines)
""",
    "not deleted at the end": """
costs(do("supervise", TYPE, "--noautodelete", *RUN))
assert cloud.left() == ["pod", "pod"]
""",
    "Ctrl-C and its like at work": """
supervision.tend = lambda *_: journal.DONE if came else supervision.ON
for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
    came = []
    after(1, lambda number=number: os.kill(os.getpid(), number))
    costs(do("supervise", TYPE, *RUN, code=code))
assert cloud.left() == ["pod", "pod"]
""",
    "Ctrl-C in the queue": """
from tests.launch import fake_gcloud
fake_gcloud.QUEUE += ["PROVISIONING"] * 100000
after(1, lambda: os.kill(os.getpid(), signal.SIGINT))
costs(do("supervise", TYPE, *RUN, code=130), "waits in the queue, and costs money as soon as it is up")
""",
    "Ctrl-C when nothing can be reached any more, at work and while it deletes": """
supervision.tend = lambda *_: cloud.set(down=True) or supervision.ON
after(2, lambda: os.kill(os.getpid(), signal.SIGINT))
lines = do("supervise", TYPE, *RUN, code=130)
assert any("no route" in line for line in lines)
costs(lines)
cloud.set(down=False)
supervision.tend = lambda *_: cloud.set(down=True) or journal.DONE
after(2, lambda: os.kill(os.getpid(), signal.SIGINT))
lines = do("supervise", TYPE, *RUN, code=130)
assert any("done after" in line for line in lines)
costs(lines)
""",
    "a second Ctrl-C": """
child = os.fork()
if child == 0:
    sys.stderr = open("said", "w", buffering=1)
    tpu.do = lambda record, *_: (record.values.update(slices={"id": "", "type": "v4-8", "count": 1, "zone": "z", "project": "p"}), slow())
    def slow():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
    tpu.FLAGS(["tpu.py", "--name=pod", "--zone=z", "--journal=none"])
    tpu.main(["tpu.py", "status"])
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
assert "pod (v4-8 in z) was asked for from here; what is there of it costs money" in open("said").read()
""",
    "an error of this program": """
supervision.tend = raising(RuntimeError("a mistake of ours"))
lines = do("supervise", TYPE, *RUN, code=1)
assert "RuntimeError: a mistake of ours" in lines and cloud.left() == [] and "costs money" not in lines[-1]
up()
workers.answers = raising(RuntimeError("a mistake of ours"))
lines = do("setup", code=1)
assert "RuntimeError: a mistake of ours" in lines
costs(lines)
supervision.delete = raising(RuntimeError("while it deletes"))
lines = do("supervise", TYPE, *RUN, code=1)
costs(lines)
""",
    "no gcloud": """
up()
gcloud.call = raising(gcloud.Refused("gcloud is not installed; it is part of the Google Cloud CLI"))
for verb in ("status", "delete"):
    costs(do(verb, code=2), "was asked for from here; what is there of it costs money")
""",
    "one of two is made, and cannot be deleted": """
cloud.set(quota=8, refused=["tpu-vm delete"])
lines = do("create", TYPE, "--slices=2", "--noqueued", code=2)
assert any("Quota limit" in line for line in lines)
costs(lines, what="pod (2 × v5litepod-8 in z)")
assert cloud.left() == ["pod-0"]
cloud.set(refused=[])
assert do("delete")[-1].endswith("nothing is left") and cloud.left() == []
""",
    "what is not there": """
assert "costs" not in str(do("create", "--type=v2-8", code=2)) and cloud.left() == []
assert "not a type" in str(do("supervise", "--type=v99-8", *RUN, code=2))
assert "INVALID_ARGUMENT" in str(do("supervise", "--type=v3-8", *RUN, code=2)) and cloud.left() == []
""",
    "a journal that is damaged or held": """
up()
import fcntl
with open("journal/pod.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for verb in ("create", "delete"):
        costs(do(verb, code=2), "was asked for from here; what is there of it costs money")
pathlib.Path("journal/pod.json").write_text("{")
assert "costs money, see gcloud" in do("delete", code=2)[-1] and cloud.left() == ["pod", "pod"]
""",
    "another number, type or place": """
do("supervise", TYPE, "--slices=2", "--noautodelete", *RUN)
there = cloud.left()
assert there == ["pod", "pod-0", "pod-1"]
for wrong in (["--slices=1", TYPE], ["--slices=2", "--type=v4-8"], ["--zone=y", TYPE], ["--zone=y", "--project=q"]):
    elsewhere = "--zone=y" in wrong
    verbs = [("supervise", ("--", "run", "another")), ("create", ())] + [(verb, ()) for verb in ("delete", "status", "stop")] * elsewhere
    for verb, more in verbs:
        lines = do(verb, *wrong, *more, code=2)
        assert "was made with --" in lines[-2], lines
        assert "costs money" in lines[-1] and cloud.left() == there
supervision.tend = lambda record, *_: journal.DONE if slices.nodes(record) == ["pod-0", "pod-1"] else journal.FAILED
do("supervise", "--noautodelete", "--", "run", "another")  # both are what was made
assert cloud.left() == there
assert do("delete")[-1].endswith("nothing is left") and cloud.left() == []
""",
    "a setting of gcloud that has changed since": """
up()
asked = []
gcloud.call = lambda words, *_, **__: asked.append(tpu.FLAGS.project) or call(words)
assert do("delete")[-1].endswith("nothing is left") and set(asked) == {"p"}
up()
costs(do("delete", "--project=q", code=2), "was asked for from here; what is there of it costs money")
gcloud.call = lambda words, *_, **__: subprocess.CompletedProcess(words, 1, "", "NOT_FOUND: no such zone")
lines = do("delete", code=2)
assert "cannot be listed" in lines[-2]
costs(lines, "was asked for from here; what is there of it costs money")
""",
    "what was taken away": """
up()
cloud.preempt()
costs(do("status"), "was taken away; what may be left of it costs money")
cloud.set(quota=8)  # the slice that was taken holds all of the quota
do("create", TYPE)
assert "nothing is left" in str(do("delete")) and cloud.left() == []
with cloud.state() as state:
    state["nodes"] = state["queued"] = {}
up()
with cloud.state() as state:  # deleted by hand, elsewhere
    state["nodes"], state["queued"] = {}, {}
assert "there is none" in do("status")[-1]
do("create", "--type=v4-8")  # the journal's note of the other one does not stand against it
""",
}


@pytest.mark.parametrize("case", EXITS)
def test_what_is_left_is_named_last(case, tmp_path):
    paths(tmp_path, EXITS[case])


FOREIGN = """
up() if {ours} else None
cloud.add_foreign("{name}", "{kind}")
(log := pathlib.Path("cloud/calls.log")).touch()
before = len(log.read_text().splitlines())
for words in (["create", TYPE], ["supervise", TYPE, "--noautodelete", *RUN], ["supervise", TYPE, *RUN]):
    lines = do(*words, code={code})
    assert any("{name} (READY)" in line and "not made from here" in line for line in lines) or {ours}, lines
    assert "{name}" in cloud.left()
if not {ours}:
    for words in (["setup"], ["run", *RUN], ["stop"]):
        assert "not made from here" in str(do(*words, code=2))
lines = do("status")
assert any("{name} (READY)" in line and "costs money" in line for line in lines), lines
lines = do("delete")
assert "not made from here" in lines[-1] and "nothing is left that was made from here" in lines[-1], lines
assert cloud.left() == ["{name}"]
done = [line for line in log.read_text().splitlines()[before:] if not line.split()[1] == "list"]
assert {ours} or done == [], done
"""


@pytest.mark.parametrize(
    ("name", "kind", "ours"),
    [("pod", "v4-8", False), ("pod", "v5litepod-8", False), ("pod-1", "v4-8", True)],
    ids=["of another type", "of the same type", "beside ours"],
)
def test_what_somebody_else_made_is_left_alone(name, kind, ours, tmp_path):
    """It is not adopted, set up, which empties a folder, stopped or deleted, whatever its type; and it is told."""
    paths(tmp_path, FOREIGN.format(name=name, kind=kind, ours=ours, code=0 if ours else 2))


def test_what_somebody_else_made_since_is_left_alone(tmp_path):
    """The name is the same, and the label is not: ours was deleted by hand, or never came."""
    script = """
up()
with cloud.state() as state:
    state["queued"] = {}
    state["nodes"]["pod"]["labels"] = {"humpback": "of another journal"}
for words in (["setup"], ["stop"], ["create"], ["supervise", TYPE, *RUN], ["create", TYPE]):
    assert "not made from here" in str(do(*words, code=2)), words
assert "not made from here" in do("delete")[-1] and cloud.left() == ["pod"]
"""
    paths(tmp_path, script)


def test_a_supervisor_that_nobody_hears_goes_on(tmp_path):
    """Its output is a pipe that is closed: that is no reason to leave what costs money, nor to end the work."""
    script = """
class Closed(io.StringIO):
    def write(self, text):
        raise BrokenPipeError
io.StringIO = Closed
looks = []
supervision.tend = lambda *_: journal.DONE if len(looks) == 3 else looks.append(gcloud.say("a look")) or supervision.ON
tpu.FLAGS(["tpu.py", "--name=pod", "--zone=z", "--journal=journal", "--poll_seconds=0.01", TYPE])
with contextlib.redirect_stdout(Closed()), contextlib.redirect_stderr(Closed()):
    try:
        tpu.main(["tpu.py", "supervise", "run"])
    except SystemExit as end:
        assert end.code == 0
assert len(looks) == 3 and cloud.left() == []
"""
    paths(tmp_path, script)


def test_the_limit_holds_without_the_laptop(tmp_path):
    """Worker 0 deletes its own slice."""
    cloud = Cloud(tmp_path / "cloud")
    with services(cloud) as variables:
        pods.begin(cloud.folder, **variables)
        supervisor = start(cloud, "supervise", TYPE, "--max_chip_hours=8", *job(tmp_path, "--steps=100000"))
        said = []
        try:
            for line in supervisor.stdout:
                said.append(line)
                if "worker 0 keeps the limit, too: it deletes its slice at" in line:
                    break
            assert "8 chip-hours is kept by this process and ends with it" in "".join(said)
            supervisor.send_signal(signal.SIGKILL)
            guard = json.loads((cloud.worker("pod", 0) / "humpback-guard.json").read_text())
            assert guard["allowed"] and 3000 < guard["ends"] - time.time() <= 3600
            assert not (cloud.worker("pod", 1) / "humpback-guard.json").exists()
            words = "cd humpback && .venv/bin/python launch/worker.py limit --seconds=0.2 --node=pod --zone=z"
            wait_for(lambda: count(tmp_path))
            cloud.run(["compute", "tpus", "tpu-vm", "ssh", "pod", "--worker=0", f"--command={words}", "--zone=z"])
            wait_for(lambda: not cloud.worker("pod", 0).exists())
            assert cloud.left() == ["pod"]  # the request for it: it costs nothing
        finally:
            cloud.end()


def test_what_is_not_so_is_not_claimed(tmp_path):
    """A limit is set where there is none or another, taken back where none is given, and said to be kept when all slices may."""
    script = """
tpu.FLAGS(["tpu.py", "--name=pod", "--zone=z", "--journal=journal", TYPE, "--slices=2", "--max_chip_hours=32"])
asked, said, record = [], [], journal.Journal()
record.ask("v5litepod-8", 2)
gcloud.ssh = lambda node, command, **more: asked.append((node, command.partition(" limit ")[2], more))
supervision.say = said.append
def look(*limits):
    del asked[:], said[:]
    found = [{"slice": n, "worker": str(w), "limit": limits[n] if w == 0 else None} for n in range(2) for w in range(2)]
    supervision.limit_on_workers(record, found)
    return asked
kept = lambda left: {"left": left, "allowed": True, "why": ""}
refused = {"left": 7200, "allowed": False, "why": "the service account has no tpu.nodes.delete"}
assert look(None, kept(7190)) == [("pod-0", "--seconds=7200 --node=pod-0 --zone=z", {"worker": "0"})] and not said
assert look(kept(9000), kept(3000))[1][1] == "--seconds=7200 --node=pod-1 --zone=z" and len(asked) == 2
record.values["ends"] = 0.0
assert look(kept(7200), refused) == [] and said == ["pod: the limit ends with this machine: the service account has no tpu.nodes.delete"]
assert look(kept(7200), refused) == [] and said == [] and record.values["ends"] == 0  # it is said once
assert look(kept(7200), kept(7210)) == [] and "worker 0 keeps the limit, too: it deletes its slice at" in said[0]
assert 7100 < record.values["ends"] - time.time() <= 7200
tpu.FLAGS.max_chip_hours = 0
assert look(kept(7200), None) == [("pod-0", "--seconds=0 --node=pod-0 --zone=z", {"worker": "0"})] and record.values["ends"] == 0
"""
    paths(tmp_path, script)


@pytest.mark.parametrize(("may_delete", "answers"), [(True, True), (False, True), (True, False)])
def test_whether_a_worker_may_delete_is_asked(may_delete, answers, tmp_path, monkeypatch):
    """Where it cannot be asked it is not claimed, and no token is in what is said."""
    cloud = Cloud(tmp_path / "cloud").begin()
    cloud.set(may_delete=may_delete)
    monkeypatch.setattr(worker, "GUARD", tmp_path / "guard.json")
    with services(cloud) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if not answers:
            monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER", f"http://127.0.0.1:{local_pod.free_ports()}")
        try:
            guard.begin(3600, "pod", "z", "")
            limit = worker.limit()
        finally:
            guard.begin(0, "pod", "z", "")
    assert limit["allowed"] == (may_delete and answers) and 3590 < limit["left"] <= 3600 and worker.limit() is None
    assert ("cannot be asked" in limit["why"]) == (not answers) and ("has no tpu.nodes.delete" in limit["why"]) == (not may_delete)
    assert "of-the-machine" not in str(limit)


def test_flex_start_gives_google_the_limit(tmp_path):
    script = """
lines = do("supervise", TYPE, "--provision=flex-start", "--max_chip_hours=8", *RUN)
assert any("Google deletes each slice" in line for line in lines)
assert "--max-run-duration=3600s" in next(line for line in open("cloud/calls.log") if " create " in line)
"""
    paths(tmp_path, script)


def test_a_test_leaves_no_process(cloud, tmp_path):
    """Whatever a test has started on this project ends with it: supervisors, gcloud and the workers' processes."""
    supervisor = start(cloud, "supervise", TYPE, *job(tmp_path, "--steps=100000"))
    wait_for(lambda: calls(cloud))
    cloud.end()
    assert supervisor.wait(10) == -signal.SIGKILL
    mark = str(cloud.folder).encode()
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "environ").read_bytes() if re.search(r"State:\s+[^Z]", (path / "status").read_text()) else b""
        except OSError:
            continue
        assert mark not in text, (path / "cmdline").read_bytes()
    supervisor.communicate()
