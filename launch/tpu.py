#!/usr/bin/env python3
"""Cloud TPU slices from a laptop: create them, run one command on all their workers, and see it through preemptions.

    tpu.py create    --name=N --zone=Z --type=v5litepod-16 [--provision=spot] [--slices=2]   makes the slices, or takes those that are there
    tpu.py setup     --name=N --zone=Z     this folder, as it is, and the tested versions on every worker; all must come out alike
    tpu.py run       --name=N --zone=Z -- run --config=configs/llama_7b.py --workdir=gs://BUCKET/RUN
    tpu.py status    --name=N --zone=Z     each worker: running or how it ended, stage, step, rate, time left, last error
    tpu.py logs      --name=N --zone=Z [--worker=0] [--follow]
    tpu.py stop      --name=N --zone=Z     SIGTERM to what was started, which saves
    tpu.py delete    --name=N --zone=Z
    tpu.py supervise --name=N --zone=Z --type=… -- run …     all of this, again and again, until the command is done

What follows `--` is given to `humpback` on all workers at once, detached from the connection. Every verb may be called again, and
finds done what is done. --dry_run prints the gcloud lines and runs none. Besides absl and the standard library this needs the
gcloud command; for more than one worker do `ssh-add ~/.ssh/google_compute_engine` first.

`supervise` may be killed and started again; what it knows is in --journal. It ends with 0 when the command is done; 2 when it was
called wrongly, 1 when it failed (--tries times, or three times in a row by an error), 3 when --max_chip_hours are used up. Then
the slices are deleted, unless --noautodelete. Ctrl-C leaves them running.

The gcloud commands and flags are those of Google's reference, cloud.google.com/sdk/gcloud/reference/compute/tpus/ (pages
queued-resources/create, …/describe, …/delete, tpu-vm/create, …/describe, …/ssh, …/scp, …/delete), checked with gcloud 528.0.0.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TypeVar

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]

flags.DEFINE_string("name", None, "of the slice, or what the names of several slices begin with", required=True)
flags.DEFINE_string("zone", None, "where, for example europe-west4-b", required=True)
flags.DEFINE_string("project", None, "Google Cloud project; gcloud's own setting if not given")
flags.DEFINE_string("type", None, "create, supervise: accelerator type of a slice, for example v4-32")
flags.DEFINE_integer("slices", 1, "how many slices of that type, for one run over all", lower_bound=1)
flags.DEFINE_enum("provision", "on-demand", ["on-demand", "spot", "reserved"], "spot costs least and may be taken away at any time")
flags.DEFINE_bool("queued", True, "ask for a queued resource, and wait; --noqueued asks for a VM now")
flags.DEFINE_string("runtime", None, "runtime version; by default the one that Google names for the type")
flags.DEFINE_string("service_account", None, "account of the VMs; it needs roles/storage.objectUser on the bucket")
flags.DEFINE_string("extras", "tpu,demo", "setup: extras of the package to install")
flags.DEFINE_string("worker", "0", "logs: a number, or all")
flags.DEFINE_bool("follow", False, "logs: go on as they grow")
flags.DEFINE_bool("dry_run", False, "print the gcloud lines and run none of them")
flags.DEFINE_integer("tries", 50, "supervise: starts of the command, at most", lower_bound=1)
flags.DEFINE_float("max_chip_hours", 0, "supervise: ends when the slices have cost so many; 0 for no limit", lower_bound=0)
flags.DEFINE_bool("autodelete", True, "supervise: delete the slices at the end, also after an error")
flags.DEFINE_float("poll_seconds", 60, "supervise: between two looks", lower_bound=0.01)
flags.DEFINE_string("journal", str(ROOT / "runs" / "tpu"), "supervise: folder of NAME.json, which has tries, chip-hours and the outcome")
FLAGS = flags.FLAGS

# Runtime versions by the page cloud.google.com/tpu/docs/runtimes; a type's number counts cores up to v5p, of which a chip has two,
# and chips for v5e and v6e (cloud.google.com/tpu/docs/system-architecture-tpu-vm, "TPU configurations").
RUNTIMES = {"v2": "tpu-ubuntu2204-base", "v3": "tpu-ubuntu2204-base", "v4": "tpu-ubuntu2204-base", "v5p": "v2-alpha-tpuv5",
            "v5litepod": "v2-alpha-tpuv5-lite", "v6e": "v2-alpha-tpuv6e"}  # fmt: skip
CORES_PER_CHIP = {"v5litepod": 1, "v6e": 1}  # others: 2
# States of a queued resource and of a node: cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.queuedResources#State
# and …/projects.locations.nodes#State.
WAITING = {"CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "STARTING", "RESTARTING", "REIMAGING", "REPAIRING"}
LEAVING = {"DELETING", "SUSPENDING", "STOPPING", "HIDING"}
UP = {"ACTIVE", "READY"}  # in any other state it is gone: FAILED, SUSPENDED, PREEMPTED, TERMINATED, STOPPED, …
# What gcloud's answers are told apart by: google.rpc.Code's names, and gcloud's own words for a wrong command line.
NO_ROOM = ("RESOURCE_EXHAUSTED", "no more capacity", "Quota limit", "QUOTA_EXCEEDED", "Insufficient")
LIMITED = ("rateLimitExceeded", "RATE_LIMIT_EXCEEDED")  # said beside RESOURCE_EXHAUSTED: too many requests a minute
WRONG = ("INVALID_ARGUMENT", "PERMISSION_DENIED", "unrecognized arguments", "Invalid choice", "Invalid value")
NO_KEY = "Permission denied (publickey"  # ssh's own words
GCLOUD_TRIES = 5
SSH_SECONDS, SETUP_SECONDS = 300, 3600
UNREACHABLE = 3  # looks in a row without an answer of all workers, after which the slices are made anew
DONE, FAILED, MISUSED, OVER_BUDGET = 0, 1, 2, 3  # exit codes
WORKER_ERROR, WORKER_MISUSED = 1, 2  # exit codes of humpback; others but 0 (70 hung, 75 preempted, 134 peer lost) are worth a try
ERRORS = 3  # in a row, after which it has failed
ON, SILENT = -1, -2  # of `tend`

T = TypeVar("T")


class Refused(Exception):
    """It cannot be done. `hopeless`: nor later; otherwise the trouble may pass, as a lack of quota, room or network does."""

    def __init__(self, text: str, hopeless: bool = True):
        super().__init__(text)
        self.hopeless = hopeless


class NoKey(Refused):
    """The workers do not take this machine's ssh key, or its agent has lost it."""


