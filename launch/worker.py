#!/usr/bin/env python3
"""One worker's side of launch/tpu.py: starts a command so that it outlives the connection, and knows afterwards how it went.

    python launch/worker.py start --attempt=7 -- run --config=configs/llama_7b.py --workdir=gs://BUCKET/RUN
    python launch/worker.py status      one line: HUMPBACK and a JSON object
    python launch/worker.py stop        by the recorded process ids; SIGTERM first, so that a training saves
    python launch/worker.py limit --seconds=3600 --node=NAME --zone=Z      after so long this slice deletes itself (launch/guard.py)

An attempt is started once on a worker, however often it is asked for. What is known of it is in ~/humpback-job: job.json (attempt,
command, process), log, exit.json. The log is copied into the run's directory while it grows, as WORKDIR/logs/ATTEMPT-SLICE-WORKER-PART,
without keys and tokens.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

JOB, GUARD = pathlib.Path.home() / "humpback-job", pathlib.Path.home() / "humpback-guard.json"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from humpback import credentials  # noqa: E402 nothing of the package that takes long: `status` must be quick

STAMP = ROOT / ".setup-done"  # written last by `tpu.py setup`
COPY_SECONDS = (60, 600)  # between two copies of the log: of the first worker, of the others
LAST_COPY_SECONDS = 60  # a store that does not answer must not hide the exit code for longer
GRACE_SECONDS = 120.0  # what a save may take
RENDEZVOUS_SECONDS = "600"  # ssh reaches the workers of a large pod one after the other
PREEMPTED = 75  # humpback.training.stopping.PREEMPTED; to import that would bring JAX
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
BAR = re.compile(r"([\w-]+): +\d+%\|[^|]*\| *(\d+)/(\d+) \[[^<]*<([^,]*), *([^,\]]*)")


def main() -> int:
    """Does what the first argument says and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # keep and guard: what start and limit leave behind
    parser.add_argument("verb", choices=["start", "keep", "status", "stop", "limit", "guard"])
    parser.add_argument("--attempt", default="")
    parser.add_argument("--slice", type=int, default=0, help="start: number of this worker's slice")
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS, metavar="SECONDS", help="stop: until SIGKILL")
    parser.add_argument("--seconds", type=float, default=0, help="limit: until the slice deletes itself; 0: it does not")
    for name in ("node", "zone", "project"):
        parser.add_argument(f"--{name}", default="", help="limit: of the slice")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, command = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
    if options.verb == "start":
        with open(JOB.with_suffix(".lock"), "w") as lock:  # of two, of which one was sent again, the second finds it started
            fcntl.flock(lock, fcntl.LOCK_EX)
            return start(options.attempt, options.slice, command)
    if options.verb == "keep":
        return keep()
    if options.verb in ("limit", "guard"):
        from launch import guard

        step = guard.begin if options.verb == "limit" else guard.keep
        step(options.seconds, options.node, options.zone, options.project)
    if options.verb == "stop":
        stop(options.grace)
    print("HUMPBACK " + json.dumps(status()), flush=True)
    return 0


def start(attempt: str, number: int, command: list[str]) -> int:
    """Starts the command in a session of its own, unless this attempt has been started here; 1 while another one runs."""
    job = read(JOB / "job.json")
    if job.get("attempt") == attempt and (is_running(job) or (JOB / "exit.json").exists()):
        return 0
    if is_running(job):
        print(f"worker {name()}: attempt {job['attempt']} still runs ({' '.join(job['command'])}); stop it first", file=sys.stderr)
        return 1
    shutil.rmtree(JOB, ignore_errors=True)
    JOB.mkdir(parents=True)
    with open(JOB / "log", "ab") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        keeper = subprocess.Popen([sys.executable, __file__, "keep"], cwd=ROOT, start_new_session=True, **streams)
    write(JOB / "job.json", {"attempt": attempt, "slice": number, "command": command, "pid": keeper.pid, "born": born(keeper.pid)})
    return 0


def keep() -> int:
    """The process that stays: runs the command, passes SIGTERM on, copies the log, leaves the exit code."""
    deadline = time.monotonic() + 30
    while not (job := read(JOB / "job.json")):  # `start` writes it when it knows this process
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.05)
    environment = {"HUMPBACK_RENDEZVOUS_SECONDS": RENDEZVOUS_SECONDS, "PYTHONUNBUFFERED": "1", **os.environ}
    command = [ROOT / ".venv" / "bin" / "python", "-m", "humpback", *job["command"]]
    process = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    over = threading.Event()
    copier = threading.Thread(target=copy_log, args=(job, over), daemon=True)
    copier.start()
    code = process.wait()
    over.set()
    copier.join(LAST_COPY_SECONDS)
    write(JOB / "exit.json", {"code": PREEMPTED if code == -signal.SIGTERM else code if code >= 0 else 128 - code})
    return 0


