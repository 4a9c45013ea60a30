"""What is done on the workers of slices that are up: this folder and the tested versions, starting, looking, ending."""

import contextlib
import hashlib
import io
import json
import pathlib
import shlex
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator

from absl import flags

from humpback import credentials
from launch import gcloud
from launch.gcloud import Refused, say, show
from launch.journal import GRACE_SECONDS, Journal
from launch.slices import Pod, describe_foreign, nodes

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parents[1]
SETUP_SECONDS = 3600
_NAMED = 8  # files that are not sent: the first so many are named


def answers(journal: Journal, command: str, seconds: float = gcloud.SSH_SECONDS) -> list[dict]:
    """The objects of the lines `HUMPBACK {…}` that the workers of all slices print; slice and worker are in each."""
    found = []
    for number, node in enumerate(nodes(journal)):
        lines = gcloud.ssh(node, command, seconds, quiet=command == STATUS).splitlines()
        for line in lines:
            with contextlib.suppress(ValueError):  # of a line that was cut off
                found += [{"slice": number, **json.loads(line.partition("HUMPBACK ")[2])}] if "HUMPBACK {" in line else []
    return sorted(found, key=lambda answer: (answer["slice"], int(answer.get("worker", 0))))


def git(*words: str) -> str:
    """What git says of this folder."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refused(f"{ROOT}: git must know this folder, so that the run's directory can say what ran ({error})") from None


def untracked() -> list[str]:
    """Files that are here and that git neither tracks nor ignores: no worker gets them."""
    return sorted(set(git("ls-files", "-z", "--others", "--exclude-standard").split("\0")) - {""})


def check_command(command: list[str]) -> None:
    """What `setup` or a worker would refuse is refused before it costs money."""
    credentials.refuse({f"-- {word.partition('=')[0]}": word for word in command}, Refused)
    mine = set(untracked())
    for word in command:
        name = (word.partition("=")[2] or word).partition(":")[0]
        if name in mine:
            raise Refused(f"{word}: git does not track {name}, so the workers would not have it; `git add {name}`")


@contextlib.contextmanager
def source() -> Iterator[tuple[str, str]]:
    """(path of an archive of what git tracks of this folder, as it lies here, a stamp of what is in it).

    In it, source.json says the commit and how this differs from it, without keys and tokens: humpback publishes it beside the run.
    """
    names = sorted(set(git("ls-files", "-z", "--cached").split("\0")) - {""})
    record = {"commit": git("rev-parse", "HEAD").strip(), "diff": credentials.redact(git("diff", "HEAD"))}
    record["untracked"] = credentials.redact("\n".join(untracked()))
    digest = hashlib.sha256(FLAGS.extras.encode())
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        with tarfile.open(file.name, "w:gz", compresslevel=1) as archive:
            for name in names:
                if (ROOT / name).is_file():
                    digest.update(f"{name}\0".encode() + (ROOT / name).read_bytes())
                    archive.add(ROOT / name, name)
            text = json.dumps(record, indent=2).encode()
            entry = tarfile.TarInfo("source.json")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        yield file.name, f"{record['commit'][:12]}-{digest.hexdigest()[:12]}"


# The images' own Python may be 3.10, and libtpu for any below 3.12 is too old; uv then brings one (docs.astral.sh/uv/guides/
# install-python, …/reference/cli, "uv python find").
SETUP = """set -e; mkdir -p humpback; cd humpback; rm -f .setup-done
find . -mindepth 1 -maxdepth 1 ! -name '.venv*' ! -name runs -exec rm -rf {{}} +
tar -xzf ../humpback.tar.gz
if ! "${{PYTHON:-python3}}" -c "import sys, ensurepip; sys.exit(sys.version_info < (3, 12))" 2>/dev/null; then
  python3 -m pip install --user --quiet uv; python3 -m uv python install --quiet 3.13
  export PYTHON="$(python3 -m uv python find --managed-python --system 3.13)"