# --- gcloud ------------------------------------------------------------------------------------------------------------------


def gcloud(*words: str, seconds: float = 600) -> str | None:
    """Prints and runs `gcloud compute tpus …` and returns what it says; None when there is no such resource.

    Trouble that may pass, but for a lack of room, is tried again after a pause that doubles.
    """
    for attempt in range(GCLOUD_TRIES):
        if attempt:
            time.sleep(min(60, FLAGS.poll_seconds * 2 ** (attempt - 1)) * random.uniform(0.5, 1))
        done = call(words, seconds)
        if done.returncode == 0:
            return done.stdout
        if "ALREADY_EXISTS" in done.stderr:
            return ""
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        missing = "NOT_FOUND" in done.stderr
        if not (missing and "describe" in words):
            print(f"  gcloud: {last}", flush=True)
        if missing:
            return None
        if any(word in done.stderr for word in WRONG):
            raise Refused(last)
        if any(word in done.stderr for word in NO_ROOM) and not any(word in done.stderr for word in LIMITED):
            break
    raise Refused(last, hopeless=False)


def call(words: Sequence[str], seconds: float | None, shown: bool = False) -> subprocess.CompletedProcess:
    """One call of gcloud, printed as it can be pasted into a shell. shown: what it says goes to the screen, and not to the caller."""
    line = ["gcloud", "compute", "tpus", *words, f"--zone={FLAGS.zone}", *([f"--project={FLAGS.project}"] if FLAGS.project else [])]
    if FLAGS.dry_run or not ("describe" in words or STATUS in words[-2]):  # those that only look would fill the screen
        print("+", shlex.join(line), flush=True)
    if FLAGS.dry_run:
        return subprocess.CompletedProcess(line, 0, "", "")
    streams = {"stdin": subprocess.DEVNULL} | ({} if shown else {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE})
    try:
        process = subprocess.Popen(line, encoding="utf-8", errors="replace", start_new_session=True, **streams)
    except FileNotFoundError:
        raise Refused("gcloud is not installed; it is part of the Google Cloud CLI") from None
    try:
        said, told = process.communicate(timeout=seconds)
        return subprocess.CompletedProcess(line, process.returncode, said, told)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(process.pid, signal.SIGKILL)  # gcloud is a script that starts Python, which starts ssh
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return subprocess.CompletedProcess(line, 255, "", f"no answer within {seconds:g} s")


