"""Ending early: on SIGTERM, Ctrl-C, or when the machine is taken away, a training is saved first."""

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import NoReturn, TypeVar

from humpback import internals, locks, metadata
from humpback.errors import INTERRUPTED, PREEMPTED, Stopped
from humpback.watchdog import RELEASE_SECONDS, say

_CODES = {signal.SIGTERM: PREEMPTED, signal.SIGINT: INTERRUPTED}
# cloud.google.com/compute/docs/instances/create-use-spot ("detect preemption"), …/docs/metadata/querying-metadata (wait_for_change)
_NOTICE = "instance/preempted?wait_for_change=true&timeout_sec=60"
_NOTICE_RETRY_SECONDS = 10.0

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

    resumes: whether the same command goes on from what is saved, which is then said.
    """

    def __init__(self, resumes: bool = True) -> None:
        self._resumes = resumes
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
            self._end_at_once()

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
            goes_on = "; what was done by then is saved, and the same command continues" if self._resumes else ""
            raise Stopped(f"stopped by {_name(self.code)}{goes_on}", self.code)

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
                        self._end_at_once()
                    say(f"{_name(self.code)}: saving as soon as this step is done; a second one ends at once")

    def _end_at_once(self) -> NoReturn:
        goes_on = "; the same command continues from what was saved" if self._resumes else ""
        say(f"{_name(self.code)}: ending at once with exit code {self.code}{goes_on}")
        locks.release_all(RELEASE_SECONDS)
        os._exit(self.code)


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
                    say("this machine is being taken away")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
        except (OSError, http.client.HTTPException):  # the second: an answer that was cut off
            time.sleep(_NOTICE_RETRY_SECONDS)


def _name(code: int) -> str:
    return "Ctrl-C" if code == INTERRUPTED else "SIGTERM"
