"""How fast pages become segments, on one core and from bytes in memory, beside trafilatura, resiliparse and the parser alone.

All filters are on, near-duplicates apart. Then: what a second worker brings, and whether memory grows with the pages. The pages are
every so many-th of Debian's twelve documentation packages (launch/debian_pages.sh all). Seconds are of processor time for one core,
and of the clock for the workers.

Last line: a JSON object with `segment_vs_trafilatura_fast`, `pages_per_second`, `two_workers` (speed of two over one) and
`memory_growth` (the most memory a worker had over all pages, over what it had after the first thousand).
"""

import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import common
from selectolax.lexbor import LexborHTMLParser

from humpback.config import Segments
from humpback.corpus import local_engine, readers
from humpback.corpus.segments import extract
from humpback.corpus.worker import GARBAGE_THRESHOLD, Job, Worker
from humpback.records import Page

# Pages a second on 400 of these pages, measured before on 2 cores of an AMD EPYC.
FIGURES = {"trafilatura": 56.0, "trafilatura_fast": 71.0, "resiliparse": 733.0}
PAGES = 400
FIRST, SAMPLED_SECONDS = 1_000, 0.05


def pages_of(folder: str, count: int) -> list[pathlib.Path]:
    """`count` pages of all kinds, the same ones each time."""
    inputs = readers.list_inputs(folder, lambda text: None)
    paths = [pathlib.Path(path) for given in inputs for _, path in given.files]
    return paths[:: max(1, len(paths) // count)][:count]


def ours(pages: list[Page], core: int) -> tuple[float, int]:
    """Seconds of processor time for the pages, and how many segments they gave."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    started, found, cfg = time.process_time(), 0, Segments()
    for page in pages:
        found += len(extract(page, cfg, lambda reason, tree: None))
    seconds = time.process_time() - started
    os.sched_setaffinity(0, cores)
    return seconds, found


def parse(pages: list[Page]) -> float:
    """Seconds of processor time for parsing alone."""
    started = time.process_time()
    for page in pages:
        LexborHTMLParser(page.html)
    return time.process_time() - started


def with_workers(folder: str, workers: int, count: int) -> float:
    """Seconds of the clock for `count` pages in parts of a hundred."""
    paths = pages_of(folder, count)
    cfg = Segments()
    with tempfile.TemporaryDirectory() as out:
        units = [readers.Input(str(i), tuple((p.name, str(p)) for p in paths[i : i + 100]), "html") for i in range(0, len(paths), 100)]
        jobs = [Job(number, unit, cfg, out) for number, unit in enumerate(units)]
        started = time.monotonic()
        local_engine.extract_all(jobs, workers, lambda *_: None)
        return time.monotonic() - started


def memory_growth(paths: list[pathlib.Path], count: int) -> float:
    """The most memory a worker's child had, over its memory when it had read the first thousand of `count` pages of one file."""
    with tempfile.TemporaryDirectory() as out:
        file = pathlib.Path(out) / "pages.jsonl"
        texts = [path.read_bytes().decode("utf-8", "replace") for path in paths]
        with file.open("w") as lines:
            for number in range(count):
                lines.write(json.dumps({"url": f"http://example.org/{number}", "html": texts[number % len(texts)]}) + "\n")
        job, guard, seen = Job(0, readers.Input("pages.jsonl", (("pages.jsonl", str(file)),), "jsonl"), Segments(), out), Worker(), {}
        done = threading.Thread(target=guard.run, args=(job,))
        done.start()
        while done.is_alive():
            time.sleep(SAMPLED_SECONDS)
            if guard.pid is not None and (resident := _resident(guard.pid)):
                seen["before" if guard.progress[0] <= FIRST else "most"] = max(
                    resident, seen.get("before" if guard.progress[0] <= FIRST else "most", 0.0)
                )
        guard.close()
    common.say(f"  memory of a worker: {seen['before']:.0f} MB in the first {FIRST:,} pages, {seen['most']:.0f} MB in {count:,}")
    return seen["most"] / seen["before"]


def _resident(pid: int) -> float:
    try:
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
    except (OSError, IndexError):  # it has ended
        return 0.0


def main() -> int:
    """Measures and prints; the exit code."""
    values = common.arguments(
        __doc__, more=lambda parser: parser.add_argument("--memory_pages", type=int, default=100_000, help="pages of the memory test")
    )
    common.begin("pages to segments")
    unpacked = subprocess.run([common.ROOT / "launch" / "debian_pages.sh", "all"], stdout=subprocess.PIPE, text=True, check=True)
    folder = unpacked.stdout.strip()
    paths = pages_of(folder, 40 if values.smoke else PAGES)
    pages = [Page(path.name, path.name, 0, path.stat().st_size, path.read_bytes()) for path in paths]
    common.say(f"{len(pages)} pages of {sum(len(page.html) for page in pages) / len(pages) / 1000:.1f} kB")
    core = max(os.sched_getaffinity(0))
    gc.set_threshold(GARBAGE_THRESHOLD)  # as a worker does
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", "parser", *FIGURES)}
    found = 0
    with common.Peer("trafilatura_peer.py") as peer:
        common.say(f"compared with {peer.ask('versions')}")
        peer.ask("load", files=[str(path) for path in paths], core=core)
        ours(pages[:20], core)
        for number in range(values.rounds):
            for name in common.turns(list(seconds), number):
                if name == "ours":
                    took, found = ours(pages, core)
                else:
                    took = parse(pages) if name == "parser" else peer.ask("read", reader=name)["seconds"]
                seconds[name].append(took)
            common.say(f"round {number + 1} of {values.rounds}: " + ", ".join(f"{n} {len(pages) / s[-1]:.0f}" for n, s in seconds.items()))
    rates = {name: [len(pages) / took for took in times] for name, times in seconds.items()}
    common.show(rates, "pages/s")
    speed = {name: statistics.median(values) for name, values in rates.items()}
    common.say(f"  {found} segments of them")
    many = 200 if values.smoke else 4_000
    clock: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(1 if values.smoke else 3):
        for workers in clock:
            clock[workers].append(with_workers(folder, workers, many))
    two = statistics.median(clock[1]) / statistics.median(clock[2])
    one = statistics.median(clock[1])
    common.say(f"  {many:,} pages with one worker {one:.1f} s, with two {one / two:.1f} s: {two:.2f} x")
    growth = memory_growth(paths, 1_500 if values.smoke else values.memory_pages)
    result = {
        "segment_vs_trafilatura_fast": speed["ours"] / speed["trafilatura_fast"],
        "pages_per_second": speed["ours"],
        "two_workers": two,
        "memory_growth": growth,
        "segments": found,
        "rates": speed,
    }
    return common.finish(result, speed, FIGURES, values.smoke)


if __name__ == "__main__":
    sys.exit(main())