def ssh(node: str, command: str, seconds: float = SSH_SECONDS) -> str:
    """What the workers of a slice say to a command. A connection that breaks is an answer that did not come: the caller counts.

    NoKey when there is no answer at all for want of a key.
    """
    done = call(["tpu-vm", "ssh", node, "--worker=all", f"--command={command}", "--quiet"], seconds)
    if NO_KEY in done.stderr and not done.stdout.strip():
        raise NoKey(f"{node} does not take this machine's ssh key; `ssh-add ~/.ssh/google_compute_engine` gives it to ssh", hopeless=False)
    if done.returncode and done.stderr.strip():
        print("  " + "\n  ".join(done.stderr.strip().splitlines()[-3:]), flush=True)
    return done.stdout


def answers(command: str, seconds: float = SSH_SECONDS) -> list[dict]:
    """The objects of the lines `HUMPBACK {…}` that the workers of all slices print; slice and worker are in each."""
    found = []
    for number, node in enumerate(nodes()):
        lines = ssh(node, command, seconds=seconds).splitlines()
        for line in lines:
            with contextlib.suppress(ValueError):  # of a line that was cut off
                found += [{"slice": number, **json.loads(line.partition("HUMPBACK ")[2])}] if "HUMPBACK {" in line else []
    return sorted(found, key=lambda answer: (answer["slice"], int(answer.get("worker", 0))))


# --- slices ------------------------------------------------------------------------------------------------------------------


class Pod:
    """The slices as they are: `state` is missing, waiting, up, leaving or gone; `workers`, when they are up, how many in all."""

    def __init__(self) -> None:
        queued = describe("queued-resources", FLAGS.name)
        states = [queued["state"]["state"]] if queued else []
        found = [describe("tpu-vm", node) for node in nodes()] if not queued or states[0] in UP else []  # or they are not there
        self.queued, self.nodes = queued is not None, [node is not None for node in found]
        states += [node["state"] if node else "missing" for node in found]
        self.detail = " ".join(dict.fromkeys(states)) if queued or any(self.nodes) else "there is none"
        self.workers = sum(len(node.get("networkEndpoints", [])) for node in found if node and node["state"] == "READY")
        self.type = next((node.get("acceleratorType") for node in found if node), None)
        if not queued and not any(self.nodes):
            self.state = "missing"
        elif all(state in UP for state in states):
            self.state = "up"
        elif any(state in LEAVING for state in states):
            self.state = "leaving"
        else:
            self.state = "waiting" if all(state in UP | WAITING for state in states) else "gone"


def describe(kind: str, name: str) -> dict | None:
    """A queued resource or a node in gcloud's JSON; None when there is none."""
    text = gcloud(kind, "describe", name, "--format=json")
    return json.loads(text) if text else None


def nodes() -> list[str]:
    """Names of the slices; of several, gcloud numbers them behind the prefix."""
    return [FLAGS.name] if FLAGS.slices == 1 else [f"{FLAGS.name}-{number}" for number in range(FLAGS.slices)]


def family(kind: str) -> str:
    """v4 of v4-32. Refused for a type that is not known."""
    name = kind.partition("-")[0]
    if name not in RUNTIMES or not kind.partition("-")[2].isdecimal():
        raise Refused(f"--type={kind}: not a type that is known here; these begin with {', '.join(RUNTIMES)}, as in v4-32")
    return name


def chips(kind: str) -> int:
    """Of one slice."""
    return int(kind.partition("-")[2]) // CORES_PER_CHIP.get(family(kind), 2)


