"""Seeing a command through: makes the slices, sets them up, starts the command and looks, again and again, until it is done."""

import contextlib
import time
import traceback

from absl import flags

from launch import gcloud
from launch.gcloud import NoKey, Refused, persist, say
from launch.journal import DONE, FAILED, MISUSED, OVER_BUDGET, STOPPED, Journal
from launch.slices import FLEX, Pod, chips, create, delete, family, nodes, run_seconds
from launch.workers import STATUS, answers, check_command, describe_worker, git, run, setup, status, stop

FLAGS = flags.FLAGS
UNREACHABLE = 3  # looks in a row without an answer of all workers, after which the slices are made anew
# Exit codes of humpback; others but 0 (70 hung, 75 preempted, 134 peer lost) are worth a try.
WORKER_ERROR, WORKER_MISUSED, WORKER_STOPPED = 1, 2, 130
ERRORS = 3  # in a row, after which it has failed
ON, SILENT = -1, -2  # of `tend`
LIMIT_SLACK_SECONDS = 60  # by which the workers' limit may differ from what is left


def supervise(journal: Journal, command: list[str]) -> int:
    """Sees the command through and returns the exit code. Before that the slices are deleted, whatever it is."""
    git("rev-parse", "HEAD")  # what `setup` would refuse is refused before it costs money
    check_command(command)
    if FLAGS.dry_run:
        create(journal)
        setup(journal)
        run(journal, command, "1")
        for verb in (status, stop, delete):
            verb(journal)
        return DONE
    run_seconds()
    made = journal.slices
    kind = FLAGS.type or (made or {}).get("type") or ""
    family(kind)
    if (differs := journal.check()) and Pod(journal).state != "missing":
        raise Refused(f"{FLAGS.name} is there and was made with {differs}; give the same again, take another --name, or delete it first")
    FLAGS.type, FLAGS.slices = kind, FLAGS.slices or (made or {}).get("count", 1)  # they hold when the slices are made anew, too
    journal.begin(command)
    if journal.values["finished"]:
        say(f"{FLAGS.name}: was done before; delete {FLAGS.name}.json in {FLAGS.journal} to run it again")
        return DONE
    say_limit(journal)
    if journal.values["outcome"] is None:
        try:
            outcome = watch(journal, command)
        except Refused as error:
            say(f"{FLAGS.name} ends: {error}")
            outcome = MISUSED
        except Exception:  # of this program, too: it must not leave what costs money
            traceback.print_exc()
            outcome = FAILED
        journal.write(outcome=outcome)
    outcome = journal.values["outcome"]  # which one had when it was killed while it deleted
    words = {DONE: "done", FAILED: "failed", MISUSED: "called wrongly", OVER_BUDGET: "over the budget", STOPPED: "stopped on a worker"}
    say(f"{FLAGS.name}: {words[outcome]} after {journal.values['attempt']} starts")
    if FLAGS.autodelete:
        persist(lambda: delete(journal))
    if journal.values["seen"]:
        journal.count(journal.values["seen_chips"])  # until they were gone
    say(f"{FLAGS.name}: {journal.values['chip_hours']:.2f} chip-hours")
    journal.write(finished=True, seen=0.0, seen_chips=0, ends=0.0)
    return outcome


def say_limit(journal: Journal) -> None:
    """On the first screen: who ends it when it has cost enough, and who does not."""
    limit = FLAGS.max_chip_hours
    if FLAGS.provision == FLEX and (limit or FLAGS.max_run_duration):
        say(f"{FLAGS.name}: Google deletes each slice when its time is over, also without this machine (--max-run-duration)")
    elif limit:
        say(
            f"{FLAGS.name}: the limit of {limit:g} chip-hours is kept by this process and ends with it, as when the laptop is closed, "
            "until a line says that worker 0 keeps it"
        )
    else:
        say(f"{FLAGS.name}: no limit is set; the slices cost money until the command is done (--max_chip_hours)")


def left_seconds(journal: Journal) -> int | None:
    """How long all slices together may still be there; None without --max_chip_hours."""
    if not FLAGS.max_chip_hours:
        return None
    left = FLAGS.max_chip_hours - journal.values["chip_hours"]
    return max(1, round(left * 3600 / (chips(FLAGS.type) * FLAGS.slices)))


