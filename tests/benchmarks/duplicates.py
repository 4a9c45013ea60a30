"""What near-duplicates cost: signatures a second, and `find` over synthetic segments, its time and memory.

Ours alone. Texts of 100 to 500 Zipf-distributed words; 70 % stand alone, 10 % have the same words as another, 10 % are mutations of
another (each word exchanged with a chance of 0 to 6 %), 5 % are one page with one word in thirty exchanged, so that any two share half
of their 5-grams: similar enough to be compared and not to be dropped; and 5 % are another page with one word exchanged. One core, CPU
time, which others on the machine disturb less: .venv/bin/python tests/benchmarks/duplicates.py. The last line is a JSON object.
"""

import argparse
import itertools
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np

from humpback.corpus import duplicates
from humpback.records import Segment, record_id, to_json

VOCABULARY = 30_000
PART = 5_000  # segments


def texts(count: int) -> Iterator[str]:
    """`count` texts in the shares above."""
    random = np.random.default_rng(0)
    weights = 1 / np.arange(10, VOCABULARY + 10)
    words = np.array([f"{chr(97 + i % 26)}{i:x}" for i in range(VOCABULARY)])
    pool = random.choice(VOCABULARY, 1 << 20, p=weights / weights.sum())

    def fresh() -> np.ndarray:
        size = random.integers(100, 500)
        start = random.integers(0, len(pool) - size)
        return random.permutation(pool[start : start + size])

    def mutated(ids: np.ndarray, share: float) -> np.ndarray:
        return np.where(random.random(len(ids)) < share, random.integers(0, VOCABULARY, len(ids)), ids)

    loose, tight = fresh(), fresh()
    recent = [fresh()]
    for kind in random.choice(5, count, p=[0.7, 0.1, 0.1, 0.05, 0.05]):
        if kind == 0:
            ids = fresh()
            recent = [*recent[-1_000:], ids]
        elif kind <= 2:
            ids = mutated(recent[random.integers(len(recent))], 0 if kind == 1 else random.uniform(0, 0.06))
        else:
            ids = mutated(loose, 0.035) if kind == 3 else mutated(tight, 1 / len(tight))
        yield " ".join(words[ids])


def write(folder: Path, count: int) -> tuple[list[duplicates.Part], float]:
    """The parts of `count` segments, and signatures a second."""
    parts, seconds, source = [], 0.0, enumerate(texts(count))
    while batch := list(itertools.islice(source, PART)):
        items = [Segment(record_id(str(i), 0, 1, text), text, "H", ("H",), f"u{i}", "s", 0, 1) for i, text in batch]
        lines = [to_json(item) for item in items]
        offsets = [0, *itertools.accumulate(map(len, lines))]
        started = time.process_time()
        rows = [duplicates.row(item, offset, len(line)) for item, offset, line in zip(items, offsets, lines)]
        seconds += time.process_time() - started
        name = folder / f"{len(parts):05d}"
        name.with_suffix(".jsonl").write_bytes(b"".join(lines))
        np.save(name.with_suffix(".npy"), np.array(rows, duplicates.ROW))
        parts.append(duplicates.Part(name.with_suffix(".jsonl"), name.with_suffix(".npy")))
    return parts, count / seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=100_000)
    count = parser.parse_args().segments
    with tempfile.TemporaryDirectory() as folder:
        parts, rate = write(Path(folder), count)
        common.say(f"{rate:,.0f} signatures a second")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.process_time()
        verdict = duplicates.find(parts, jaccard=0.8)
        seconds = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counts = Counter(verdict.tolist())
    found = {"kept": counts[duplicates.KEPT], "exact": counts[duplicates.EXACT], "near": counts[duplicates.NEAR]}
    common.say(f"find: {seconds:.1f} s, {found}, peak memory {before:.0f} MiB before and {peak:.0f} MiB at most")
    figures = {"segments": count, "signatures_per_second": rate, "find_seconds": seconds, "mib_before": before, "mib_peak": peak}
    print(json.dumps({**figures, **found}))


if __name__ == "__main__":
    main()