def create() -> None:
    """Asks for the slices, or takes those that are there."""
    if not FLAGS.type:
        raise Refused("--type is missing, for example --type=v5litepod-16")
    runtime = FLAGS.runtime or RUNTIMES[family(FLAGS.type)]
    more = [] if FLAGS.provision == "on-demand" else [f"--{FLAGS.provision}"]
    more += [f"--service-account={FLAGS.service_account}"] if FLAGS.service_account else []
    pod = Pod()
    if pod.state in ("up", "waiting"):
        if pod.type not in (None, FLAGS.type):
            raise Refused(f"{FLAGS.name} is there and is a {pod.type}, not a {FLAGS.type}; take another --name, or delete it")
        return say(f"{FLAGS.name} is there: {pod.detail}")
    if pod.state != "missing":
        delete()
    made: list[str | None] = []
    if FLAGS.queued:
        which = [f"--node-id={FLAGS.name}"] if FLAGS.slices == 1 else [f"--node-count={FLAGS.slices}", f"--node-prefix={FLAGS.name}"]
        kind = [f"--accelerator-type={FLAGS.type}", f"--runtime-version={runtime}"]
        made.append(gcloud("queued-resources", "create", FLAGS.name, *which, *kind, *more, "--quiet"))
    else:
        kind = [f"--accelerator-type={FLAGS.type}", f"--version={runtime}"]
        try:
            made += [gcloud("tpu-vm", "create", node, *kind, *more, "--quiet", seconds=1800) for node in nodes()]
        except Refused:  # some of the slices would cost money while the others wait for room
            delete()
            raise
    if None in made:
        raise Refused(f"--zone={FLAGS.zone} --type={FLAGS.type}: something that this names is not there; what gcloud says is above")
    return None


def delete() -> None:
    """Deletes the slices and the request for them, and returns when none is left. Without any it does nothing."""
    for _ in range(GCLOUD_TRIES):
        pod = Pod()
        if FLAGS.dry_run or pod.queued:  # --force: and its nodes
            gcloud("queued-resources", "delete", FLAGS.name, "--force", "--quiet", seconds=1800)
        for node, there in zip(nodes(), pod.nodes, strict=False):
            if FLAGS.dry_run or (there and not pod.queued):
                gcloud("tpu-vm", "delete", node, "--quiet", seconds=1800)
        if FLAGS.dry_run or pod.state == "missing":
            return say(f"{FLAGS.name}: nothing is left")
        time.sleep(min(10, FLAGS.poll_seconds))
    raise Refused(f"{FLAGS.name} is still there and costs money; see gcloud compute tpus queued-resources list --zone={FLAGS.zone}", False)


# --- workers -----------------------------------------------------------------------------------------------------------------


def git(*words: str) -> str:
    """What git says of this folder."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refused(f"{ROOT}: git must know this folder, so that the run's directory can say what ran ({error})") from None


@contextlib.contextmanager
def source() -> Iterator[tuple[str, str]]:
    """(path of an archive of this folder, a stamp of what is in it): what git knows, as it lies here, and how that differs from HEAD."""
    names = sorted(set(git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")) - {""})
    record = {"commit": git("rev-parse", "HEAD").strip(), "diff": git("diff", "HEAD")}
    record["untracked"] = git("ls-files", "--others", "--exclude-standard")
    digest = hashlib.sha256(FLAGS.extras.encode())
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        with tarfile.open(file.name, "w:gz", compresslevel=1) as archive:
            for name in names:
                if (ROOT / name).is_file():
                    digest.update(f"{name}\0".encode() + (ROOT / name).read_bytes())
                    archive.add(ROOT / name, name)
            text = json.dumps(record, indent=2).encode()
            entry = tarfile.TarInfo("source.json")  # humpback publishes it beside the run's config.json
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        yield file.name, f"{record['commit'][:12]}-{digest.hexdigest()[:12]}"


# The images' own Python may be 3.10; uv then brings one (docs.astral.sh/uv/guides/install-python, …/reference/cli, "uv python find").
SETUP = """set -e; mkdir -p humpback; cd humpback; rm -f .setup-done
find . -mindepth 1 -maxdepth 1 ! -name '.venv*' ! -name runs -exec rm -rf {{}} +
tar -xzf ../humpback.tar.gz
if ! ${{PYTHON:-python3}} -c "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then
  python3 -m pip install --user --quiet uv; python3 -m uv python install --quiet 3.13
  export PYTHON="$(python3 -m uv python find --managed-python --system 3.13)"
