"""What became of the pages: counts of everything kept and dropped, and a few samples of what each rule drops, for a person to judge."""

import bisect
import functools
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

SAMPLES = 20  # of each reason
SAMPLE_CHARS = 400
SAMPLES_FILE = "samples.json"  # of a stage

# Reasons that speak of a damaged or hostile input, not of what is written on a page: warnings, errors with --strict.
DAMAGE = frozenset((
    "bad record", "binary", "broken characters", "damaged", "encrypted", "killed its worker", "never closed", "no text", "program fault",
    "took too long", "too deep", "too large", "too much memory", "truncated", "unknown encoding", "unreadable",
))  # fmt: skip


class Tally:
    """Counts of pages, headers, segments, and of drops by reason; samples chosen by a checksum, so not by the order of the pages."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # pages, bytes, and what `segments.cut` counts
        self.warnings: Counter[str] = Counter()  # what the readers have said
        self.dropped: Counter[str] = Counter()
        self._samples: defaultdict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)  # per reason the smallest checksums, sorted

    def drop(self, reason: str, where: dict[str, Any], text: Callable[[], str]) -> None:
        """Counts something left out. `where` says what it is (source, bytes, header); `text` is only called when it becomes a sample."""
        self.dropped[reason] += 1
        key = zlib.crc32(repr(sorted(where.items())).encode("utf-8", "replace"))
        samples = self._samples[reason]
        if len(samples) < SAMPLES or key < samples[-1][0]:
            self._keep(reason, key, {**where, "text": text()[:SAMPLE_CHARS]})

    def add_page(self, page: dict[str, Any]) -> None:
        """Adds what became of a page: its `bytes`, `counts`, `drops` (reason, where, text) and `warnings`."""
        self.counts.update(pages=int(page["bytes"] > 0), bytes=page["bytes"])
        self.counts.update(page["counts"])
        self.warnings.update(page["warnings"])
        for reason, where, text in page["drops"]:
            self.drop(reason, where, functools.partial(str, text))

    def add(self, other: dict[str, Any]) -> None:
        """Adds what another `to_json` says."""
        self.counts.update(other["counts"])
        self.warnings.update(other["warnings"])
        self.dropped.update(other["dropped"])
        for reason, samples in other["samples"].items():
            for key, sample in samples:
                self._keep(reason, key, sample)

    def to_json(self) -> dict[str, Any]:
        """Everything, for `add`."""
        return {"counts": self.counts, "warnings": self.warnings, "dropped": self.dropped, "samples": self._samples}

    def samples(self) -> dict[str, list[dict[str, Any]]]:
        """The samples of each reason."""
        return {reason: [sample for _, sample in samples] for reason, samples in sorted(self._samples.items())}

    def _keep(self, reason: str, key: int, sample: dict[str, Any]) -> None:
        samples = self._samples[reason]
        if (key, sample) not in samples:
            bisect.insort(samples, (key, sample), key=lambda item: (item[0], sorted(item[1].items())))
            del samples[SAMPLES:]


def table(counts: dict[str, int], dropped: dict[str, int], sources: int) -> str:
    """The yield as lines of text: what came in, what stayed, and every reason with its count."""
    rows = [("sources", sources), *counts.items(), *((f"dropped: {reason}", count) for reason, count in by_count(dropped))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {count:>12,}" for name, count in rows)


def by_count(dropped: dict[str, int]) -> list[tuple[str, int]]:
    """The reasons, the commonest first."""
    return sorted(dropped.items(), key=lambda item: (-item[1], item[0]))


def warnings(dropped: Iterable[tuple[str, int]]) -> int:
    """How many drops speak of damage."""
    return sum(count for reason, count in dropped if reason in DAMAGE)
