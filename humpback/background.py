"""A thread that writes small files while whoever made them goes on."""

import concurrent.futures
from collections import deque
from collections.abc import Callable


class Background:
    """One thread that does what it is given, in order. What goes wrong is raised at the next call of either method, once, and what was
    given before that call is not done any more.

    A process that is killed, or ends by os._exit as distributed.leave does, loses what is not done: join before an error leaves.
    """

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "background")
        self._given: deque[concurrent.futures.Future[None]] = deque()
        self._failed = False

    def submit(self, work: Callable[[], None]) -> None:
        """Has `work()` done after all that was given before."""
        self._look(done_only=True)
        self._given.append(self._thread.submit(self._do, work))

    def join(self) -> None:
        """Returns when everything is done."""
        self._look(done_only=False)

    def _look(self, done_only: bool) -> None:
        while self._given and (self._given[0].done() or not done_only):
            try:
                self._given.popleft().result()
            except BaseException:
                concurrent.futures.wait(self._given)
                self._given.clear()
                self._failed = False
                raise

    def _do(self, work: Callable[[], None]) -> None:
        if self._failed:  # it would come behind a gap
            return
        try:
            work()
        except BaseException:
            self._failed = True
            raise