fi
bash -c "set -euo pipefail; . launch/common.sh; environment .venv {extras} \\"\\$WEIGHTS\\"" >&2
versions=$( (.venv/bin/python --version; .venv/bin/python -m pip freeze) | sha256sum | cut -c1-16)
echo {stamp} >.setup-done
echo "HUMPBACK {{\\"versions\\": \\"$versions\\"}}" """
STATUS = """cd humpback 2>/dev/null && [ -f .setup-done ] && .venv/bin/python launch/worker.py status || echo 'HUMPBACK {"setup": ""}'"""


def setup() -> None:
    """Brings this folder and the tested versions to every worker that does not have them, and compares what came out."""
    pod = up()
    with source() as (archive, stamp):
        there = [] if FLAGS.dry_run else answers(STATUS)
        if there and len(there) == pod.workers and all(answer["setup"] == stamp for answer in there):
            return say(f"{FLAGS.name}: set up before ({stamp})")
        if any(answer.get("running") for answer in there):
            raise Refused(f"{FLAGS.name}: a command runs there; stop it before its code is changed")
        for node in nodes():
            gcloud("tpu-vm", "scp", archive, f"{node}:humpback.tar.gz", "--worker=all", "--quiet", seconds=SETUP_SECONDS)
        made = answers(SETUP.format(extras=FLAGS.extras, stamp=stamp), seconds=SETUP_SECONDS)
    if FLAGS.dry_run:
        return None
    if len(made) != pod.workers:
        raise Refused(f"{FLAGS.name}: only {len(made)} of {pod.workers} workers could be set up; what they said is above", hopeless=False)
    if len(versions := {answer["versions"] for answer in made}) != 1:
        raise Refused(f"{FLAGS.name}: the workers have {len(versions)} different sets of packages; delete the slices and set up again")
    return say(f"{FLAGS.name}: {pod.workers} workers set up ({stamp})")


def up() -> Pod:
    """The slices. Refused unless all are up."""
    pod = Pod()
    if not FLAGS.dry_run and pod.state != "up":
        raise Refused(f"{FLAGS.name} is not up: {pod.detail}; `tpu.py create`, and `tpu.py status` until it is")
    return pod


def run(command: list[str], attempt: str) -> None:
    """Starts the command on all workers; where this attempt has been started it stays as it is. Some may not have been reached."""
    for number, node in enumerate(nodes()):
        start = f"start --attempt={attempt} --slice={number} -- {shlex.join(command)}"
        ssh(node, f"cd humpback && .venv/bin/python launch/worker.py {start}")


def run_once(command: list[str]) -> None:
    """The verb `run`: returns when it is started on all workers. Refused when a worker cannot be reached or runs something else."""
    pod, attempt = up(), time.strftime("%Y%m%dT%H%M%S")
    for _ in range(GCLOUD_TRIES):
        run(command, attempt)
        started = [answer for answer in answers(STATUS) if answer.get("attempt") == attempt]
        if FLAGS.dry_run or len(started) == pod.workers:
            return say(f"{FLAGS.name}: started on {len(started)} workers")
        time.sleep(min(10, FLAGS.poll_seconds))
    raise Refused(f"{FLAGS.name}: started on {len(started)} of {pod.workers} workers only; what they said is above, `tpu.py stop` ends it")


def stop(grace: float = 120) -> None:
    """SIGTERM to what was started, on all workers of a slice at once; what does not end by itself is killed."""
    for node in nodes():
        ssh(node, f"cd humpback && .venv/bin/python launch/worker.py stop --grace={grace:g}", seconds=grace + SSH_SECONDS)


def logs() -> None:
    """The end of the log, as it is or as it grows."""
    line = f"tail -n 40 {'-F ' if FLAGS.follow else ''}humpback-job/log"
    for node in nodes() if FLAGS.worker == "all" else nodes()[:1]:
        call(["tpu-vm", "ssh", node, f"--worker={FLAGS.worker}", f"--command={line}", "--quiet"], seconds=None, shown=True)


def status() -> None:
    """A line for each worker."""
    pod = Pod()
    print(f"{FLAGS.name}: {pod.detail}")
    if pod.state == "up" or FLAGS.dry_run:
        for answer in answers(STATUS):
            print(describe_worker(answer))


def describe_worker(answer: dict) -> str:
    """One worker's state in words."""
    who = f"  slice {answer['slice']} worker {answer.get('worker', '?')}: "
    if not answer["setup"]:
        return who + "not set up"
    if not answer.get("attempt"):
        return who + "set up, nothing was started"
    ended = {0: "done", 2: "called wrongly", 70: "hung", 75: "preempted", 134: "lost a peer", 137: "killed"}
    code = answer["code"]
    state = "running" if answer["running"] else ended.get(code, "failed") + f" (exit code {code})"
    at = f", {answer['stage']} {answer['step']}/{answer['steps']}, {answer['rate']}, {answer['eta']} left" if "stage" in answer else ""
    return who + state + at + (f": {answer['error']}" if answer["error"] else "")