fi
unset HUMPBACK_VENV
bash -c "set -euo pipefail; . launch/common.sh; environment .venv {extras} \\"\\$WEIGHTS\\"" >&2
versions=$( (.venv/bin/python --version; .venv/bin/python -m pip freeze) | sha256sum | cut -c1-16)
echo {stamp} >.setup-done
echo "HUMPBACK {{\\"versions\\": \\"$versions\\"}}" """
STATUS = """cd humpback 2>/dev/null && [ -f .setup-done ] && .venv/bin/python launch/worker.py status || echo 'HUMPBACK {"setup": ""}'"""


def setup(journal: Journal) -> None:
    """Brings this folder and the tested versions to every worker that does not have them, and compares what came out."""
    pod = up(journal)
    with source() as (archive, stamp):
        there = [] if FLAGS.dry_run else answers(journal, STATUS)
        if there and len(there) == pod.workers and all(answer["setup"] == stamp for answer in there):
            return say(f"{FLAGS.name}: set up before ({stamp})")
        if any(answer.get("running") for answer in there):
            raise Refused(f"{FLAGS.name}: a command runs there; stop it before its code is changed")
        say_untracked()
        for node in nodes(journal):
            words = [archive, f"{node}:humpback.tar.gz", "--worker=all", *gcloud.reach(), "--quiet"]
            gcloud.gcloud("tpu-vm", "scp", *words, seconds=SETUP_SECONDS)
        made = answers(journal, SETUP.format(extras=FLAGS.extras, stamp=stamp), seconds=SETUP_SECONDS)
    if FLAGS.dry_run:
        return None
    if len(made) != pod.workers:
        raise Refused(f"{FLAGS.name}: only {len(made)} of {pod.workers} workers could be set up; what they said is above", hopeless=False)
    if len(versions := {answer["versions"] for answer in made}) != 1:
        raise Refused(f"{FLAGS.name}: the workers have {len(versions)} different sets of packages; delete the slices and set up again")
    return say(f"{FLAGS.name}: {pod.workers} workers set up ({stamp})")


def say_untracked() -> None:
    """Names the files that no worker gets."""
    if names := untracked():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        say(f"not sent, as git does not track it: {', '.join(names[:_NAMED])}{more}; `git add` what a worker needs")


def up(journal: Journal) -> Pod:
    """The slices. Refused unless all are up and were made from here."""
    pod = Pod(journal)
    if FLAGS.dry_run:
        return pod
    pod.refuse_foreign()
    if pod.state != "up":
        raise Refused(f"{FLAGS.name} is not up: {pod.detail}; `tpu.py create`, and `tpu.py status` until it is")
    return pod


def run(journal: Journal, command: list[str], attempt: str) -> None:
    """Starts the command on all workers; where this attempt has been started it stays as it is. Some may not have been reached."""
    for number, node in enumerate(nodes(journal)):
        start = f"start --attempt={attempt} --slice={number} -- {shlex.join(command)}"
        gcloud.ssh(node, f"cd humpback && .venv/bin/python launch/worker.py {start}")


def run_once(journal: Journal, command: list[str]) -> None:
    """The verb `run`: returns when it is started on all workers. Refused when a worker cannot be reached or runs something else."""
    check_command(command)
    pod, attempt = up(journal), time.strftime("%Y%m%dT%H%M%S")
    for _ in range(gcloud.TRIES):
        run(journal, command, attempt)
        started = [answer for answer in answers(journal, STATUS) if answer.get("attempt") == attempt]
        if FLAGS.dry_run or len(started) == pod.workers:
            return say(f"{FLAGS.name}: started on {len(started)} workers")
        time.sleep(min(10, FLAGS.poll_seconds))
    raise Refused(f"{FLAGS.name}: started on {len(started)} of {pod.workers} workers only; what they said is above, `tpu.py stop` ends it")


def stop(journal: Journal, grace: float = GRACE_SECONDS) -> None:
    """SIGTERM to what was started, on all workers of a slice at once; what does not end by itself is killed."""
    for node in nodes(journal):
        command = f"cd humpback && .venv/bin/python launch/worker.py stop --grace={grace:g}"
        gcloud.ssh(node, command, seconds=grace + gcloud.SSH_SECONDS)


def logs(journal: Journal) -> None:
    """The end of the log, as it is or as it grows."""
    line = f"tail -n 40 {'-F ' if FLAGS.follow else ''}humpback-job/log"
    for node in nodes(journal) if FLAGS.worker == "all" else nodes(journal)[:1]:
        words = ["tpu-vm", "ssh", node, f"--worker={FLAGS.worker}", f"--command={line}", *gcloud.reach(), "--quiet"]
        gcloud.call(words, seconds=None, shown=True)


def status(journal: Journal) -> None:
    """A line for each worker, and what else there is of the name."""
    pod = Pod(journal)
    show(f"{FLAGS.name}: {pod.detail}")
    if pod.foreign:
        show(describe_foreign(pod.foreign))
    if pod.state == "up" or FLAGS.dry_run:
        for answer in answers(journal, STATUS):
            show(describe_worker(answer))


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
