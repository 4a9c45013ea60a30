"""Ending early: on SIGTERM, Ctrl-C, or when the machine is taken away, a training is saved first; a step that hangs ends the process."""

import bisect
import contextlib
import faulthandler
import http.client
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from humpback import internals, locks, metadata
from humpback.errors import INTERRUPTED, PREEMPTED, Stopped

STALLED = 70  # EX_SOFTWARE
_CODES = {signal.SIGTERM: PREEMPTED, signal.SIGINT: INTERRUPTED}
_RELEASE_SECONDS = 5  # of a store that does not answer, for who ends at once
_TICK_SECONDS = 1.0
# cloud.google.com/compute/docs/instances/create-use-spot ("detect preemption"), …/docs/metadata/querying-metadata (wait_for_change)
_NOTICE = "instance/preempted?wait_for_change=true&timeout_sec=60"
_NOTICE_RETRY_SECONDS = 10.0
_STDERR = 2

T = TypeVar("T")


class StopRequest:
    """`with StopRequest() as stop:` SIGTERM and SIGINT, Ctrl-C's, are only remembered, so that work can end in order when it next looks.

    Whoever finds `came` set saves and raises Stopped with `code`. Set `nothing_to_save` while all that there is can be had again
    (loading, compiling): a signal then ends the process at once. So does a second one at any time, for a save that hangs. A block
    that ends although one came, too late for its last look, raises Stopped. Where SIGINT is ignored, as in the background of a
    shell script, it stays so.

    A thread of its own acts on the signal: Python calls a handler only in the main thread, and not before C++ code there has
    returned, which for a compilation takes minutes. Outside the main thread, where Python takes no handlers, nothing happens
    and the signals stay what they were.
    """

    def __init__(self) -> None:
        self.came = False
        self.code = PREEMPTED  # of the process that ends for it; INTERRUPTED says that a user wished it
        self._nothing_to_save = False
        self._restore = contextlib.ExitStack()

    @property
    def nothing_to_save(self) -> bool:
        """Whether a signal may end the process at once; when one has come before this is set, it does so then."""
        return self._nothing_to_save

    @nothing_to_save.setter
    def nothing_to_save(self, value: bool) -> None:
        self._nothing_to_save = value
        if value and self.came:
            _end_at_once(self.code)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        ours, pythons = socket.socketpair()
        pythons.setblocking(False)
        listener = threading.Thread(target=self._listen, args=(ours,), name="signals", daemon=True)
        listener.start()
        # Called last to first: when no more signal can come, the thread reads to the end of what has come.
        self._restore.callback(listener.join)
        self._restore.callback(pythons.close)
        # Python's own handler, which is not bound to a thread, writes the number of each signal there at once.
        self._restore.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False))
        for number in _CODES:
            former = signal.getsignal(number)
            if number == signal.SIGINT and former == signal.SIG_IGN:
                continue
            signal.signal(number, lambda *_: None)
            # None stands for a handler that is not Python's, which cannot be put back.
            self._restore.callback(signal.signal, number, signal.SIG_DFL if former is None else former)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._restore.close()
        if self.came and kind is None:
            raise Stopped(f"stopped by {_name(self.code)}; what was done by then is saved, and the same command continues", self.code)

    def run_interruptibly(self, function: Callable[[], T]) -> T:
        """Returns function(), called with `nothing_to_save` set: a compilation, say, which ends at once on a signal."""
        before, self.nothing_to_save = self.nothing_to_save, True
        try:
            return function()
        finally:
            self.nothing_to_save = before

    def _listen(self, ours: socket.socket) -> None:
        with ours:
            while numbers := ours.recv(64):
                for number in numbers:
                    if number not in _CODES:  # others are told here, too
                        continue
                    self.code = max(self.code, _CODES[signal.Signals(number)])
                    # In this order, so that of this thread and one that sets nothing_to_save one sees the other.
                    second, self.came = self.came, True
                    if second or self._nothing_to_save:
                        _end_at_once(self.code)
                    _say(f"{_name(self.code)}: saving as soon as this step is done; a second one ends at once")


def heed_preemption() -> None:
    """On a Cloud TPU machine, from a thread of its own: SIGTERM to this process when the metadata server says that the machine is
    being taken away. What the machine does then, a shutdown after half a minute, may reach a process too late or not at all."""
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not internals.on_tpu_machine():
        return
    with contextlib.suppress(metadata.Silent):
        if metadata.tpu():  # otherwise a TPU machine of another kind
            threading.Thread(target=_wait_for_notice, name="preemption", daemon=True).start()


def _wait_for_notice() -> None:
    request = urllib.request.Request(metadata.address(_NOTICE), headers={"Metadata-Flavor": "Google"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                if answer.read().strip() == b"TRUE":
                    _say("this machine is being taken away")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
        except (OSError, http.client.HTTPException):  # the second: an answer that was cut off
            time.sleep(_NOTICE_RETRY_SECONDS)


class Watchdog:
    """Ends the process when a step hangs: `with watchdog.step(number):` around all the work of each step.

    A step may take `factor` times the median of the steps before it and at least `floor_seconds`; there is no limit until
    `known` steps have been timed. Beyond it a line names the step, the stacks of all threads follow on standard error, and the
    exit code is STALLED. A thread watches, so it also works while the main thread waits in C++, where JAX lets others run: for
    a collective whose other end is gone, or a device that does not answer.
    """

    def __init__(self, factor: float = 20.0, floor_seconds: float = 30.0, known: int = 5) -> None:
        self._factor, self._floor_seconds, self._known = factor, floor_seconds, known
        self._durations: list[float] = []  # seconds, sorted

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Times the block and watches it; a block that raises is not counted."""
        started = time.monotonic()
        over = threading.Event()
        if len(self._durations) >= self._known:
            threading.Thread(target=self._watch, args=(number, started, over), name="watchdog", daemon=True).start()
        try:
            yield
        finally:
            over.set()
        bisect.insort(self._durations, time.monotonic() - started)

    @property
    def median(self) -> float:
        """Seconds of the median step so far, the upper one of two. IndexError before the first."""
        return self._durations[len(self._durations) // 2]

    def _watch(self, number: int, started: float, over: threading.Event) -> None:
        median = self.median
        left = max(self._factor * median, self._floor_seconds)
        while left > 0:
            # Counted by waits, not by the clock: a process that was suspended for an hour (Ctrl-Z) has not hung.
            tick = min(left, _TICK_SECONDS)
            if over.wait(tick):
                return
            left -= tick
        _say(
            f"step {number} has taken {time.monotonic() - started:.1f} s, the median of the steps before it is {median:.3g} s: "
            f"it hangs, so this process ends with exit code {STALLED}; the same command continues from what was saved. The "
            "stacks of all its threads:"
        )
        faulthandler.dump_traceback(_STDERR, all_threads=True)
        locks.release_all(_RELEASE_SECONDS)
        os._exit(STALLED)  # sys.exit would wait for the main thread


def _end_at_once(code: int) -> NoReturn:
    _say(f"{_name(code)}: ending at once with exit code {code}; the same command continues from what was saved")
    locks.release_all(_RELEASE_SECONDS)
    os._exit(code)


def _name(code: int) -> str:
    return "Ctrl-C" if code == INTERRUPTED else "SIGTERM"


def _say(text: str) -> None:
    """A line on standard error, past Python's own buffer, whose lock a thread that hangs may hold."""
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"\nhumpback: {text}\n".encode())
