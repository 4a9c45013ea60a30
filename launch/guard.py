"""On worker 0 of a slice: deletes the slice when its time is over, also when nobody looks at it any more.

It can where the machines' service account may do that one thing, `tpu.nodes.delete` (docs/tpu.md has the role); whether it may is asked
beforehand, by projects.testIamPermissions. The requests: cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes/delete and
cloud.google.com/resource-manager/reference/rest/v1/projects/testIamPermissions. The service's address is changed as for gcloud,
by CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU and …_CLOUDRESOURCEMANAGER. What is known of it is in ~/humpback-guard.json.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from humpback import metadata
from launch import worker

PERMISSION = "tpu.nodes.delete"
_TICK_SECONDS, _AGAIN_SECONDS, _TIMEOUT_SECONDS = 5.0, 60.0, 30.0


def begin(seconds: float, node: str, zone: str, project: str) -> None:
    """Leaves a process that deletes the slice `node` after so many seconds, in place of an earlier one; 0: only ends that."""
    if worker.is_running(former := worker.read(worker.GUARD)):
        os.kill(former["pid"], signal.SIGKILL)
    worker.GUARD.unlink(missing_ok=True)
    if seconds <= 0:
        return
    allowed, project = False, project or _quietly(lambda: metadata.ask("project/project-id")) or ""
    try:
        allowed, why = may_delete(project), f"the service account has no {PERMISSION}"
    except (OSError, ValueError, metadata.Silent) as error:
        why = f"whether it has {PERMISSION} cannot be asked ({error})"
    words = [f"--node={node}", f"--zone={zone}", f"--project={project}", f"--seconds={seconds}"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, worker.__file__, "guard", *words], start_new_session=True, **streams)
    about = {"pid": process.pid, "born": worker.born(process.pid), "ends": time.time() + seconds}
    worker.write(worker.GUARD, {**about, "allowed": allowed, "why": "" if allowed else why})


def keep(seconds: float, node: str, zone: str, project: str) -> None:
    """The process that stays: waits, ends the command, which may save, and deletes the slice; tries again as long as it is there."""
    over = time.monotonic() + seconds
    while (left := over - time.monotonic()) > 0:
        time.sleep(min(left, _TICK_SECONDS))
    worker.stop(worker.GRACE_SECONDS)
    while True:
        try:
            _request("DELETE", f"{_service('TPU', 'tpu')}v2/projects/{project}/locations/{zone}/nodes/{node}")
        except (OSError, ValueError, metadata.Silent) as error:
            worker.write(worker.GUARD, {**worker.read(worker.GUARD), "why": str(error)})
        time.sleep(_AGAIN_SECONDS)


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
