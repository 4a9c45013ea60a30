"""Google's metadata server: what a TPU machine asks it of itself, within a few seconds in all and once a process.

The server, its paths and the header by which both sides know each other: cloud.google.com/compute/docs/metadata/querying-metadata.
A machine of another kind may have none there, or something that accepts a connection and says nothing, or answers with a page of its own.
"""

import http.client
import os
import queue
import threading
import time
import urllib.error
import urllib.request

SECONDS = 4.0  # for all questions of a process together
ATTRIBUTES = "instance/attributes/"
_FLAVOR = {"Metadata-Flavor": "Google"}
_RETRY_SECONDS = 0.3  # after a trouble of the server's own (5xx)
_LONGEST = 1 << 20  # bytes of an answer
_lock = threading.Lock()
_known: list["dict[str, str] | Silent"] = []  # what was found out
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it stands on this machine's own network


class Silent(Exception):
    """There is something, and no answer that could be used: neither that this machine is one of several nor that it is not."""


def address(path: str) -> str:
    """Where a value is asked for."""
    return f"http://{os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')}/computeMetadata/v1/{path}"


def ask(path: str, seconds: float = SECONDS) -> str | None:
    """A value; None where there is no such value, or no metadata server. Silent when it does not say within `seconds`."""
    request, deadline = urllib.request.Request(address(path), headers=_FLAVOR), time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            with _DIRECT.open(request, timeout=left) as answer:
                if answer.headers.get("Metadata-Flavor") != _FLAVOR["Metadata-Flavor"]:
                    return None  # a gateway's or a proxy's page
                return answer.read(_LONGEST).decode(errors="replace").strip()
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return None
        except (OSError, http.client.HTTPException) as error:  # the second: no HTTP, or an answer that was cut off
            reason = getattr(error, "reason", error)
            if not isinstance(reason, (TimeoutError, http.client.HTTPException, ConnectionResetError)):
                return None  # refused, or there is no such name
        time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
    raise Silent(f"{address(path)} gave no answer within {seconds:.2g} s")


def tpu() -> dict[str, str]:
    """What the server says of this TPU machine's place, {} where it says nothing of the kind: `agent-worker-number`,
    `worker-network-endpoints` and `tpu-env`. Silent when that takes longer than SECONDS, however it does. It is asked once.
    """
    with _lock:
        if not _known:
            answers: queue.SimpleQueue[dict[str, str] | Silent] = queue.SimpleQueue()
            # In a thread of its own: no limit of a socket holds for a look-up of the name, or for an answer that comes byte by byte.
            threading.Thread(target=_ask_all, args=(answers, time.monotonic() + SECONDS), name="metadata", daemon=True).start()
            try:
                _known.append(answers.get(timeout=SECONDS))
            except queue.Empty:
                _known.append(Silent(f"{address(ATTRIBUTES)} gave no answer within {SECONDS:g} s"))
        found = _known[0]
    if isinstance(found, Silent):
        raise found
    return found


def environment_of(found: dict[str, str]) -> dict[str, str]:
    """The variables in `tpu-env` of what `tpu` returns, lines of NAME: 'VALUE'."""
    lines = (line.partition(":") for line in found.get("tpu-env", "").splitlines())
    return {name.strip(): value.strip().strip("'") for name, _, value in lines}


def _ask_all(answers: queue.SimpleQueue, deadline: float) -> None:
    found: dict[str, str] = {}
    try:
        for name in ("agent-worker-number", "worker-network-endpoints", "tpu-env"):
            value = ask(ATTRIBUTES + name, deadline - time.monotonic())
            if value is None and not found:
                break  # no TPU machine made by Cloud TPU: nothing more is asked
            if value is not None:
                found[name] = value
    except Silent:
        answers.put(Silent(f"{address(ATTRIBUTES)} gave no answer within {SECONDS:g} s"))
    else:
        answers.put(found)
