"""Processes: who is there, barriers, replicas, and how one ends that has lost another.

`jax.distributed.initialize` aborts the process when somebody is missing, without saying who. So the processes first meet on a
socket of our own, where process 0 compares what they bring and tells all of them what is wrong.
"""

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from humpback import internals, metadata, tpu_flags
from humpback.errors import Stopped, UserError

PEER_LOST = 134  # what a shell shows for SIGABRT, with which JAX's coordination service ends those who are left
RENDEZVOUS_SECONDS = 60
TPU_RENDEZVOUS_PORT, TPU_COORDINATOR_PORT = 8490, 8482  # the latter is JAX's own; libtpu uses 8471 to 8480
# A process that sends no heartbeat for so long counts as lost. JAX's own 100 s would leave a pod idle; much less, and a machine
# that swaps or migrates would count as dead.
HEARTBEAT_SECONDS = 30
# A replica may work for hours while another is done. That one died is noticed by the heartbeats, not by this.
BARRIER_SECONDS = 24 * 3600.0
_RETRY_SECONDS = 0.2
_TOGETHER_SECONDS = 3  # for a failure that all processes have, such as a wrong path: they end within this of each other
_LINE_BYTES = 1 << 20  # the longest message of the rendezvous
_SHOWN = 5  # of many processes with the same trouble the first ones are enough

_barriers: collections.Counter[str] = collections.Counter()


class PeerLost(RuntimeError):
    """Another process of this run has died."""


class PeersMissing(UserError):
    """Others did not come in time. Nothing else is wrong: they may, when all are started again."""


@dataclasses.dataclass(frozen=True)
class Place:
    """This process among `count`, and where process 0 listens for the rendezvous."""

    index: int
    count: int
    host: str
    port: int


@dataclasses.dataclass(frozen=True)
class Replica:
    """A group of whole processes that holds a model of its own: this process' group, one of `count`."""

    index: int
    count: int
    devices: tuple[jax.Device, ...]  # those of the group's processes, by id
    is_first: bool  # whether this process is the first of its group


def start(configuration: Mapping[str, str] | None = None) -> None:
    """Joins the other processes when the environment names several. Before anything else touches JAX.

    Elsewhere than on Cloud TPU, JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say it, into which cli.py puts
    the flags that say the same. HUMPBACK_RENDEZVOUS_PORT is the port of the rendezvous on process 0's host (default: the
    coordinator's port + 1; on Cloud TPU 8490), HUMPBACK_RENDEZVOUS_SECONDS how long the first waits for the last (default 60),
    and HUMPBACK_HEARTBEAT_SECONDS the time after which a silent process counts as lost (default 30).

    `configuration` is what decides what this process will do; it must be the same everywhere, as must the code and the versions.
    UserError in all processes that are there, with the same text, when one is missing (PeersMissing) or differs.
    """
    place = find_place(os.environ)
    if place is None:
        return
    heartbeat = _heartbeat_seconds()
    timeout = _number(os.environ, "HUMPBACK_RENDEZVOUS_SECONDS", RENDEZVOUS_SECONDS, low=1)
    meet(place, {**describe(os.environ), **(configuration or {})}, timeout)
    # JAX's preemption service would take SIGTERM for itself, and nothing here asks it: a plain kill must end the process.
    jax.config.update("jax_enable_preemption_service", False)
    port = os.environ.get("JAX_COORDINATOR_PORT", TPU_COORDINATOR_PORT)
    address = os.environ.get("JAX_COORDINATOR_ADDRESS", f"{place.host}:{port}")
    # On Cloud TPU, JAX would ask the metadata server by itself, again and without a limit of time.
    how = "deactivate" if internals.on_tpu_machine() or "JAX_COORDINATOR_ADDRESS" not in os.environ else None
    jax.distributed.initialize(address, place.count, place.index, heartbeat_timeout_seconds=heartbeat, cluster_detection_method=how)


