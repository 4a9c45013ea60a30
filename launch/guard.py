"""On worker 0 of a slice: deletes the slice when its time is over, also when nobody looks at it any more.

It can where the machines' service account may do that one thing, `tpu.nodes.delete` (docs/tpu.md has the role); whether it may is asked
beforehand, by projects.testIamPermissions. The requests: cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes/delete and
cloud.google.com/resource-manager/reference/rest/v1/projects/testIamPermissions. The service's address is changed as for gcloud,
by CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU and …_CLOUDRESOURCEMANAGER. What is known of it is in ~/humpback-guard.json.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from humpback import metadata

FILE = pathlib.Path.home() / "humpback-guard.json"
PERMISSION = "tpu.nodes.delete"
_TICK_SECONDS, _AGAIN_SECONDS, _TIMEOUT_SECONDS = 5.0, 60.0, 30.0


def begin(seconds: float, node: str, zone: str, project: str, born: Callable[[int], str]) -> None:
    """Leaves a process that deletes the slice `node` after so many seconds, in place of an earlier one; 0: only ends that."""
    former = read()
    if former and born(former["pid"]) == former["born"]:
        os.kill(former["pid"], 9)
    FILE.unlink(missing_ok=True)
    if seconds <= 0:
        return
    allowed, project = False, project or _quietly(lambda: metadata.ask("project/project-id")) or ""
    try:
        allowed, why = may_delete(project), f"the service account has no {PERMISSION}"
    except (OSError, ValueError, metadata.Silent) as error:
        why = f"whether it has {PERMISSION} cannot be asked ({error})"
    words = [f"--node={node}", f"--zone={zone}", f"--project={project}", f"--seconds={seconds}"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    worker = pathlib.Path(__file__).with_name("worker.py")
    process = subprocess.Popen([sys.executable, str(worker), "guard", *words], start_new_session=True, **streams)
    about = {"pid": process.pid, "born": born(process.pid), "ends": time.time() + seconds}
    _write({**about, "allowed": allowed, "why": "" if allowed else why})


def keep(seconds: float, node: str, zone: str, project: str, stop: Callable[[], None]) -> None:
    """The process that stays: waits, ends the command by `stop`, which lets it save, and deletes the slice, again until it is gone."""
    over = time.monotonic() + seconds
    while (left := over - time.monotonic()) > 0:
        time.sleep(min(left, _TICK_SECONDS))
    stop()
    while True:
        try:
            _request("DELETE", f"{_service('TPU', 'tpu')}v2/projects/{project}/locations/{zone}/nodes/{node}")
        except (OSError, ValueError, metadata.Silent) as error:
            _write({**read(), "why": str(error)})
        time.sleep(_AGAIN_SECONDS)


def status(born: Callable[[int], str]) -> dict | None:
    """Seconds that are left and whether the slice may delete itself then; None when nothing waits for it."""
    found = read()
    if not found or born(found["pid"]) != found["born"]:
        return None
    return {"left": found["ends"] - time.time(), "allowed": found["allowed"], "why": found["why"]}


def may_delete(project: str) -> bool:
    """Whether the service account may delete nodes of the project. OSError, ValueError or Silent when that cannot be asked."""
    where = f"{_service('CLOUDRESOURCEMANAGER', 'cloudresourcemanager')}v1/projects/{project}:testIamPermissions"
    return PERMISSION in _request("POST", where, {"permissions": [PERMISSION]}).get("permissions", [])


def _service(name: str, host: str) -> str:
    return os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}", f"https://{host}.googleapis.com/").rstrip("/") + "/"


def _request(method: str, url: str, body: dict | None = None) -> dict:
    token = json.loads(metadata.ask("instance/service-accounts/default/token") or "{}").get("access_token")
    if not token:
        raise ValueError("this machine has no service account")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        raise OSError(f"{method} {url.partition('?')[0]}: {error.code} {error.reason}") from None


def _quietly(ask: Callable[[], str | None]) -> str | None:
    try:
        return ask()
    except metadata.Silent:
        return None


def read() -> dict:
    """What is known of the process that waits, {} for nothing."""
    try:
        return json.loads(FILE.read_text())
    except (OSError, ValueError):
        return {}


def _write(value: dict) -> None:
    FILE.with_suffix(".tmp").write_text(json.dumps(value))
    os.replace(FILE.with_suffix(".tmp"), FILE)
