"""A gcloud that keeps Cloud TPU's state in a folder and whose workers are folders of this machine.

`python fake_gcloud.py compute tpus …` with FAKE_GCLOUD naming the folder is what a script on PATH calls; `Cloud` is the test's hand on it.
It knows the commands and flags of cloud.google.com/sdk/gcloud/reference/compute/tpus/ that are used here and refuses others.
"""

import contextlib
import fcntl
import http.server
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

# Flags by the pages of the reference named in the module's text; --format, --project and --quiet belong to every command.
MADE = "accelerator-type spot reserved service-account labels network subnetwork internal-ips zone"
FLAGS = {
    "queued-resources create": f"node-id node-count node-prefix runtime-version {MADE}",
    "queued-resources list": "zone",
    "queued-resources delete": "force zone",
    "tpu-vm create": f"version {MADE}",
    "tpu-vm list": "zone",
    "tpu-vm delete": "zone",
    "tpu-vm ssh": "worker command internal-ip zone",
    "tpu-vm scp": "worker internal-ip zone",
}
ALPHA = {  # besides those
    "queued-resources create": "provisioning-model max-run-duration",
    "tpu-vm ssh": "tunnel-through-iap",
    "tpu-vm scp": "tunnel-through-iap",
}
CHIPS_PER_WORKER = 4
QUEUE = ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"]  # a state at each look, then it is there
PYTHON = """#!/bin/bash
# The Python of a worker: makes no environment and installs nothing, and runs another program as humpback when there is one.
case "$1 $2" in
  "-c import sys; print("*) echo 3.11 ;;
  "-c import sys"*"(3, 14)"*) exit 1 ;;
  "-c import "*) ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") if [[ $3 == freeze ]]; then cat "$HOME/freeze" 2>/dev/null || true; elif [[ -e $HOME/broken ]]; then exit 1; fi ;;
  "-m humpback") if [[ -n $FAKE_HUMPBACK ]]; then exec "$REAL_PYTHON" "$FAKE_HUMPBACK" "${@:3}"; else exec "$REAL_PYTHON" "$@"; fi ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


class Error(Exception):
    """What gcloud writes to standard error, with its exit code."""

    def __init__(self, text: str, code: int = 1):
        super().__init__(text)
        self.code = code


class Cloud:
    """The folder. settings: quota in chips, workers of a slice, the shares of calls that are limited and connections that break, whether
    workers take the key, `refused`: commands that the account may not do, `down`: whether nothing can be reached, and `may_delete`:
    whether the machines' account may."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def begin(self, *, quota: int = 64, workers: int = 2, limited: float = 0.0, breaks: float = 0.0, seed: int = 0, **environment: str):
        """An empty project, and a gcloud in `folder`/bin. environment: variables of every worker."""
        (self.folder / "bin").mkdir(parents=True)
        script = self.folder / "bin" / "gcloud"
        root = pathlib.Path(__file__).parents[2]
        told = f"FAKE_GCLOUD={shlex.quote(str(self.folder))} exec {shlex.quote(sys.executable)}"
        script.write_text(f'#!/bin/bash\ncd {shlex.quote(str(root))} && {told} -m tests.launch.fake_gcloud "$@"\n')
        (self.folder / "python").write_text(PYTHON)
        for file in (script, self.folder / "python"):
            file.chmod(0o755)
        settings = {"quota": quota, "workers": workers, "limited": limited, "breaks": breaks, "seed": seed, "environment": environment}
        settings |= {"key": True, "refused": [], "down": False, "may_delete": True}
        self._write({"settings": settings, "calls": 0, "made": 0, "queued": {}, "nodes": {}})
        return self

    @contextlib.contextmanager
    def state(self):
        """The state, for change; one at a time."""
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads((self.folder / "state.json").read_text())
            try:
                yield state
            finally:
                self._write(state)

    def _write(self, state: dict) -> None:
        (self.folder / "state.tmp").write_text(json.dumps(state, indent=1))
        os.replace(self.folder / "state.tmp", self.folder / "state.json")

    def set(self, **settings) -> None:
        with self.state() as state:
            state["settings"] |= settings

    def left(self) -> list[str]:
        """What costs money or holds the quota."""
        with self.state() as state:
            return [*state["queued"], *state["nodes"]]

    def add_foreign(self, name: str, kind: str = "v4-8") -> None:
        """A slice that somebody else made."""
        with self.state() as state:
            self._add_nodes(state, [name], kind, {"owner": "somebody"})

    def worker(self, node: str, number: int) -> pathlib.Path:
        """A worker's home."""
        return self.folder / "workers" / node / str(number)

    def preempt(self, notice: float = 0.0) -> list[str]:
        """Takes all slices that are up; their processes get SIGTERM and `notice` seconds first. Returns their names."""
        with self.state() as state:
            up = [name for name, node in state["nodes"].items() if node["state"] == "READY"]
            if notice:
                for name in up:
                    self._signal(name, signal.SIGTERM)
                time.sleep(notice)
            for name in up:
                state["nodes"][name]["state"] = "PREEMPTED"
                self._take(name)
            for request in state["queued"].values():
                if set(request["nodes"]) & set(up):
                    request["state"] = "SUSPENDED"
        return up

    def _take(self, node: str) -> None:
        deadline = time.monotonic() + 10
        while self._signal(node, signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(0.01)
        shutil.rmtree(self.folder / "workers" / node, ignore_errors=True)

    def _signal(self, node: str, number: int) -> int:
        """To all processes of a slice; how many there were."""
        return _signal_all(f"FAKE_NODE={self.folder}/{node}".encode(), number, whole=True)

    def end(self) -> None:
        """Kills all that still runs: workers' processes, gcloud's, and whoever has this gcloud on its PATH."""
        deadline = time.monotonic() + 20
        while _signal_all(str(self.folder).encode(), signal.SIGKILL, whole=False):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    # --- commands ---

    def run(self, words: list[str]) -> str:
        """What a command prints. Error for one that the reference does not know, that is limited, or that cannot be done."""
        alpha, words = words[:1] == ["alpha"], words[words[:1] == ["alpha"] :]
        if words[:2] != ["compute", "tpus"]:
            raise Error(f"Invalid choice: {words[:1]}", 2)
        verb, names = " ".join(words[2:4]), [word for word in words[4:] if not word.startswith("--")]
        flags = dict(word[2:].partition("=")[::2] for word in words[4:] if word.startswith("--"))
        known = {*FLAGS.get(verb, "").split(), *(ALPHA.get(verb, "").split() if alpha else ()), "format", "project", "quiet"}
        if verb not in FLAGS or not set(flags) <= known or "zone" not in flags:
            raise Error(f"(gcloud.compute.tpus.{verb}) unrecognized arguments: {set(flags) - known or verb}", 2)
        with self.state() as state:
            state["calls"] += 1
            chance = random.Random(f"{state['settings']['seed']} {state['calls']}")
            with open(self.folder / "calls.log", "a") as log:
                log.write(" ".join([verb, *names, *(word for word in words[4:] if word.startswith("--"))]).replace("\n", " ") + "\n")
            if state["settings"]["down"]:
                raise Error("ERROR: gcloud crashed (ConnectionError): no route to host")
            if verb in state["settings"]["refused"]:
                raise Error(f"ERROR: PERMISSION_DENIED: Permission to do {verb} is missing")
            if chance.random() < state["settings"]["limited"]:
                raise Error("ERROR: status RESOURCE_EXHAUSTED, 429: rateLimitExceeded, Quota exceeded for requests per minute")
            if verb not in ("tpu-vm ssh", "tpu-vm scp"):
                return getattr(self, verb.replace("-", "_").replace(" ", "_"))(state, (names or [""])[0], flags)
            node = names[-1].partition(":")[0] if verb == "tpu-vm scp" else names[0]
            self._find(state["nodes"], node)
            if state["nodes"][node]["state"] != "READY":
                raise Error(f"ERROR: node {node} is {state['nodes'][node]['state']}", 255)
            if not state["settings"]["key"]:
                raise Error("user@worker: Permission denied (publickey).\nERROR: [/usr/bin/ssh] exited with return code [255]", 255)
            settings, number = state["settings"], state["nodes"][node]["number"]
        breaks = chance.random() < settings["breaks"]
        workers = range(settings["workers"]) if flags.get("worker") == "all" else [int(flags.get("worker", 0))]
        if verb == "tpu-vm scp":
            for worker in workers:
                if breaks and worker:
                    raise Error("ERROR: connection reset by peer", 255)
                shutil.copy(names[0], self.worker(node, worker) / names[-1].partition(":")[2])
            return ""
        return self._ssh(node, number, workers, flags["command"], settings, chance if breaks else None)

    def _ssh(self, node: str, number: int, workers, command: str, settings: dict, chance: random.Random | None) -> str:
        """On all workers at once. chance: the connection to one breaks, before or after the command was run there."""
        victim, before = (chance.choice(list(workers)), chance.random() < 0.5) if chance else (None, False)
        running = {}
        for worker in workers:
            if worker == victim and before:
                continue
            home = self.worker(node, worker)
            environment = {
                **{name: value for name, value in os.environ.items() if name not in ("FAKE_GCLOUD", "PYTHONPATH")},
                "HOME": str(home), "FAKE_NODE": f"{self.folder}/{node}", "PYTHON": str(self.folder / "python"),
                "REAL_PYTHON": sys.executable, "TPU_WORKER_ID": str(worker), "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{number}",
                "JAX_NUM_PROCESSES": str(settings["workers"]), "JAX_PROCESS_ID": str(worker), **settings["environment"],
            }  # fmt: skip
            running[worker] = subprocess.Popen(["bash", "-c", command], cwd=home, env=environment, stdout=subprocess.PIPE, text=True)
        said = {worker: process.communicate()[0] for worker, process in running.items()}
        code = max((process.returncode for process in running.values()), default=0)
        if victim is not None:
            said.pop(victim, None)
            code = 255
        sys.stdout.write("".join(said.values()))
        if code:
            raise Error("ERROR: [/usr/bin/ssh] exited with return code [255]" if code == 255 else "ERROR: the command failed", abs(code))
        return ""

    def _find(self, among: dict, name: str) -> dict:
        if name not in among:
            raise Error(f"ERROR: NOT_FOUND: Resource {name} was not found")
        return among[name]

    def _add_nodes(self, state: dict, names: list[str], kind: str, labels: dict) -> None:
        from launch import local_pod  # here, because every gcloud line is a process of this file

        for name in names:
            port = local_pod.free_ports()
            state["made"] += 1
            state["nodes"][name] = {"state": "READY", "acceleratorType": kind, "number": port, "labels": labels}
            for worker in range(state["settings"]["workers"]):
                self.worker(name, worker).mkdir(parents=True)

    def _check_room(self, state: dict, names: list[str], kind: str) -> None:
        chips = state["settings"]["workers"] * CHIPS_PER_WORKER
        if (len(state["nodes"]) + len(names)) * chips > state["settings"]["quota"]:  # one that was preempted holds it, too
            raise Error("ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUPerProjectPerZone' has been exceeded")
        if kind.startswith("v2-"):
            raise Error("ERROR: NOT_FOUND: no such runtime version")
        if not kind.startswith(("v4-", "v5litepod-", "v6e-")):
            raise Error(f"ERROR: INVALID_ARGUMENT: accelerator type {kind} is not in this zone")

    def queued_resources_create(self, state: dict, name: str, flags: dict) -> str:
        if name in state["queued"]:
            raise Error(f"ERROR: ALREADY_EXISTS: {name}")
        count = int(flags.get("node-count", 1))
        nodes = [f"{flags['node-prefix']}-{i}" for i in range(count)] if count > 1 else [flags["node-id"]]
        self._check_room(state, nodes, flags["accelerator-type"])
        labels = dict([flags["labels"].split("=")])
        state["queued"][name] = {"state": QUEUE[0], "nodes": nodes, "type": flags["accelerator-type"], "labels": labels}
        return ""

    def queued_resources_list(self, state: dict, _: str, flags: dict) -> str:
        answers = []
        for name, request in state["queued"].items():
            spec = {"node": {"acceleratorType": request["type"], "labels": request["labels"]}}
            answers.append({"name": f"projects/p/locations/z/queuedResources/{name}", "state": {"state": request["state"]}})
            answers[-1]["tpu"] = {"nodeSpec": [spec]}
            if request["state"] in QUEUE:
                later = [*QUEUE, "ACTIVE"][QUEUE.index(request["state"]) + 1]
                if later == "ACTIVE":
                    self._add_nodes(state, request["nodes"], request["type"], request["labels"])
                request["state"] = later
        return json.dumps(answers)

    def queued_resources_delete(self, state: dict, name: str, flags: dict) -> str:
        request = self._find(state["queued"], name)
        there = [node for node in request["nodes"] if node in state["nodes"]]
        if there and "force" not in flags:
            raise Error(f"ERROR: FAILED_PRECONDITION: {name} has nodes")
        for node in there:
            self._take(node)
            del state["nodes"][node]
        del state["queued"][name]
        return ""

    def tpu_vm_create(self, state: dict, name: str, flags: dict) -> str:
        if name in state["nodes"]:
            raise Error(f"ERROR: ALREADY_EXISTS: {name}")
        self._check_room(state, [name], flags["accelerator-type"])
        self._add_nodes(state, [name], flags["accelerator-type"], dict([flags["labels"].split("=")]))
        return ""

    def tpu_vm_list(self, state: dict, _: str, flags: dict) -> str:
        ends = [{}] * state["settings"]["workers"]
        where = "projects/p/locations/z/nodes"
        return json.dumps([{**node, "name": f"{where}/{name}", "networkEndpoints": ends} for name, node in state["nodes"].items()])

    def tpu_vm_delete(self, state: dict, name: str, flags: dict) -> str:
        self._find(state["nodes"], name)
        for request in state["queued"].values():
            if name in request["nodes"]:
                request["state"] = "SUSPENDED"
        self._take(name)
        del state["nodes"][name]
        return ""


def _signal_all(mark: bytes, number: int, whole: bool) -> int:
    """To all processes that have this variable, or this text in one, in their environment; how many there were."""
    found = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            text = path.read_bytes()
            if mark in (text.split(b"\0") if whole else text) and int(path.parent.name) != os.getpid():
                os.kill(int(path.parent.name), number)
                found += 1
    return found


@contextlib.contextmanager
def services(cloud: Cloud):
    """Google's services as a worker sees them: the metadata server, the permissions and the deletion of a node. Yields the variables."""

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            values = {"service-accounts/default/token": json.dumps({"access_token": "of-the-machine"}), "project-id": "p"}
            self.answer(values.get(self.path.removeprefix("/computeMetadata/v1/").partition("/")[2]))

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["permissions"]
            with cloud.state() as state:
                may = state["settings"]["may_delete"]
            self.answer(json.dumps({"permissions": asked} if may else {}) if self.path == "/v1/projects/p:testIamPermissions" else None)

        def do_DELETE(self):
            node = self.path.partition("/v2/projects/p/locations/z/nodes/")[2]
            with cloud.state() as state:
                found = state["nodes"].pop(node, None) if state["settings"]["may_delete"] else None
                for request in state["queued"].values():
                    if node in request["nodes"]:
                        request["state"] = "SUSPENDED"
            self.answer("{}" if found else None)
            if found:
                cloud._take(node)

        def answer(self, text):
            self.send_response(200 if text else 404)
            self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        overrides = {f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}": f"http://{address}/" for name in ("TPU", "CLOUDRESOURCEMANAGER")}
        yield {"GCE_METADATA_IP": address, "NO_PROXY": "127.0.0.1", **overrides}
        server.shutdown()


if __name__ == "__main__":
    try:
        sys.stdout.write(Cloud(pathlib.Path(os.environ["FAKE_GCLOUD"])).run(sys.argv[1:]))
    except Error as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
