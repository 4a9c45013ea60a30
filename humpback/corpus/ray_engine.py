"""The work of `humpback segment` on the hosts of a Ray cluster: the same parts and the same duplicates as on one machine, byte for byte.

A Ray task does what a local worker does, one input at a time, and is done again elsewhere when its worker or host dies. Candidate pairs of
near-duplicates are grouped by Ray Data, a few bands at a time; the host that gives the commands finds the exact duplicates and the
components. Every host needs the same versions installed and sees the same inputs and output folder (gs://, or a shared disk).
"""

import atexit
import functools
import importlib.metadata
import itertools
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from humpback import extras
from humpback.corpus import duplicates
from humpback.corpus.duplicates import BANDS, LOCATED, Components, Index, Progress
from humpback.corpus.worker import Job, Worker
from humpback.errors import UserError
from humpback.rounding import ceil_div

BANDS_AT_ONCE = (2, 6, 12)  # the first few connect most of what is alike, which is not compared again; then fewer passes are better
BUCKET_ROWS = 250_000  # keys that one task groups: 12 MB
RETRIES = 10  # of a task whose worker or host died; spot hosts go often
_FIELDS = LOCATED.names or ()
_QUEUED = 2  # tasks for each core of the cluster
_WATCH_SECONDS = 1.0
# What a part's bytes depend on.
PACKAGES = ("humpback", "chardetng-py", "fastwarc", "markdown-it-py", "numpy", "pyarrow", "pycld2", "rensa", "selectolax")


def connect(address: str) -> Any:
    """The `ray` package, connected to the cluster at `address` ("auto" for the one this host belongs to). UserError when there is none."""
    extras.load("ray.data", "ray", "--engine=ray")
    ray = extras.load("ray", "ray", "--engine=ray")
    if not ray.is_initialized():
        try:
            if re.fullmatch(r"[^:/]+:\d+", address):  # Ray itself tries for seven minutes
                host, port = address.split(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=address, log_to_driver=False)
        except (OSError, OverflowError, ValueError) as error:
            raise UserError(f"--ray_address={address}: no Ray cluster there ({error}); start one with `ray start --head`") from error
    return ray


def extract_all(jobs: Sequence[Job], address: str, progress: Callable[[list[Job], int, int, int], None]) -> None:
    """Runs every job on the cluster. `progress` hears of the jobs that are complete now, of the pages of all that are, and of their bytes,
    as `local_engine.extract_all` says them; its last number, bytes of the jobs in progress, is 0.

    UserError when a worker says so, when a job's workers die again and again, or when a host has other versions than this one.
    """
    ray = connect(address)
    extract = ray.remote(num_cpus=1, max_retries=RETRIES)(_extract)
    versions, waiting, pages, size = _versions(), iter(jobs), 0, 0
    running: dict[Any, Job] = {}
    while True:
        most = _QUEUED * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while len(running) < most and (job := next(waiting, None)) is not None:
            running[extract.remote(job, versions)] = job
        if not running:
            return
        done, _ = ray.wait(list(running), num_returns=1, timeout=_WATCH_SECONDS)
        for reference in done:
            found = _result(ray, reference, running[reference])
            pages, size = pages + found[0], size + found[1]
        progress([running.pop(reference) for reference in done], pages, size, 0)


def _result(ray: Any, reference: Any, job: Job) -> tuple[int, int]:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise UserError(
            f"{job.given.source}: its worker died {RETRIES + 1} times ({type(error).__name__}); "
            "see Ray's logs, and run the same command again: it continues"
        ) from error


def _extract(job: Job, versions: dict[str, str]) -> tuple[int, int]:
    """Does a job in a Ray worker; returns its pages and their bytes, (0, 0) for one that is complete."""
    if (here := _versions()) != versions:
        wrong = ", ".join(f"{name} {here[name]} instead of {versions[name]}" for name in versions if here[name] != versions[name])
        raise UserError(f"the Ray worker on {socket.gethostname()} has {wrong}; every host needs the same versions")
    worker = _worker()
    before = worker.progress
    if not job.done:
        worker.run(job)
    return worker.progress[0] - before[0], worker.progress[1] - before[1]


@functools.cache  # its child, which takes a while to start, does one job after another
def _worker() -> Worker:
    worker = Worker()
    atexit.register(worker.close)
    return worker


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def verified_pairs(
    index: Index, alive: np.ndarray, jaccard: float, progress: Progress, *, address: str = "auto"
) -> Iterator[np.ndarray]:
    """Pairs that connect the same rows as those of `duplicates.verified_pairs`, found on the cluster at `address`.

    Of each row 48 bytes travel for each band, and every host holds 8 bytes a row of the corpus.
    """
    ray = connect(address)
    components = Components(alive)
    labels = np.full(index.starts[-1], -1, np.int64)
    buckets = ceil_div(len(alive), BUCKET_ROWS)
    stops = list(itertools.accumulate(BANDS_AT_ONCE)) if len(alive) else []
    for first, stop in zip([0, *stops], stops):
        labels[alive] = components.labels
        bands = range(first, stop)
        given = ray.put((index.parts, index.starts, labels))
        keys = ray.data.from_items([{"part": number} for number in range(len(index.parts))]).map_batches(
            _keys_of_parts, batch_size=1, batch_format="numpy", fn_args=(given, bands, buckets)
        )
        found = keys.groupby("bucket", num_partitions=buckets * len(bands)).map_groups(
            _pairs_of_bucket, batch_format="numpy", fn_args=(given, jaccard)
        )
        batches = found.iter_batches(batch_size=None, batch_format="numpy")
        # All at once, as to merge costs a pass over all rows.
        pairs = np.concatenate([np.empty((0, 2), np.int64), *(np.stack((b["left"], b["right"]), axis=1) for b in batches)])
        components.merge(pairs)
        yield pairs
        progress(stop * len(alive), BANDS * len(alive))


def _keys_of_parts(batch: dict[str, np.ndarray], given: Any, bands: range, buckets: int) -> Iterator[dict[str, np.ndarray]]:
    """A bucket and a key for each living row of the parts and each band, with the fields of LOCATED."""
    import ray

    parts, starts, labels = ray.get(given)
    for part in batch["part"].tolist():
        index = duplicates.read_index(parts[part])
        rows = duplicates.located(index, part, int(starts[part]))
        rows["label"] = labels[starts[part] : starts[part + 1]]
        living = rows["label"] >= 0
        rows, index = rows[living], index[living]
        for band in bands:
            key = index["bands"][:, band]
            bucket = (band - bands.start) * buckets + (key % np.uint64(buckets)).astype(np.int64)
            yield {"bucket": bucket, "key": key, **{name: rows[name] for name in _FIELDS}}


def _pairs_of_bucket(group: dict[str, np.ndarray], given: Any, jaccard: float) -> dict[str, np.ndarray]:
    """The similar pairs among the rows of one bucket."""
    import ray

    parts, _, _ = ray.get(given)
    rows = np.empty(len(group["key"]), LOCATED)
    for name in _FIELDS:
        rows[name] = group[name]
    order = np.argsort(rows["position"])  # as they come, they are in no order
    found = duplicates.join(duplicates.shared(group["key"][order], rows[order]), duplicates.Texts(parts), jaccard)
    return {"left": found[:, 0], "right": found[:, 1]}
