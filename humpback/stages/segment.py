"""Web pages to segments (paper, appendix E): cut each page at its headers, drop what the rules name, drop duplicates."""

from collections import Counter

from absl import logging

from humpback.config import Segments
from humpback.convert.sources import resolve
from humpback.corpus import duplicates, readers
from humpback.corpus.segments import extract
from humpback.errors import UserError
from humpback.records import Segment, write_shards
from humpback.stages import commandline
from humpback.stages.directory import Run

define_flags = commandline.define_flags


def segment(run: Run) -> None:
    """Makes segments/: every kept Segment, sorted by id."""
    stage = run.stage("segments", ("segments.",))
    if stage.complete:
        return
    segments, counts, drops = segment_pages(run.cfg.segments)
    stage.finish(counts=counts, dropped=drops, files=write_shards(stage.path, "segments", segments, len(segments)))


def segment_pages(cfg: Segments) -> tuple[list[Segment], dict[str, int], dict[str, int]]:
    """Returns (segments sorted by id, counts, drops: reason → how many pages or headers).

    counts: `pages` read, `cut` (segments before duplicates and the limit), `segments` kept, `over_limit`.
    UserError when no segment is left.
    """
    drops: Counter[str] = Counter()

    def on_drop(_where: str, reason: str) -> None:
        drops[reason] += 1

    counts = {"pages": 0, "cut": 0}
    found: list[Segment] = []
    for given in readers.list_inputs(",".join(resolve(path) for path in cfg.input.split(","))):
        for page in readers.read_pages(given, on_drop, logging.warning):
            counts["pages"] += 1
            found += extract(page, cfg, on_drop)
    counts["cut"] = len(found)
    kept, doubled = duplicates.drop_exact(found)
    if doubled:
        drops["duplicate"] = len(doubled)
    if not kept:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(drops.items())) or "there are no pages"
        raise UserError(
            f"segments.input: {cfg.input}: no segment of {cfg.min_chars} to {cfg.max_chars} characters "
            f"in {counts['pages']} pages ({reasons}); give other pages or change segments.min_chars and segments.max_chars"
        )
    segments = kept[: cfg.limit] if cfg.limit else kept
    counts["segments"] = len(segments)
    counts["over_limit"] = len(kept) - len(segments)
    return segments, counts, dict(sorted(drops.items()))


def main() -> None:
    """`humpback segment`."""
    segment(commandline.open_run())