# --- supervision -------------------------------------------------------------------------------------------------------------


class Journal:
    """What a supervisor must still know when it has been killed: NAME.json in --journal."""

    def __init__(self, command: list[str]):
        folder = pathlib.Path(FLAGS.journal)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{FLAGS.name}.json"
        self._lock = open(folder / f"{FLAGS.name}.lock", "w")  # noqa: SIM115 as long as this process
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"{self._path}: another supervisor of {FLAGS.name} runs here") from None
        new = {"command": command, "begun": time.strftime("%Y%m%dT%H%M%S"), "attempt": 0, "errors": 0, "chip_hours": 0.0, "seen": 0.0}
        new |= {"answered": False, "outcome": None, "finished": False}
        self.values = {**new, **json.loads(self._path.read_text())} if self._path.exists() else new
        if self.values["command"] != command:
            if not self.values["finished"]:
                was = shlex.join(self.values["command"])
                raise Refused(f"{self._path}: {FLAGS.name} is supervised for another command, {was}; take another --name, or end that one")
            self.values = new
        elif self.values["finished"] and self.values["outcome"] != DONE:  # it ended for a reason, and is asked for again
            self.values = {**new, "chip_hours": self.values["chip_hours"]}

    @property
    def attempt(self) -> str:
        """What workers and logs call the latest start: not as one of another command on the same slices, or in the same directory."""
        return f"{self.values['begun']}-{self.values['attempt']}"

    def write(self, **values) -> None:
        self.values |= values
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.values, indent=2) + "\n")
        os.replace(temporary, self._path)

    def count(self, billed: bool) -> None:
        """Adds the time since the last look to the chip-hours, also over a supervisor's death, if the slices were there at both.
        When they have gone since, nobody knows when: the time between two looks is added at most."""
        now = time.time()
        if self.values["seen"]:
            seconds = now - self.values["seen"] if billed else min(now - self.values["seen"], FLAGS.poll_seconds)
            self.values["chip_hours"] += seconds / 3600 * chips(FLAGS.type) * FLAGS.slices
        self.write(seen=now if billed else 0.0)


def supervise(command: list[str]) -> int:
    """Sees the command through and returns the exit code. Before that the slices are deleted, whatever it is."""
    if FLAGS.dry_run:
        for verb in (create, setup, lambda: run(command, "1"), status, stop, delete):
            verb()
        return DONE
    chips(FLAGS.type or "")
    git("rev-parse", "HEAD")  # what `setup` would refuse is refused before it costs money
    journal = Journal(command)
    if journal.values["finished"]:
        say(f"{FLAGS.name}: was done before; delete {FLAGS.name}.json in {FLAGS.journal} to run it again")
        return DONE
    if journal.values["outcome"] is None:
        try:
            outcome = watch(command, journal)
        except KeyboardInterrupt:
            say(f"{FLAGS.name} is left as it is, and costs money; the same command goes on, `tpu.py delete` ends it")
            raise
        except Refused as error:
            say(f"{FLAGS.name} ends: {error}")
            outcome = MISUSED
        except Exception:  # of this program, too: it must not leave what costs money
            traceback.print_exc()
            outcome = FAILED
        journal.write(outcome=outcome)
    outcome = journal.values["outcome"]  # which one had when it was killed while it deleted
    words = {DONE: "done", FAILED: "failed", MISUSED: "called wrongly", OVER_BUDGET: "over the budget"}[outcome]
    say(f"{FLAGS.name}: {words} after {journal.values['attempt']} starts")
    if FLAGS.autodelete:
        persist(delete)
    else:
        say(f"{FLAGS.name} is left as it is, and costs money; `tpu.py delete` ends it")
    if journal.values["seen"]:
        journal.count(billed=True)  # until they were gone
    say(f"{FLAGS.name}: {journal.values['chip_hours']:.2f} chip-hours")
    journal.write(finished=True, seen=0.0)
    return outcome


def persist(step: Callable[[], T]) -> T:
    """step(), repeated while what stands against it may pass: as long as the network is gone, say."""
    pause = 1
    while True:
        try:
            return step()
        except Refused as error:
            if error.hopeless:
                raise
            say(f"{error}; trying again")
        time.sleep(FLAGS.poll_seconds * pause * random.uniform(0.8, 1))
        pause = min(2 * pause, 15)


