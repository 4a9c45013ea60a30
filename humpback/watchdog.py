"""Ends a process that hangs: a thread watches what may, with a limit that fits it.

Because a thread does, it also works while the main thread waits in C++, where JAX lets others run: for a collective whose other end is
gone, a device that does not answer, a store that is silent.
"""

import bisect
import contextlib
import faulthandler
import math
import os
import threading
import time
from collections.abc import Callable, Iterator

from humpback import locks
from humpback.errors import STALLED

RELEASE_SECONDS = 5  # of a store that does not answer, for who ends at once
COMPILING_SECONDS = 1_800.0  # that a program may take to be compiled
STORE_SECONDS = 1_800.0  # that trouble on gs:// may take without being a hang: gcs.PATIENCE_SECONDS, some times over
_STORE_RATE = 10e6  # bytes/s of a store that is slow
_SLOW_SHARE, _SLOW_FLOPS = 0.005, 1e9  # of a device's peak, and of one without a known peak: who is slower hangs
LEAST_SECONDS = 300.0  # of a piece whose usual time is not known, however little it computes
_TICK_SECONDS = 1.0
_KEPT = 1_000  # durations
_STDERR = 2


def computing_seconds(operations: float, devices: int, peak: float | None) -> float:
    """What so many floating-point operations may take on devices of such a peak, FLOP/s."""
    return operations / (devices * (_SLOW_SHARE * peak if peak else _SLOW_FLOPS))


def storing_seconds(size: float) -> float:
    """What to write, or read, so many bytes may take."""
    return STORE_SECONDS + size / _STORE_RATE


class Limit:
    """`with Limit("saving", 600):` the block may take so many seconds.

    Beyond them a line on standard error says what hangs, the stacks of all threads follow, and the exit code is STALLED.
    """

    def __init__(self, what: str, seconds: float, why: str = "") -> None:
        self._over, self._lock = threading.Event(), threading.Lock()
        self.renew(what, seconds, why)

    def renew(self, what: str, seconds: float, why: str = "") -> None:
        """From now on the block may take so many seconds more, for this."""
        with self._lock:
            self._what, self._left, self._why, self._started = what, seconds, why, time.monotonic()
            self._renewed = True

    def __enter__(self) -> "Limit":
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while True:
            # Counted by waits, not by the clock: a process that was suspended for an hour (Ctrl-Z) has not hung.
            with self._lock:
                tick, self._renewed = min(self._left, _TICK_SECONDS), False
            if self._over.wait(tick):
                return
            with self._lock:
                if self._renewed:  # in the midst of this tick, which was another piece's
                    continue
                self._left -= tick
                if self._left <= 0:
                    break
        say(
            f"{self._what} has taken {time.monotonic() - self._started:.1f} s, {self._why or 'far more than it can need'}: "
            f"it hangs, so this process ends with exit code {STALLED}; the same command continues from what was saved. The "
            "stacks of all its threads:"
        )
        faulthandler.dump_traceback(_STDERR, all_threads=True)
        locks.release_all(RELEASE_SECONDS)
        os._exit(STALLED)  # sys.exit would wait for the main thread


class Watchdog:
    """Limits of pieces of work that are alike: `with watchdog.step(number):` around all the work of each, or `pieces`.

    A piece may take `factor` times the median of the first thousand before it and at least `floor_seconds`; until `known` of them have
    been timed, `first_seconds`. what: the word for a piece.
    """

    def __init__(
        self, what: str = "step", *, factor: float = 20.0, floor_seconds: float = 30.0, known: int = 5, first_seconds: float = math.inf
    ) -> None:
        self._what, self._factor, self._floor_seconds = what, factor, floor_seconds
        self._known, self._first_seconds = known, first_seconds
        self._durations: list[float] = []  # seconds, sorted

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Times the block and watches it; a block that raises is not counted."""
        started = time.monotonic()
        with Limit(*self._limit(number)):
            yield
        self._count(time.monotonic() - started)

    @contextlib.contextmanager
    def pieces(self) -> Iterator[Callable[[], None]]:
        """Watches a block that does piece after piece; what it gives is to be called after each."""
        number, started = 1, time.monotonic()
        with Limit(*self._limit(number)) as limit:

            def done() -> None:
                nonlocal number, started
                now = time.monotonic()
                self._count(now - started)
                number, started = number + 1, now
                limit.renew(*self._limit(number))

            yield done

    @property
    def median(self) -> float:
        """Seconds of the median piece so far, the upper one of two. IndexError before the first."""
        return self._durations[len(self._durations) // 2]

    def _count(self, seconds: float) -> None:
        if len(self._durations) < _KEPT:
            bisect.insort(self._durations, seconds)

    def _limit(self, number: int) -> tuple[str, float, str]:
        what = f"{self._what} {number}"
        if len(self._durations) < self._known:
            return what, self._first_seconds, ""
        median = self.median
        why = f"the median of the {self._what}s before it is {median:.3g} s"
        return what, max(self._factor * median, self._floor_seconds), why


def say(text: str) -> None:
    """A line on standard error, past Python's own buffer, whose lock a thread that hangs may hold."""
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"\nhumpback: {text}\n".encode())
