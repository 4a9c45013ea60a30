"""Slices: what is there of a name and who made it, asking for them, and deleting those, and only those, that were made from here."""

import json
import re
import shlex
import time

from absl import flags

from launch import gcloud
from launch.gcloud import Refused, say
from launch.journal import Journal

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
FREE = {"CREATING", "PREEMPTED", "TERMINATED", "STOPPED"}  # a node in any other state is counted as one that costs money
LABEL = "humpback"
# cloud.google.com/tpu/docs/request-using-flex-start: queued resources only, seven days at most.
FLEX, LONGEST_SECONDS = "flex-start", 7 * 24 * 3600
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


class Pod:
    """Everything of the name as it is. `state`, of what was made from here: missing, waiting, up, leaving or gone.

    `workers`: how many machines are up in all; `chips`: how many cost money; `foreign`: what somebody else made, by name, of which
    `clash` has a name that we need.
    """

    def __init__(self, journal: Journal):
        made = journal.slices
        journal.check()  # a look elsewhere would find nothing
        requests, vms = listed("queued-resources"), listed("tpu-vm")
        mine = made["id"] if made else None
        request = requests.get(FLAGS.name)
        ours = request is not None and mine is not None and _label(_spec(request)) == mine
        self.vms = {
            name: vm
            for name, vm in vms.items()
            if mine and (_label(vm) == mine or (ours and vm.get("queuedResource", "").rpartition("/")[2] == FLAGS.name))
        }
        self.queued = ours
        if found := [request["name"]] if ours else [vm["name"] for vm in self.vms.values()]:
            journal.know_project(found[0].split("/")[1])  # projects/PROJECT/locations/…
        self.foreign = {name: vm["state"] for name, vm in vms.items() if name not in self.vms}
        if request is not None and not ours:
            self.foreign[FLAGS.name] = request["state"]["state"]
        self.clash = sorted(set(self.foreign) & {FLAGS.name, *nodes(journal)})
        states = [request["state"]["state"]] if ours else []
        if not ours or states[0] in UP:  # or they are not there yet
            states += [self.vms[node]["state"] if node in self.vms else "missing" for node in nodes(journal)]
        self.state = _state(states) if ours or self.vms else "missing"
        self.detail = " ".join(dict.fromkeys(states)) if ours or self.vms else "there is none"
        ready = [vm for vm in self.vms.values() if vm["state"] == "READY"]
        self.workers = sum(len(vm.get("networkEndpoints", [])) for vm in ready)
        costly = sum(vm["state"] not in FREE for vm in self.vms.values())
        self.chips = costly * chips(made["type"]) if made else 0
        journal.state = "up" if costly else self.state

    def refuse_foreign(self) -> None:
        """Refused where somebody else's slice has a name that we need: it is neither set up, which empties a folder, nor deleted."""
        if self.clash:
            raise Refused(f"{describe_foreign({name: self.foreign[name] for name in self.clash})}; take another --name")


def listed(kind: str) -> dict[str, dict]:
    """All queued resources or nodes that are called NAME or NAME-NUMBER, by name, in gcloud's JSON."""
    text = gcloud.gcloud(kind, "list", "--format=json")
    if text is None:
        raise Refused(f"--zone={FLAGS.zone}: what there is cannot be listed; what gcloud says is above", hopeless=False)
    by_name = {item["name"].rpartition("/")[2]: item for item in json.loads(text or "[]")}
    return {name: item for name, item in sorted(by_name.items()) if re.fullmatch(rf"{re.escape(FLAGS.name)}(-\d+)?", name)}


def _spec(request: dict) -> dict:
    """The node that a queued resource asks for."""
    return next((spec.get("node", {}) for spec in request.get("tpu", {}).get("nodeSpec", [])), {})


def _label(node: dict) -> str | None:
    return node.get("labels", {}).get(LABEL)


def _state(states: list[str]) -> str:
    if all(state in UP for state in states):
        return "up"
    if any(state in LEAVING for state in states):
        return "leaving"
    return "waiting" if all(state in UP | WAITING for state in states) else "gone"


def describe_foreign(foreign: dict[str, str]) -> str:
    """Names what somebody else made, and how it is deleted by hand."""
    found = ", ".join(f"{name} ({state})" for name, state in foreign.items())
    project = f" --project={FLAGS.project}" if FLAGS.project else ""
    by_hand = f"gcloud compute tpus tpu-vm list --zone={FLAGS.zone}{project}"
    return f"{found}: was not made from here ({FLAGS.journal} does not know it), so it is left as it is, and costs money; see {by_hand}"


def nodes(journal: Journal) -> list[str]:
    """Names of the slices; of several, gcloud numbers them behind the prefix."""
    count = journal.slices["count"] if journal.slices else FLAGS.slices or 1
    return [FLAGS.name] if count == 1 else [f"{FLAGS.name}-{number}" for number in range(count)]


def family(kind: str) -> str:
    """v4 of v4-32. Refused for a type that is not known."""
    name = kind.partition("-")[0]
    if name not in RUNTIMES or not kind.partition("-")[2].isdecimal():
        raise Refused(f"--type={kind}: not a type that is known here; these begin with {', '.join(RUNTIMES)}, as in v4-32")
    return name


def chips(kind: str) -> int:
    """Of one slice."""
    return int(kind.partition("-")[2]) // CORES_PER_CHIP.get(family(kind), 2)


