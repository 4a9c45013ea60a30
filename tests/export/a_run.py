"""A run's folders as export and report see them, made of the demo's pages without any model."""

import hashlib
import json
import pathlib

from humpback import config as configs
from humpback.corpus import readers, segments
from humpback.records import Candidate, Example, Rated, Segment, write_shards

PAGES = pathlib.Path(__file__).parents[2] / "humpback" / "demo" / "pages"


def cut(pages: pathlib.Path = PAGES) -> list[Segment]:
    """The segments of all pages, by id."""
    cfg = configs.finish(configs.Config()).segments
    found = {}
    for unit in readers.list_inputs(str(pages)):
        for page in readers.read_pages(unit, lambda source, reason: None, lambda text: None):
            found |= {segment.id: segment for segment in segments.extract(page, cfg, lambda reason, tree: None)}
    return [found[name] for name in sorted(found)]


def rated(segment: Segment, score: float, instruction: str = "", model: str = "m0") -> Rated:
    """A rating of a candidate for it."""
    candidate = Candidate(segment.id, segment, instruction or f"Tell me about {segment.header}.", "", "myx", 7)
    return Rated(segment.id, candidate, score, (score,), (f"Score: {score:.0f}",), (), "", model, 7)


def example(one: Rated) -> Example:
    """A curated pair."""
    segment = one.candidate.segment
    return Example(one.id, one.candidate.instruction, segment.text, "augmented", segment.url, one)


def manifest(folder: pathlib.Path, counts: dict, config: dict | None = None, files: list[str] = (), **more) -> None:  # type: ignore[assignment]
    """A stage that is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    text = {"config": config or {}, "config_sha256": "0" * 64, "counts": counts, "dropped": {}, "files": digests, "inputs": {}, **more}
    (folder / "manifest.json").write_text(json.dumps(text))


def make(run: pathlib.Path, count: int = 8, extra: list[Example] = ()) -> pathlib.Path:  # type: ignore[assignment]
    """seed/, segments/ and curated-2/ of a run; returns the last."""
    pairs = [Example(f"{number:016x}", f"What is {number}?", f"It is {number}.", "seed", f"s:{number}") for number in range(3)]
    chosen = [*map(example, (rated(segment, 4.0) for segment in cut()[:count])), *extra]
    manifest(run / "seed", {"train": 3}, files=write_shards(run / "seed", "seed", pairs, len(pairs)))
    fields = {name: value for name, value in configs.leaves(configs.Config()) if name.startswith("segments.")}
    for name in ("segments.input", "segments.contamination"):  # files, which stand elsewhere in a manifest
        del fields[name]
    manifest(run / "segments", {"segments": count}, fields)
    files = write_shards(run / "curated-2", "curated", chosen, len(chosen))
    manifest(run / "curated-2", {"selected": len(chosen)}, files=files)
    return run / "curated-2"