def watch(command: list[str], journal: Journal) -> int:
    """Looks at the slices and their workers and does what is next, until there is nothing left to do; returns the outcome."""
    silent = 0
    while True:
        pod = persist(Pod)
        journal.count(billed=pod.state in ("up", "leaving"))
        if FLAGS.max_chip_hours and journal.values["chip_hours"] >= FLAGS.max_chip_hours:
            if pod.state == "up":
                with contextlib.suppress(NoKey):
                    stop()
            return OVER_BUDGET
        if pod.state == "up":
            try:
                outcome = tend(command, journal, pod)
            except Refused as error:  # a worker could not be set up
                say(str(error))
                # Workers that took the key before go on without: the fault is here, and other slices would not take it either.
                outcome = ON if isinstance(error, NoKey) and journal.values["answered"] else SILENT
            silent = silent + 1 if outcome == SILENT else 0
            if silent >= UNREACHABLE:
                say(f"{FLAGS.name}: its workers do not answer")
                journal.write(attempt=journal.values["attempt"] + 1)
            elif outcome not in (SILENT, ON):
                return outcome
        if pod.state in ("missing", "gone") or silent >= UNREACHABLE:
            silent = 0
            if journal.values["attempt"] >= FLAGS.tries:
                return FAILED
            if pod.state != "missing":
                say(f"{FLAGS.name}: {pod.detail}, so it is made anew")
                persist(delete)
            journal.write(answered=False)
            persist(create)  # nothing costs money while there is no room
        elif pod.state != "up":
            say(f"{FLAGS.name}: {pod.detail}")
        time.sleep(FLAGS.poll_seconds)


def tend(command: list[str], journal: Journal, pod: Pod) -> int:
    """One look at the workers of slices that are up: an outcome, SILENT when not all answer, or ON to look again."""
    found = answers(STATUS)
    well = [answer for answer in found if answer.get("running")]
    for answer in [*well[:1], *(answer for answer in found if answer not in well)]:
        say(describe_worker(answer) + (f"; {len(well) - 1} more run" if answer in well and len(well) > 1 else ""))
    if len(found) != pod.workers:
        return SILENT
    if not journal.values["answered"]:
        journal.write(answered=True)
    if not all(answer["setup"] for answer in found):
        setup()
        return ON
    mine = [answer for answer in found if answer.get("attempt") == journal.attempt]
    codes = [answer["code"] for answer in mine if answer["code"] is not None]
    if len(codes) == pod.workers and not any(codes):
        return DONE
    if WORKER_MISUSED in codes:
        return MISUSED
    if mine and not any(codes):
        if len(mine) < pod.workers:  # the connection broke while it was started
            run(command, journal.attempt)
        return ON
    if any(answer.get("running") for answer in found):  # who has lost a peer waits for it in vain: all begin again together
        stop(grace=30)
    errors = journal.values["errors"] + 1 if WORKER_ERROR in codes else 0
    if errors >= ERRORS or journal.values["attempt"] >= FLAGS.tries:
        return FAILED
    setup()  # it is there but for a change of this folder
    journal.write(attempt=journal.values["attempt"] + 1, errors=errors)
    run(command, journal.attempt)
    return ON


# --- command line ------------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main(argv: list[str]) -> None:
    verb, command = "".join(argv[1:2]), argv[2:]
    verbs = {"create": create, "setup": setup, "status": status, "logs": logs, "stop": stop, "delete": delete}
    code = 0
    try:
        if verb in ("run", "supervise"):
            if not command:
                raise Refused(f"{verb}: what shall run comes after --, for example -- run --config=configs/llama_7b.py --workdir=gs://…")
            code = supervise(command) if verb == "supervise" else run_once(command)
        elif verb not in verbs or command:
            fail(f"{verb or 'no verb'} {shlex.join(command)}: one of {', '.join([*verbs, 'run', 'supervise'])} is needed; see --help")
        else:
            verbs[verb]()
    except Refused as error:
        fail(str(error))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def fail(text: str) -> NoReturn:
    print(f"tpu.py: {text}", file=sys.stderr)
    sys.exit(MISUSED)


if __name__ == "__main__":
    app.run(main)