def run_seconds() -> int | None:
    """--max_run_duration in seconds. Refused where Google keeps no such limit, and for what is no duration."""
    if FLAGS.provision == FLEX and not FLAGS.queued:
        raise Refused(f"--provision={FLEX} is a queued resource: it cannot be had with --noqueued")
    text = FLAGS.max_run_duration
    if text is None:
        return None
    if FLAGS.provision != FLEX:
        raise Refused(
            f"--max_run_duration={text}: Google keeps this limit for --provision={FLEX} only, and this is --provision={FLAGS.provision}; "
            "--max_chip_hours is kept by the supervisor"
        )
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    seconds = sum(int(part or 0) * unit for part, unit in zip(parts.groups(), sorted(UNITS.values(), reverse=True))) if parts else 0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise Refused(f"--max_run_duration={text}: must be a duration of at most seven days, such as 36h or 1d12h")
    return seconds


def create(journal: Journal, seconds: int | None = None) -> None:
    """Asks for the slices, or takes those that are there and were made from here. seconds: Google deletes them after so long."""
    differs = journal.check()
    made = journal.slices or {}
    kind, count = FLAGS.type or made.get("type"), FLAGS.slices or made.get("count", 1)
    if kind is None:
        raise Refused("--type is missing, for example --type=v5litepod-16")
    family(kind)
    seconds = min(filter(None, (seconds, run_seconds())), default=None)
    pod = Pod(journal)
    if differs and pod.state != "missing":
        raise Refused(f"{FLAGS.name} is there and was made with {differs}; give the same again, take another --name, or delete it first")
    pod.refuse_foreign()
    if pod.state in ("up", "waiting"):
        return say(f"{FLAGS.name} is there: {pod.detail}")
    if pod.state != "missing":
        delete(journal, forget=False)
    request(journal, journal.ask(kind, count), seconds)
    return say(f"{FLAGS.name}: {Pod(journal).detail}") if not FLAGS.dry_run else None


def request(journal: Journal, made: dict, seconds: int | None) -> None:
    """Asks for what the journal has noted."""
    runtime = FLAGS.runtime or RUNTIMES[family(made["type"])]
    more = [f"--labels={LABEL}={made['id']}"]
    if FLAGS.provision == FLEX:
        more += [f"--provisioning-model={FLEX}", *([f"--max-run-duration={min(seconds, LONGEST_SECONDS)}s"] if seconds else [])]
    elif FLAGS.provision != "on-demand":
        more.append(f"--{FLAGS.provision}")
    for flag in ("service_account", "network", "subnetwork"):
        more += [f"--{flag.replace('_', '-')}={FLAGS[flag].value}"] if FLAGS[flag].value else []
    more += ["--internal-ips"] if FLAGS.internal_ips else []
    kind, answers = f"--accelerator-type={made['type']}", []
    if FLAGS.queued:
        which = [f"--node-id={FLAGS.name}"] if made["count"] == 1 else [f"--node-count={made['count']}", f"--node-prefix={FLAGS.name}"]
        words = [*which, kind, f"--runtime-version={runtime}", *more]
        answers.append(gcloud.gcloud("queued-resources", "create", FLAGS.name, *words, "--quiet"))
    else:
        words = [kind, f"--version={runtime}", *more]
        try:
            answers += [gcloud.gcloud("tpu-vm", "create", node, *words, "--quiet", seconds=1800) for node in nodes(journal)]
        except Refused as error:  # some of the slices would cost money while the others wait for room
            say(str(error))
            delete(journal)
            raise
    if None in answers:
        delete(journal)
        raise Refused(f"--zone={FLAGS.zone} --type={made['type']}: something that this names is not there; what gcloud says is above")


def delete(journal: Journal, forget: bool = True) -> None:
    """Deletes what was made from here, and returns when none of it is left; says so after asking for everything of the name.

    Refused, as for trouble that may pass, when it is still there after several attempts. forget: as it is not to be made anew.
    """
    for _ in range(gcloud.TRIES):
        pod = Pod(journal)
        if not FLAGS.dry_run and pod.state == "missing":
            if journal.slices and forget:
                journal.write(slices=None)
            if not pod.foreign:
                return say(f"{FLAGS.name}: nothing is left")
            return say(f"{FLAGS.name}: nothing is left that was made from here. {describe_foreign(pod.foreign)}")
        if FLAGS.dry_run or pod.queued:  # --force: and its nodes
            gcloud.gcloud("queued-resources", "delete", FLAGS.name, "--force", "--quiet", seconds=1800)
        for node in nodes(journal) if FLAGS.dry_run else pod.vms:
            if not pod.queued:
                gcloud.gcloud("tpu-vm", "delete", node, "--quiet", seconds=1800)
        if FLAGS.dry_run:
            return None
        time.sleep(min(10, FLAGS.poll_seconds))
    raise Refused(f"{FLAGS.name} is still there; see gcloud compute tpus queued-resources list --zone={FLAGS.zone}", hopeless=False)


def left(journal: Journal) -> str:
    """What a command says last: what it leaves that costs money, and how that is ended; "" when there is nothing."""
    made, state = journal.slices, journal.state
    if not made or state == "missing":
        return ""
    several = f"{made['count']} × " if made["count"] > 1 else ""
    what = f"{FLAGS.name} ({several}{made['type']} in {made['zone']})"
    costs = {
        "waiting": "waits in the queue, and costs money as soon as it is up",
        "gone": "was taken away; what may be left of it costs money",
        None: "was asked for from here; what is there of it costs money",
    }.get(state, "is left as it is, and costs money")
    where = [f"--name={FLAGS.name}", f"--zone={made['zone']}", *([f"--project={made['project']}"] if made["project"] else [])]
    return f"{what} {costs}; `launch/tpu.py delete {shlex.join(where)}` ends it"
