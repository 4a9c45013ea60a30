#!/usr/bin/env python3
"""The same command as several processes on this machine, each with simulated CPU devices: a pod to try things on.

    python launch/local_pod.py --processes=2 --devices=4 -- humpback augment --config=configs/demo.py --workdir=runs/demo
    python launch/local_pod.py --processes=2 --devices=4 --log_dir=/tmp/pod -- python my_script.py

`humpback` and `python` are those of the Python that runs this file. Process 0 writes to the terminal as if it were alone; the
lines of the others come on standard error behind their number, "[1] …", or go to DIR/process-1.log with --log_dir=DIR. The
first process that fails gives the exit code; 134 says that it was killed, and the others ended because they had lost it. All
belong to the process group of this launcher, and none outlives it; Ctrl-C lets them save, and a second one ends them at once.
"""

import argparse
import contextlib
import ctypes
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

PEER_LOST = 134  # humpback.distributed.PEER_LOST, whose import would bring JAX
INTERRUPTED = 130  # humpback.errors.INTERRUPTED
HEARTBEAT_SECONDS = 10  # on one machine no network can be slow
LOST = (PEER_LOST, -signal.SIGABRT)  # the latter is how the former looks to a parent process
LAUNCHER = os.getpid()
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main() -> int:
    """Starts the processes, waits for them and returns the exit code."""
    parser = argparse.ArgumentParser(
        usage="local_pod.py --processes=N --devices=M [--log_dir=DIR] -- humpback COMMAND --flags",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, required=True, metavar="N")
    parser.add_argument("--devices", type=int, required=True, metavar="M", help="simulated devices of each process")
    parser.add_argument("--log_dir", type=pathlib.Path, metavar="DIR")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if options.processes < 1 or options.devices < 1:
        parser.error("--processes and --devices must be at least 1")
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    processes: list[subprocess.Popen] = []
    try:
        for environment in environments(options.processes, options.devices):
            processes.append(start(options.command, environment, options.log_dir))
        printers = [show(index, process) for index, process in enumerate(processes) if process.stdout]
        first = watch(processes)
        codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for printer in printers:
        printer.join(5)  # seconds; a grandchild may hold the pipe open
    return INTERRUPTED if INTERRUPTED in codes else report(first, codes)


def end(number: int, _: object) -> None:
    """Ends all by way of `finally`; but the first Ctrl-C a terminal has sent to all, and they save what they have before they end."""
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, lambda number, _: sys.exit(128 + number))
    else:
        sys.exit(128 + number)


def environments(count: int, devices: int) -> Iterator[dict[str, str]]:
    """The environment of each of `count` processes with `devices` simulated devices."""
    port = free_ports()
    heartbeat = os.environ.get("HUMPBACK_HEARTBEAT_SECONDS", str(HEARTBEAT_SECONDS))
    inherited = {name: value for name, value in os.environ.items() if name != "HUMPBACK_RENDEZVOUS_PORT"}
    for index in range(count):
        yield {
            **inherited,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
            "HUMPBACK_SHARED_WORKDIR": "1",
            "HUMPBACK_HEARTBEAT_SECONDS": heartbeat,
        }


def free_ports() -> int:
    """A free port whose next one is free, too: for JAX's coordinator and for the rendezvous before it."""
    while True:
        port = random.randrange(20000, 32000)  # below those that the system gives to outgoing connections
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port


def start(command: list[str], environment: dict[str, str], log_dir: pathlib.Path | None) -> subprocess.Popen:
    """Starts one process; its `stdout` is a pipe with all that it says when somebody must read that."""
    index = environment["JAX_PROCESS_ID"]
    programs = {"humpback": [sys.executable, "-m", "humpback"], "python": [sys.executable]}
    command = [*programs.get(command[0], [command[0]]), *command[1:]]
    if not shutil.which(command[0]):
        sys.exit(f"local_pod: no program {command[0]!r}")
    if index == "0":
        return subprocess.Popen(command, env=environment, preexec_fn=die_with_launcher)
    streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    if log_dir is None:
        return subprocess.Popen(command, env=environment, preexec_fn=die_with_launcher, stdout=subprocess.PIPE, **streams)
    log_dir.mkdir(parents=True, exist_ok=True)
    with open(log_dir / f"process-{index}.log", "wb") as log:
        return subprocess.Popen(command, env=environment, preexec_fn=die_with_launcher, stdout=log, **streams)


def die_with_launcher() -> None:
    """In the child, before the command: Linux is to kill it when the launcher dies, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != LAUNCHER:  # it died before the line above
            os._exit(1)


def show(index: int, process: subprocess.Popen) -> threading.Thread:
    """Prints a process' lines behind its number, from a thread of its own."""

    def lines() -> None:
        for line in process.stdout:
            sys.stderr.buffer.write(b"[%d] %s\n" % (index, line.rstrip(b"\r\n")))
            sys.stderr.flush()

    thread = threading.Thread(target=lines, daemon=True)
    thread.start()
    return thread


def watch(processes: list[subprocess.Popen]) -> int | None:
    """Waits until all have ended and returns who failed first, None when nobody did.

    After a failure the others have the time to notice it by themselves, three heartbeats and a bit, before they are killed.
    """
    heartbeat = float(os.environ.get("HUMPBACK_HEARTBEAT_SECONDS", HEARTBEAT_SECONDS))
    first, deadline = None, float("inf")
    while True:
        codes = [process.poll() for process in processes]
        failed = [index for index, code in enumerate(codes) if code]
        if failed and first is None:
            # Several may have ended since the last look; one that ended because it had lost another was not the first.
            first = min(failed, key=lambda index: codes[index] in LOST)
            deadline = time.monotonic() + 3 * heartbeat + 3
        if None not in codes or time.monotonic() > deadline:
            return first
        time.sleep(0.05)


def report(first: int | None, codes: list[int | None]) -> int:
    """Says what happened when not all is well, and returns the exit code. A code of None: that process did not end by itself."""
    if first is None:
        return 0
    code = codes[first]
    how = f"with {signal.Signals(-code).name} (exit code {128 - code})" if code < 0 else f"with exit code {code}"
    others = [index for index, other in enumerate(codes) if index != first]
    lost = [str(index) for index in others if codes[index] in LOST]
    stuck = [str(index) for index in others if codes[index] is None]
    say(f"process {first} ended first, {how}")
    if lost:
        say(f"peer lost: process {first}; therefore ended with {PEER_LOST}: {', '.join(lost)}")
    if stuck:
        say(f"still ran long afterwards and were killed: {', '.join(stuck)}")
    if code > 0:
        return code
    return PEER_LOST if lost else 128 - code


def say(text: str) -> None:
    print(f"local_pod: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