def are_several() -> bool:
    """Whether there is another process beside this one."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes records and draws progress."""
    return jax.process_index() == 0


def barrier(name: str, timeout_seconds: float = BARRIER_SECONDS) -> None:
    """Waits until every process is here. No device takes part, so replicas that share no collective can use it.

    A name may be used again. TimeoutError names the barrier when somebody has not come in time; PeerLost when somebody died.
    """
    if jax.process_count() == 1:
        return
    _barriers[name] += 1  # the service asks for ids of their own, and all processes count alike
    try:
        internals.coordination_client().wait_at_barrier(f"{name} #{_barriers[name]}", math.ceil(1000 * timeout_seconds))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            raise TimeoutError(
                f"barrier {name!r}: not all of the {jax.process_count()} processes came within {timeout_seconds:g} s"
            ) from error
        raise PeerLost(f"barrier {name!r}: another process has died; its own output says why") from error


def exchange(name: str, text: str, timeout_seconds: float = BARRIER_SECONDS) -> list[str]:
    """The texts of all processes that are not empty, by process. Every process calls it; like `barrier`, without any device."""
    if jax.process_count() == 1:
        return [text] if text else []
    client = internals.coordination_client()
    place = f"exchange {name} #{_barriers[name] + 1}"
    client.key_value_set(f"{place}/{jax.process_index():06d}", json.dumps(text))
    barrier(name, timeout_seconds)
    return [text for _, value in sorted(client.key_value_dir_get(place)) if (text := json.loads(value))]


def by_first(name: str, work: Callable[[], Any], timeout_seconds: float = BARRIER_SECONDS) -> Any:
    """What `work()` comes to in the first process, a JSON value or a UserError: the same in all of them. Every process calls it."""
    if jax.process_count() == 1:
        return work()
    text = ""
    if is_first():
        try:
            text = json.dumps({"value": work()})
        except UserError as error:
            text = json.dumps({"error": str(error)})
    found = json.loads(exchange(name, text, timeout_seconds)[0])
    if "error" in found:
        raise UserError(found["error"])
    return found["value"]


def agree(flag: bool) -> bool:
    """Whether the flag is set in any process, as `largest`."""
    return bool(largest(flag)[0])


def largest(*values: float) -> list[float]:
    """Of each number the largest of any process, in float32: the same in all of them. Every process calls it at the same points.

    Takes part in a collective of all devices, so not for replicas that are not in step; a single process returns at once.
    """
    if jax.process_count() == 1:
        return list(values)
    return multihost_utils.process_allgather(np.array(values, np.float32)).max(0).tolist()


