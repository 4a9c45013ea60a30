"""What a large run costs to look at and to take away: `humpback report` and `humpback export`, their time and memory.

Ours alone. A synthetic run of 500,000 candidates, of 600 to 2,400 characters each, rated twice; the first round curates a twelfth, the
second all, so that the export has as many rows. Each command is a process of its own; its memory is the largest resident set.
.venv/bin/python tests/benchmarks/report.py --folder=DIR, some 6 GB. The last line is a JSON object.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import common
import numpy as np

from humpback import storage
from humpback.records import Candidate, Example, Rated, Record, Segment, record_id, write_shards

MOST_SECONDS, MOST_MEGABYTES = 180, 500  # of the report
WORDS = 4_000


def candidates(count: int) -> Iterator[tuple[Candidate, float, float]]:
    """Candidates with both scores, the same each time."""
    random = np.random.default_rng(0)
    words = [f"{chr(97 + i % 26)}{i:x}" for i in range(WORDS)]
    pool = " ".join(words[i] for i in np.minimum(random.zipf(1.3, 1 << 19), WORDS) - 1)
    for number in range(count):
        start, size = int(random.integers(len(pool) - 2_400)), int(random.integers(600, 2_400))
        text, place = pool[start : start + size], f"http://site{random.zipf(1.5) % 5_000}.example/{number}"
        name = record_id(place, 0, size, text)
        segment = Segment(name, text, f"Header {number}", ("Page", f"Header {number}"), place, place, 0, size, "en", 1.0)
        asked = f"Explain what {pool[start + 7 : start + 200]} is about."
        echo = "echo" if number % 50 == 0 else ""
        scores = np.clip(random.normal(3, 1) + random.normal(0, 0.3, 2), 1, 5)
        yield Candidate(name, segment, asked, echo, "m", 0), float(scores[0]), float(scores[1])


def rated(candidate: Candidate, score: float, judge: str) -> Rated:
    """By one judge."""
    score = round(score * 4) / 4
    value = None if candidate.reason else score
    return Rated(candidate.id, candidate, value, (value,), (f"It fits. Score: {score}",), (), candidate.reason, judge, 0, mass=0.8)


def _rated_rows(count: int, place: int, judge: str) -> Iterator[Rated]:
    return (rated(row[0], row[place], judge) for row in candidates(count))


def _chosen(rows: Callable[[], Iterable[Rated]], every: int) -> Iterator[Example]:
    for number, one in enumerate(rows()):
        if one.score is not None and number % every == 0:
            segment = one.candidate.segment
            yield Example(one.id, one.candidate.instruction, segment.text, "augmented", segment.url, one)


def make(run: Path, count: int) -> None:
    """The run's folders."""

    def put(stage: str, name: str, records: Callable[[], Iterable[Record]], counts: dict[str, int], number: int = 0) -> None:
        files = dict.fromkeys(write_shards(run / stage, name, records(), number or sum(1 for _ in records())), "")
        manifest = {"config": {}, "config_sha256": "0" * 64, "counts": counts, "dropped": {}, "inputs": {}, "files": files}
        storage.publish_json(run / stage / "manifest.json", manifest)
        common.say(f"made {stage}")

    put("candidates", "candidates", lambda: (one for one, _, _ in candidates(count)), {"out": count}, count)
    for t in (1, 2):
        rows = functools.partial(_rated_rows, count, t, f"m{t - 1}")
        chosen = functools.partial(_chosen, rows, 1 if t == 2 else 12)
        put(f"ratings-{t}", "ratings", rows, {"asked": count}, count)
        put(f"curated-{t}", "curated", chosen, {"selected": count if t == 2 else count // 12})
    seed = [Example(f"{n:016x}", f"What is the number {n}?", f"It is {n}.", "seed", f"s:{n}") for n in range(3_200)]
    put("seed", "seed", lambda: iter(seed), {"train": len(seed)})
    put("segments", "segments", lambda: (one.segment for one, _, _ in candidates(100)), {"segments": count})


def measured(*arguments: str) -> dict[str, float]:
    """Seconds, seconds of processor time and megabytes of a command."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "humpback", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: humpback {arguments[0]} ended with {os.waitstatus_to_exitcode(status)}")
    seconds = {"seconds": time.monotonic() - started, "processor": used.ru_utime + used.ru_stime}
    return {**{name: round(value, 1) for name, value in seconds.items()}, "megabytes": round(used.ru_maxrss / 1024)}


def main() -> None:
    """Makes the run, unless it is there, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500_000, help="candidates")
    parser.add_argument("--folder", type=Path, help="where the run is made, and stays; default: a temporary folder")
    parser.add_argument("--smoke", action="store_true", help="1,000 candidates: shows only that it works")
    values = parser.parse_args()
    count = 1_000 if values.smoke else values.count
    with tempfile.TemporaryDirectory() as temporary:
        run = (values.folder or Path(temporary)) / f"run-{count}"
        if not (run / "segments" / "manifest.json").exists():
            make(run, count)
        found = {"records": count, "report": measured("report", f"--workdir={run}")}
        found["report"]["page_megabytes"] = round((run / "report.html").stat().st_size / 1e6, 1)
        common.say(f"report: {found['report']}")
        found["export"] = measured("export", f"--source={run / 'curated-2'}", f"--out={Path(temporary) / 'out'}")
        common.say(f"export: {found['export']}")
    late = found["report"]["processor"] > MOST_SECONDS or found["report"]["megabytes"] > MOST_MEGABYTES
    print(json.dumps(found | {"within": not late}))
    sys.exit(1 if late and not values.smoke else 0)


if __name__ == "__main__":
    main()
