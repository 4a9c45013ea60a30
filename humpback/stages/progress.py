"""How far the making of segments is: pages and bytes a second and the time that is left, on the terminal and in the stage's metrics."""

import sys
import time

from etils import epath
from tqdm import tqdm

from humpback.corpus.worker import Job
from humpback.stages.directory import Stage

_METRICS_SECONDS = 5.0


class Progress:
    """Counts the bytes of the inputs that are done, which the time left is taken from, and the pages that the workers have begun."""

    def __init__(self, stage: Stage, jobs: list[Job], todo: list[Job]) -> None:
        self._stage, self._started, self._said = stage, time.monotonic(), time.monotonic()
        self._sizes = {job.number: sum(_size(path) for _, path in job.given.files) for job in jobs}
        done = sum(self._sizes.values()) - sum(self._sizes[job.number] for job in todo)
        whole = sum(self._sizes.values())
        self._bar = tqdm(total=whole, initial=done, unit="B", unit_scale=True, desc="segments", disable=None, file=sys.stderr)
        self._done, self._inputs, self._of = done, len(jobs) - len(todo), len(jobs)

    def __call__(self, complete: list[Job], pages: int = 0, size: int = 0, read: int = 0) -> None:
        """Hears of jobs that are complete now, of all pages and their bytes so far, and of the bytes that jobs in progress have read."""
        self._inputs += len(complete)
        seconds = max(time.monotonic() - self._started, 1e-9)
        rates = {"pages_per_second": round(pages / seconds, 1), "megabytes_per_second": round(size / 1e6 / seconds, 2)}
        speed = f"{rates['pages_per_second']:,} pages/s, {rates['megabytes_per_second']} MB/s of HTML"
        self._bar.set_postfix_str(f"{self._inputs}/{self._of} inputs, {speed}", refresh=False)
        self._done += sum(self._sizes[job.number] for job in complete)
        self._bar.n = max(self._bar.n, min(self._done + read, self._bar.total))  # what is read of one stream may be longer than its file
        self._bar.update(0)
        if time.monotonic() - self._said > _METRICS_SECONDS:
            self._said = time.monotonic()
            self._stage.metrics({"inputs": self._inputs, "of": self._of, "pages": pages, **rates, "seconds": round(seconds, 1)})

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


class KeysProgress:
    """How far the search for near-duplicates is: keys of bands a second and the time that is left, on the terminal."""

    def __enter__(self) -> "KeysProgress":
        self._bar = tqdm(unit=" keys", unit_scale=True, desc="near-duplicates", disable=None, file=sys.stderr)
        return self

    def __call__(self, done: int, of: int) -> None:
        self._bar.total = of
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _size(path: str) -> int:
    try:
        return epath.Path(path).stat().length
    except OSError:  # it will be counted as unreadable
        return 0