def replica_layout(processes_per_replica: int = 1) -> Replica:
    """The replica of this process: replicas are groups of consecutive processes. UserError when they do not divide evenly."""
    count = jax.process_count()
    if processes_per_replica < 1 or count % processes_per_replica:
        raise UserError(f"processes_per_replica = {processes_per_replica}: it must divide the number of processes, {count}")
    index, position = divmod(jax.process_index(), processes_per_replica)
    devices = (d for d in jax.devices() if d.process_index // processes_per_replica == index)
    return Replica(index, count // processes_per_replica, tuple(sorted(devices, key=lambda d: d.id)), position == 0)


def leave(error: Exception, code: int) -> None:
    """Ends one of several processes with `code` for this error, PEER_LOST if that is the reason; returns if it is alone.

    An exit by itself would wait five minutes for the others, which know nothing, and then abort them and itself alike.
    """
    client = internals.coordination_client()
    if client is None:
        return
    if isinstance(error, PeerLost):
        print(f"humpback: {error}", file=sys.stderr)
        _end(PEER_LOST)
    seconds = _TOGETHER_SECONDS
    if not isinstance(error, (UserError, Stopped)):
        traceback.print_exception(error)
    if not isinstance(error, UserError):
        seconds += _heartbeat_seconds()  # a collective fails at once when a peer dies, that it died is known only then
    try:
        client.wait_at_barrier("leave", 1000 * seconds)
    except jax.errors.JaxRuntimeError as failure:
        _end(code if "DEADLINE_EXCEEDED" in str(failure) else PEER_LOST)
    sys.exit(code)  # all fail together


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def find_place(environment: Mapping[str, str]) -> Place | None:
    """Where the environment puts this process; None when it is alone. UserError when the variables contradict each other."""
    if "JAX_COORDINATOR_ADDRESS" in environment:
        host, _, port = environment["JAX_COORDINATOR_ADDRESS"].rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(
                f"--coordinator_address or JAX_COORDINATOR_ADDRESS={environment['JAX_COORDINATOR_ADDRESS']}: it must be HOST:PORT"
            )
        count = _number(environment, "JAX_NUM_PROCESSES", low=1)
        place: Place | None = Place(_number(environment, "JAX_PROCESS_ID"), count, host.strip("[]"), int(port) + 1)
    else:
        place = _find_place_on_tpu(_tpu_variables(environment))
    if place is None or place.count == 1:
        return None
    if place.index >= place.count:
        raise UserError(f"process id {place.index} is out of range: there are {place.count} processes, numbered from 0")
    rendezvous = _number(environment, "HUMPBACK_RENDEZVOUS_PORT", place.port, low=1)
    if rendezvous > 65535:
        raise UserError(f"the port of the rendezvous would be {rendezvous}, and the last one is 65535; set HUMPBACK_RENDEZVOUS_PORT")
    return dataclasses.replace(place, port=rendezvous)


def _find_place_on_tpu(environment: Mapping[str, str]) -> Place | None:
    named = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")  # in JAX's own order
    hosts = [name.split(":")[0] for name in named.split(",") if name]
    slices, slice_index, first = 1, 0, hosts[:1]
    if "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        if not hosts:
            raise UserError("MEGASCALE_COORDINATOR_ADDRESS is set, so TPU_WORKER_HOSTNAMES must name the hosts of this slice, too")
        slices, slice_index = _number(environment, "MEGASCALE_NUM_SLICES", low=1), _number(environment, "MEGASCALE_SLICE_ID")
        first = [environment["MEGASCALE_COORDINATOR_ADDRESS"].split(":")[0]]
    if len(hosts) * slices <= 1:
        return None
    worker = _number(environment, "TPU_WORKER_ID")
    if worker >= len(hosts):
        raise UserError(f"TPU_WORKER_ID={worker} is out of range: TPU_WORKER_HOSTNAMES names {len(hosts)} hosts, numbered from 0")
    return Place(slice_index * len(hosts) + worker, slices * len(hosts), first[0], TPU_RENDEZVOUS_PORT)


def _tpu_variables(environment: Mapping[str, str]) -> Mapping[str, str]:
    """On a TPU VM made with gcloud the metadata server knows what elsewhere (GKE, Kaggle) is in the environment.

    JAX_PLATFORMS=cpu keeps a command on such a machine to itself. UserError when the server does not say whether it is alone.
    """
    told = {"TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"} & environment.keys()
    if told or environment.get("JAX_PLATFORMS") == "cpu" or not internals.on_tpu_machine():
        return environment
    way_out = "set TPU_WORKER_ID and TPU_WORKER_HOSTNAMES, or TPU_SKIP_MDS_QUERY=1 for one machine alone"
    try:
        found = metadata.tpu()
    except metadata.Silent as error:
        raise UserError(f"whether this TPU machine is one of several cannot be found out: {error}; try again, {way_out}") from error
    worker, ends = found.get("agent-worker-number", ""), [end for end in found.get("worker-network-endpoints", "").split(",") if end]
    if len(ends) <= 1 and worker in ("", "0"):
        ends, worker = ends or ["localhost"], "0"
    # Names, or in an older form NAME:ID:ADDRESS.
    hosts = [end.split(":")[-1] for end in ends if end.count(":") in (0, 2)]
    if not worker.isdecimal() or len(hosts) < len(ends) or int(worker) >= len(hosts):
        said = f"agent-worker-number {worker!r}, worker-network-endpoints {','.join(ends)!r}"
        raise UserError(f"the metadata server does not say which of several machines this is ({said}); {way_out}")
    about = metadata.environment_of(found)
    names = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")
    slices = {name: about[name] for name in names if about.get(name)}
    return {**slices, **environment, "TPU_WORKER_HOSTNAMES": ",".join(hosts), "TPU_WORKER_ID": worker}


def _number(environment: Mapping[str, str], name: str, default: int | None = None, low: int = 0) -> int:
    text = environment.get(name, str(default) if default is not None else "")
    if not text.isdecimal() or int(text) < low:
        raise UserError(
            f"{name}={text or 'nothing'}: a whole number of at least {low} is needed beside the variables that name the other "
            "processes; set it, or unset those to run alone"
        )
    return int(text)


def _heartbeat_seconds() -> int:
    return _number(os.environ, "HUMPBACK_HEARTBEAT_SECONDS", HEARTBEAT_SECONDS, low=1)


def describe(environment: Mapping[str, str]) -> dict[str, str]:
    """What must be the same in all processes: code, versions and the number of devices, as far as it is known beforehand."""
    package = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    facts = {"python": platform.python_version(), "humpback's code": digest.hexdigest()[:12]}
    facts |= {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "orbax-checkpoint")}
    if (package.parent / ".git").exists():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git here; the digest above tells codes apart, too
            facts["commit"] = subprocess.check_output(
                ["git", "-C", package.parent, "rev-parse", "--short=12", "HEAD"], stderr=subprocess.DEVNULL, text=True
            ).strip()
    # The devices of a host, before JAX has counted them, and how programs for them are compiled.
    for name in ("JAX_NUM_CPU_DEVICES", "TPU_CHIPS_PER_HOST_BOUNDS", tpu_flags.VARIABLE):
        if name in environment:
            facts[name] = environment[name]
    return facts


def meet(place: Place, facts: Mapping[str, str], timeout_seconds: float) -> None:
    """Returns when all processes are there and their facts are alike; otherwise those that are there raise the same UserError.

    It is PeersMissing when some did not come and those who did are alike.
    """
    card = {"index": place.index, "count": place.count, "host": socket.gethostname(), "facts": dict(facts)}
    if place.index == 0:
        reason, passing = asyncio.run(_receive(place, card, timeout_seconds))
    else:
        reason, passing = _visit(place, card, timeout_seconds)
    if reason:
        raise (PeersMissing if passing else UserError)(reason)


async def _receive(place: Place, own: dict[str, Any], timeout_seconds: float) -> tuple[str, bool]:
    """Process 0's part: waits for the others' cards and answers them all: what is wrong ("" for nothing), whether that may pass."""
    visitors: dict[asyncio.StreamWriter, dict[str, Any]] = {}
    complete = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            card = _read_card(await reader.readline())
            if card is not None:
                visitors[writer] = card
                if {own["index"], *(c["index"] for c in visitors.values())} >= set(range(place.count)):
                    complete.set()
                await reader.read()  # returns when the visitor is gone: it may be started again and come anew
        except (OSError, ValueError, asyncio.CancelledError):  # reset; a line without an end; silent to the last
            pass
        visitors.pop(writer, None)
        writer.close()

    bound = place.host if place.host in ("localhost", "127.0.0.1", "::1") else None  # None: every interface
    try:
        server = await asyncio.start_server(serve, bound, place.port, limit=_LINE_BYTES, backlog=4096)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {place.port} for the others ({error.strerror}); if no other process 0 runs here, "
            "choose another port: HUMPBACK_RENDEZVOUS_PORT, the same in all processes"
        ) from error
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(complete.wait(), timeout_seconds)
    server.close()
    cards = [own, *visitors.values()]
    reason, passing = judge(cards, timeout_seconds)
    writers = list(visitors)
    for writer in writers:
        writer.write(json.dumps({"humpback": reason, "passing": passing}).encode() + b"\n")
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
    return reason, passing


