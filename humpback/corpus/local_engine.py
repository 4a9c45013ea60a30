"""The work of `humpback segment` on this machine: a worker process for each core."""

import queue
import threading
import time
from collections.abc import Callable, Sequence

from humpback.corpus.worker import Job, Worker

_WATCH_SECONDS = 0.2


def extract_all(jobs: Sequence[Job], workers: int, progress: Callable[[list[Job], int, int, int], None]) -> None:
    """Runs every job. `progress` hears several times a second of the jobs that are complete now, of all pages and their bytes so far,
    and of how many bytes of the jobs in progress are read.

    Raises what a worker raises, after the others have ended their jobs' work in progress; what is published stays.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    done: queue.SimpleQueue[Job] = queue.SimpleQueue()
    failures: list[BaseException] = []
    guards = [Worker() for _ in range(min(workers, len(jobs)))]

    def work(guard: Worker) -> None:
        try:
            while not failures:
                job = waiting.get_nowait()
                guard.run(job)
                done.put(job)
        except queue.Empty:
            pass
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(guard,), daemon=True) for guard in guards]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) or not done.empty():
            time.sleep(_WATCH_SECONDS)
            complete = [done.get() for _ in range(done.qsize())]
            progress(complete, *(sum(numbers) for numbers in zip(*(guard.progress for guard in guards), strict=True)))
    finally:
        for guard in guards:
            guard.close()
    if failures:
        raise failures[0]
