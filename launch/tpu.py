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
called wrongly, 1 when it failed (--tries times, or three times in a row by an error), 3 when --max_chip_hours are used up, 130 when
somebody stopped the command on a worker by SIGINT. Then the slices are deleted, unless --noautodelete. Ctrl-C here leaves them running.

Only what was made from here is set up, run on, stopped or deleted: --journal has its type, number and the label that it carries.
A command that leaves something that costs money names it in its last line. --max_chip_hours is kept by the supervisor, and by worker 0
where the service account may delete nodes; with --provision=flex-start Google itself ends a slice in time.
"""

import contextlib
import os
import pathlib
import shlex
import signal
import sys
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from absl import app, flags  # noqa: E402

from launch import slices, supervision, workers  # noqa: E402
from launch.gcloud import Refused  # noqa: E402
from launch.journal import FAILED, MISUSED, Journal  # noqa: E402

flags.DEFINE_string("name", None, "of the slice, or what the names of several slices begin with", required=True)
flags.DEFINE_string("zone", None, "where, for example europe-west4-b", required=True)
flags.DEFINE_string("project", None, "Google Cloud project; gcloud's own setting if not given")
flags.DEFINE_string("type", None, "create, supervise: accelerator type of a slice, for example v4-32")
flags.DEFINE_integer("slices", None, "slices of that type, for one run over all; default: those that there are, or 1", lower_bound=1)
flags.DEFINE_enum(
    "provision", "on-demand", ["on-demand", "spot", "reserved", slices.FLEX],
    "spot costs least and may be taken away at any time; flex-start is for a time that is fixed beforehand",
)  # fmt: skip
flags.DEFINE_string("max_run_duration", None, "with --provision=flex-start: Google deletes a slice after so long, such as 36h; at most 7d")
flags.DEFINE_bool("queued", True, "ask for a queued resource, and wait; --noqueued asks for a VM now")
flags.DEFINE_string("runtime", None, "runtime version; by default the one that Google names for the type")
flags.DEFINE_string("service_account", None, "account of the VMs; it needs roles/storage.objectUser on the bucket")
flags.DEFINE_string("network", None, "of the VMs; default: the project's default network")
flags.DEFINE_string("subnetwork", None, "of the VMs")
flags.DEFINE_bool("internal_ips", False, "VMs without external addresses; they need Cloud NAT for pip, and one of the next two flags")
flags.DEFINE_bool("internal_ip", False, "reach the VMs by their internal addresses, from a machine in their network")
flags.DEFINE_bool("tunnel_through_iap", False, "reach the VMs through Identity-Aware Proxy (a flag of `gcloud alpha`)")
flags.DEFINE_string("extras", "tpu,demo", "setup: extras of the package to install")
flags.DEFINE_string("worker", "0", "logs: a number, or all")
flags.DEFINE_bool("follow", False, "logs: go on as they grow")
flags.DEFINE_bool("dry_run", False, "print the gcloud lines and run none of them")
flags.DEFINE_integer("tries", 50, "supervise: starts of the command, at most", lower_bound=1)
flags.DEFINE_float("max_chip_hours", 0, "supervise: ends when the slices have cost so many; 0 for no limit", lower_bound=0)
flags.DEFINE_bool("autodelete", True, "supervise: delete the slices at the end, also after an error")
flags.DEFINE_float("poll_seconds", 60, "supervise: between two looks", lower_bound=0.01)
flags.DEFINE_string("journal", str(ROOT / "runs" / "tpu"), "folder of NAME.json: what was made from here, tries, chip-hours, the outcome")
FLAGS = flags.FLAGS


class Ended(KeyboardInterrupt):
    """Somebody ends this program: by Ctrl-C, SIGTERM, or because the terminal is gone (SIGHUP)."""

    def __init__(self, number: int):
        super().__init__()
        self.code = 128 + number


def main(argv: list[str]) -> None:
    journal: Journal | None = None
    came: list[int] = []

    def end(number: int, _: object) -> None:
        came.append(number)
        if len(came) == 1:
            raise Ended(number)
        tell_left(journal)  # of a second one: at once
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup, or a shell that started this in the background
            signal.signal(number, end)
    try:
        journal = Journal()
        code = do(journal, "".join(argv[1:2]), argv[2:])
    except Refused as error:
        tell(str(error))
        code = MISUSED
    except Ended as error:
        code = error.code
    except Exception:
        traceback.print_exc()
        code = FAILED
    tell_left(journal)
    sys.exit(code)


def do(journal: Journal, verb: str, command: list[str]) -> int:
    """Does what is asked and returns the exit code. Refused when it cannot be done."""
    verbs = {"create": slices.create, "setup": workers.setup, "status": workers.status, "logs": workers.logs, "delete": slices.delete}
    verbs["stop"] = lambda journal: (workers.up(journal), workers.stop(journal))
    if verb in ("run", "supervise"):
        if not command:
            raise Refused(f"{verb}: what shall run comes after --, for example -- run --config=configs/llama_7b.py --workdir=gs://…")
    elif verb not in verbs or command:
        known = ", ".join([*verbs, "run", "supervise"])
        raise Refused(f"{verb or 'no verb'} {shlex.join(command)}: one of {known} is needed; see --help")
    if verb in ("create", "delete", "supervise") and not FLAGS.dry_run:
        journal.lock()
    if verb == "supervise":
        return supervision.supervise(journal, command)
    if verb == "run":
        workers.run_once(journal, command)
    else:
        verbs[verb](journal)
    return 0


def tell_left(journal: Journal | None) -> None:
    """The last line, where something is left that costs money."""
    if journal and not FLAGS.dry_run and (left := slices.left(journal)):
        tell(left)


def tell(text: str) -> None:
    """A line on standard error, where somebody may be there to read it."""
    with contextlib.suppress(OSError):
        print(f"tpu.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main)