def _read_card(line: bytes) -> dict[str, Any] | None:
    """A visitor's card; None for anything else that may knock at an open port."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        card = json.loads(line)["humpback"]
        if isinstance(card["facts"], dict) and isinstance(card["index"], int):
            return card
    return None


def _visit(place: Place, card: dict[str, Any], timeout_seconds: float) -> tuple[str, bool]:
    """The part of every other process: shows its card to process 0, which may not be up yet, and returns its answer."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            with socket.create_connection((place.host, place.port), timeout=max(1.0, deadline - time.monotonic())) as connection:
                # Process 0 may have come much later than this process, and waits for the last one as long.
                connection.settimeout(timeout_seconds + _TOGETHER_SECONDS)
                connection.sendall(json.dumps({"humpback": card}).encode() + b"\n")
                with connection.makefile("rb") as answers:
                    answer = json.loads(answers.readline(_LINE_BYTES))
            if isinstance(answer["humpback"], str):
                return answer["humpback"], bool(answer["passing"])
            problem = "something else answers there"
        except OSError as error:
            problem = error.strerror or str(error)
        except (ValueError, KeyError, TypeError):
            problem = "the connection ended without an answer"
        if time.monotonic() > deadline:
            raise PeersMissing(
                f"process {place.index} of {place.count} could not reach process 0 at {place.host} port {place.port} within "
                f"{timeout_seconds:g} s ({problem}); look at process 0's output, and whether the port is open between the hosts"
            )
        time.sleep(_RETRY_SECONDS)