def watch(journal: Journal, command: list[str]) -> int:
    """Looks at the slices and their workers and does what is next, until there is nothing left to do; returns the outcome."""
    silent = 0
    while True:
        pod = persist(lambda: Pod(journal))
        journal.count(pod.chips)
        if FLAGS.max_chip_hours and journal.values["chip_hours"] >= FLAGS.max_chip_hours:
            if pod.state == "up":
                with contextlib.suppress(NoKey):
                    stop(journal)
            return OVER_BUDGET
        pod.refuse_foreign()
        if pod.state == "up":
            try:
                outcome = tend(journal, command, pod)
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
                persist(lambda: delete(journal, forget=False))
            journal.write(answered=False, ends=0.0)
            persist(lambda: create(journal, left_seconds(journal)))  # nothing costs money while there is no room
        elif pod.state != "up":
            say(f"{FLAGS.name}: {pod.detail}")
        time.sleep(FLAGS.poll_seconds)


def tend(journal: Journal, command: list[str], pod: Pod) -> int:
    """One look at the workers of slices that are up: an outcome, SILENT when not all answer, or ON to look again."""
    found = answers(journal, STATUS)
    well = [answer for answer in found if answer.get("running")]
    for answer in [*well[:1], *(answer for answer in found if answer not in well)]:
        say(describe_worker(answer) + (f"; {len(well) - 1} more run" if answer in well and len(well) > 1 else ""))
    if len(found) != pod.workers:
        return SILENT
    if not journal.values["answered"]:
        journal.write(answered=True)
    if not all(answer["setup"] for answer in found):
        setup(journal)
        return ON
    limit_on_workers(journal, found)
    mine = [answer for answer in found if answer.get("attempt") == journal.attempt]
    codes = [answer["code"] for answer in mine if answer["code"] is not None]
    if len(codes) == pod.workers and not any(codes):
        return DONE
    if WORKER_MISUSED in codes:
        return MISUSED
    if WORKER_STOPPED in codes:  # somebody has sent SIGINT there: all save, and none is to begin again
        return ON if any(answer.get("running") for answer in mine) else STOPPED
    if mine and not any(codes):
        if len(mine) < pod.workers:  # the connection broke while it was started
            run(journal, command, journal.attempt)
        return ON
    if any(answer.get("running") for answer in found):  # who has lost a peer waits for it in vain: all begin again together
        stop(journal, grace=30)
    errors = journal.values["errors"] + 1 if WORKER_ERROR in codes else 0
    if errors >= ERRORS or journal.values["attempt"] >= FLAGS.tries:
        return FAILED
    setup(journal)  # it is there but for a change of this folder
    journal.write(attempt=journal.values["attempt"] + 1, errors=errors)
    run(journal, command, journal.attempt)
    return ON


def limit_on_workers(journal: Journal, found: list[dict]) -> None:
    """Lets worker 0 of each slice delete it when the chip-hours are over, and says so once they all may."""
    wanted = None if FLAGS.provision == FLEX else left_seconds(journal)
    firsts = {answer["slice"]: answer.get("limit") for answer in found if answer.get("worker") == "0"}
    slack = max(LIMIT_SLACK_SECONDS, 3 * FLAGS.poll_seconds)
    where = f"--zone={FLAGS.zone}" + (f" --project={FLAGS.project}" if FLAGS.project else "")
    for number, node in enumerate(nodes(journal)):
        limit = firsts.get(number)
        if limit is None if wanted is None else limit is not None and abs(limit["left"] - wanted) < slack:
            continue
        seconds = f"--seconds={wanted or 0} --node={node} {where}"
        gcloud.ssh(node, f"cd humpback && .venv/bin/python launch/worker.py limit {seconds}", worker="0")
    kept = len(firsts) == len(nodes(journal)) and all(limit and limit["allowed"] for limit in firsts.values())
    ends = time.time() + min(limit["left"] for limit in firsts.values()) if wanted and kept else 0.0
    if ends and not journal.values["ends"]:
        clock = time.strftime("%Y-%m-%d %H:%M", time.localtime(ends))
        say(f"{FLAGS.name}: worker 0 keeps the limit, too: it deletes its slice at {clock}, also without this machine")
    why = next((limit["why"] for limit in firsts.values() if limit and limit["why"]), "") if wanted and not kept else ""
    if why and why != journal.told:
        journal.told = why
        say(f"{FLAGS.name}: the limit ends with this machine: {why}")
    if ends != journal.values["ends"]:
        journal.write(ends=ends)
