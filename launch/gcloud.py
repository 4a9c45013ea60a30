"""One call of gcloud: what is printed of it, what its answers mean, and what is worth another try.

The commands and flags are those of Google's reference, cloud.google.com/sdk/gcloud/reference/compute/tpus/ (pages queued-resources/create,
…/list, …/delete, tpu-vm/create, …/list, …/ssh, …/scp, …/delete), checked with gcloud 528.0.0. What the reference does not say is from
the command's own declarations (lib/surface/compute/tpus and lib/googlecloudsdk/command_lib/compute/tpus of the Google Cloud CLI):
which flags only the alpha commands have, and how a provisioning model is written.
"""

import contextlib
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from absl import flags

FLAGS = flags.FLAGS
# What gcloud's answers are told apart by: google.rpc.Code's names, and gcloud's own words for a wrong command line.
NO_ROOM = ("RESOURCE_EXHAUSTED", "no more capacity", "Quota limit", "QUOTA_EXCEEDED", "Insufficient")
LIMITED = ("rateLimitExceeded", "RATE_LIMIT_EXCEEDED")  # said beside RESOURCE_EXHAUSTED: too many requests a minute
WRONG = ("INVALID_ARGUMENT", "PERMISSION_DENIED", "unrecognized arguments", "Invalid choice", "Invalid value")
NO_KEY = "Permission denied (publickey"  # ssh's own words
ALPHA = ("--provisioning-model", "--max-run-duration", "--tunnel-through-iap")  # flags that only `gcloud alpha` knows for TPUs
TRIES = 5
SSH_SECONDS = 300

T = TypeVar("T")


class Refused(Exception):
    """It cannot be done. `hopeless`: nor later; otherwise the trouble may pass, as a lack of quota, room or network does."""

    def __init__(self, text: str, hopeless: bool = True):
        super().__init__(text)
        self.hopeless = hopeless


class NoKey(Refused):
    """The workers do not take this machine's ssh key, or its agent has lost it."""


def say(text: str) -> None:
    """A line with the time. Nobody may be there to read it: a supervisor goes on when its terminal or pipe is gone."""
    show(f"{time.strftime('%H:%M:%S')} {text}")


def show(text: str) -> None:
    """A line on standard output, as `say`."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 until this process ends


def gcloud(*words: str, seconds: float = 600) -> str | None:
    """Prints and runs `gcloud compute tpus …` and returns what it says; None when there is no such resource.

    Trouble that may pass, but for a lack of room, is tried again after a pause that doubles.
    """
    for attempt in range(TRIES):
        if attempt:
            time.sleep(min(60, FLAGS.poll_seconds * 2 ** (attempt - 1)) * random.uniform(0.5, 1))
        done = call(words, seconds)
        if done.returncode == 0:
            return done.stdout
        if "ALREADY_EXISTS" in done.stderr:
            return ""
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        show(f"  gcloud: {last}")
        if "NOT_FOUND" in done.stderr:
            return None
        if any(word in done.stderr for word in WRONG):
            raise Refused(last)
        if any(word in done.stderr for word in NO_ROOM) and not any(word in done.stderr for word in LIMITED):
            break
    raise Refused(last, hopeless=False)


def call(words: Sequence[str], seconds: float | None, shown: bool = False, quiet: bool = False) -> subprocess.CompletedProcess:
    """One call of gcloud, printed as it can be pasted into a shell, unless it is to be `quiet` or only lists.

    shown: what it says goes to the screen, and not to the caller.
    """
    track = ["alpha"] if any(word.partition("=")[0] in ALPHA for word in words) else []
    where = [f"--zone={FLAGS.zone}", *([f"--project={FLAGS.project}"] if FLAGS.project else [])]
    line = ["gcloud", *track, "compute", "tpus", *words, *where]
    if FLAGS.dry_run or not (quiet or words[1] == "list"):  # those that only look would fill the screen
        show(f"+ {shlex.join(line)}")
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


def ssh(node: str, command: str, seconds: float = SSH_SECONDS, worker: str = "all", quiet: bool = False) -> str:
    """What the workers of a slice say to a command. A connection that breaks is an answer that did not come: the caller counts.

    NoKey when there is no answer at all for want of a key.
    """
    words = ["tpu-vm", "ssh", node, f"--worker={worker}", f"--command={command}", *reach(), "--quiet"]
    done = call(words, seconds, quiet=quiet)
    if NO_KEY in done.stderr and not done.stdout.strip():
        raise NoKey(f"{node} does not take this machine's ssh key; `ssh-add ~/.ssh/google_compute_engine` gives it to ssh", hopeless=False)
    if done.returncode and done.stderr.strip():
        show("  " + "\n  ".join(done.stderr.strip().splitlines()[-3:]))
    return done.stdout


def reach() -> list[str]:
    """The flags of ssh and scp that say how workers without an external address are reached."""
    return [*(["--internal-ip"] if FLAGS.internal_ip else []), *(["--tunnel-through-iap"] if FLAGS.tunnel_through_iap else [])]


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