def judge(cards: list[dict[str, Any]], timeout_seconds: float) -> tuple[str, bool]:
    """What is wrong with the processes that came, process 0 first, in one sentence, "" for nothing; whether it may pass."""
    count = cards[0]["count"]
    missing = [index for index in range(count) if index not in {card["index"] for card in cards}]
    problems = [f"{_listing(missing)} of {count} did not come within {timeout_seconds:g} s; look at their output"] if missing else []
    problems += (differences := _differences(cards))
    more = len(problems) - _SHOWN
    text = "; ".join(problems[:_SHOWN]) + (f"; and {more} more like these" if more > 0 else "")
    return f"{text}. All processes need the same command, code and versions, and an id of their own" if text else "", not differences


def _differences(cards: list[dict[str, Any]]) -> list[str]:
    """In what the processes that came are not alike, process 0 first."""
    first, count = cards[0], cards[0]["count"]
    problems = []
    by_index = collections.defaultdict(list)
    for card in cards:
        by_index[card["index"]].append(card)
    for index, same in sorted(by_index.items()):
        who = f"process {index} (host {same[0]['host']})"
        if len(same) > 1:
            problems.append(f"process id {index} is claimed {len(same)} times, by hosts {', '.join(card['host'] for card in same)}")
        elif same[0]["count"] != count:
            problems.append(f"{who} was told that there are {same[0]['count']} processes, process 0 that there are {count}")
        elif index not in range(count):
            problems.append(f"{who} is out of range: there are {count} processes, numbered from 0")
        else:
            mine, theirs = first["facts"], same[0]["facts"]
            names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
            if names:
                has, had = (", ".join(f"{name} {facts.get(name, '(none)')}" for name in names[:_SHOWN]) for facts in (theirs, mine))
                problems.append(f"{who} has {has}, process 0 (host {first['host']}) has {had}")
    return problems


def _listing(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[: 2 * _SHOWN])) + (f" and {len(indices) - 2 * _SHOWN} more" if len(indices) > 2 * _SHOWN else "")
    return f"process{'es' if len(indices) > 1 else ''} {shown}"