def copy_log(job: dict, over: threading.Event) -> None:
    """Publishes what the log has grown by, in whole lines, as files of their own, until `over`; without --workdir there is no place."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--workdir", "-workdir")
    workdir = flags.parse_known_args(job["command"])[0].workdir
    if not workdir:
        return
    from humpback import storage  # not at the top: `status` must be quick

    place, part = 0, 0
    while True:
        ended = over.wait(COPY_SECONDS[name() != "0"])
        with open(JOB / "log", "rb") as log:
            log.seek(place)
            grown = log.read()
        if not ended:
            grown = grown[: max(grown.rfind(b"\n"), grown.rfind(b"\r")) + 1]  # a word that is still being written may be half a token
        if grown:
            text = credentials.redact(grown.decode(errors="surrogateescape")).encode(errors="surrogateescape")
            with contextlib.suppress(Exception):  # the log is still here, and a copy of it must not end a run
                storage.publish(f"{workdir}/logs/{job['attempt']}-{job['slice']}-{int(name()):04d}-{part:06d}.txt", text)
                place, part = place + len(grown), part + 1
        if ended:
            return


def status() -> dict:
    """What `tpu.py status` shows of this worker."""
    job, ended = read(JOB / "job.json"), read(JOB / "exit.json")
    running = is_running(job)
    code = ended.get("code")
    if job and not running and code is None:
        code = 137  # somebody killed the keeper, or the machine was restarted
    text = log_tail()
    found = {"worker": name(), "setup": STAMP.read_text().strip(), "attempt": job.get("attempt"), "running": running}
    found |= {"code": None if running else code, "error": credentials.redact(last_error(text)) if code else "", "limit": limit()}
    if bars := BAR.findall(text):
        found |= zip(("stage", "step", "steps", "eta", "rate"), bars[-1], strict=True)
    return found


def limit() -> dict | None:
    """Seconds until this slice deletes itself and whether it may; None when nothing waits for it."""
    found = read(GUARD)
    return {"left": found["ends"] - time.time(), "allowed": found["allowed"], "why": found["why"]} if is_running(found) else None


def stop(grace: float) -> None:
    """Ends the recorded processes: SIGTERM, and after `grace` seconds SIGKILL for all that is left of the session."""
    job = read(JOB / "job.json")
    if not is_running(job):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(job["pid"], signal.SIGTERM)
        deadline = time.monotonic() + grace
        while is_running(job) and time.monotonic() < deadline:
            time.sleep(0.1)
        if is_running(job):
            os.killpg(job["pid"], signal.SIGKILL)


def is_running(job: dict) -> bool:
    """Whether the process that `job` records is there, and not another one that has got its number since."""
    return bool(job) and born(job["pid"]) == job["born"]


def born(pid: int) -> str:
    """When a process was started, in the kernel's own figures; "" when it is not there."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else f"{pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"
    except OSError:
        return ""


def name() -> str:
    """This worker's number in its slice: Cloud TPU's machines are called t1v-n-…-w-3."""
    match = re.search(r"-w-(\d+)$", socket.gethostname().partition(".")[0])
    return os.environ.get("TPU_WORKER_ID", match[1] if match else "0")


def log_tail(size: int = 20_000) -> str:
    with contextlib.suppress(OSError), open(JOB / "log", "rb") as log:
        log.seek(max(0, os.path.getsize(JOB / "log") - size))
        return log.read().decode(errors="replace").replace("\r", "\n")
    return ""


def last_error(text: str) -> str:
    """The line that says why the command ended: its own, or the last of a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("humpback: ") or re.match(r"[\w.]*(Error|Exception|Lost)\b", line)]
    return (said or lines or [""])[-1][:500]


def read(path: pathlib.Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write(path: pathlib.Path, value: dict) -> None:
    path.with_suffix(".tmp").write_text(json.dumps(value))
    os.replace(path.with_suffix(".tmp"), path)


def die_with_parent() -> None:
    """In the child, before the command: Linux is to kill it when the keeper dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
