"""Web pages to segments (paper, appendix E): cut each page at its headers, drop what the rules name, drop duplicates.

Each input (a crawl's file, or some hundred pages of a folder) becomes a part, made by a worker that knows of nothing else. Then the
duplicates among all parts are found, and what is left is written in the order of its ids.
"""

import functools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from humpback import config as configs
from humpback import digests, distributed, machine, records, storage
from humpback.config import Segments
from humpback.convert.sources import resolve
from humpback.corpus import duplicates, local_engine, ray_engine, readers, tally
from humpback.corpus.contamination import Contamination
from humpback.corpus.fields import Keys
from humpback.corpus.segments import COUNTED
from humpback.corpus.worker import Job
from humpback.errors import UserError
from humpback.progress import Bar, say
from humpback.rounding import ceil_div
from humpback.stages import commandline, defaults
from humpback.stages.directory import Run, Stage

_FLAGS = flags.FLAGS
DEFAULT_CONFIG = defaults.__file__  # of who changes fields of a config and names none
_FATES = {duplicates.EXACT: "duplicate", duplicates.NEAR: "near-duplicate"}
_BUCKET_BYTES = 1 << 26  # what is sorted in memory at once …
_BUCKETS = 500  # … unless that makes more files than a process may have open
_WEEK = 7 * 24 * 3600.0
_METRICS_SECONDS = 5.0


def define_flags() -> None:
    """Those of a stage, or --input and --out for pages without a run; and where the work is done."""
    commandline.define_flags()
    flags.DEFINE_string(
        "input", None, "without a run: HTML, WARC, WET, JSONL, Parquet, Markdown, text, folders, lists (.paths); comma-separated, local or gs://"
    )
    flags.DEFINE_string("out", None, "without a run: the folder for the segments (local or gs://)")
    flags.DEFINE_string("language", None, "without a run: the pages' language, a code of ISO 639-1 (default: the config's, en)")
    flags.DEFINE_enum("engine", "local", ["local", "ray"], "this machine's cores, or a Ray cluster's")
    flags.DEFINE_string("ray_address", "auto", "with --engine=ray: the cluster's address; auto finds the one of this host")
    flags.DEFINE_integer("workers", None, "with --engine=local: processes (default: one for each core)", lower_bound=1)
    flags.DEFINE_bool("strict", False, "exit code 2 if anything was damaged or had to be given up")


def segment(run: Run) -> None:
    """Makes segments/: every kept Segment, sorted by id."""
    segment_into(run.stage("segments", ("segments.",), module=__name__), run.cfg.segments)


def segment_into(stage: Stage, cfg: Segments, engine: str = "local", address: str = "auto", workers: int | None = None) -> None:
    """Makes a stage's folder: the segments' shards, yield.json and samples.json. UserError when no segment is left."""
    if stage.complete:
        return
    results: dict[str, Any] = {"counts": {}}
    if distributed.is_first():
        jobs = plan(cfg, stage)
        extract(jobs, stage, engine, address, workers)
        digests.check_unchanged(stage.seen("segments.contamination"))
        results = merge(jobs, cfg, stage, engine, address)
    distributed.barrier(f"segments {stage.path}", _WEEK)
    stage.finish(**results)


def plan(cfg: Segments, stage: Stage) -> list[Job]:
    """The jobs. UserError for inputs that are none."""
    inputs = readers.list_inputs(",".join(resolve(path) for path in cfg.input.split(",")), lambda text: say(f"segments: {text}"))
    readers.check_keys(inputs, Keys.of(cfg), lambda text: say(f"segments: {text}"))
    if cfg.contamination:
        say(f"segments: {Contamination(cfg.contamination)}")  # and a mistake in these files is told before any work
    before = stage.seen("segments.input")
    if {path for given in inputs for _, path in given.files} != before.keys():
        raise UserError(f"segments.input: {cfg.input}: files came or went while they were listed; run the same command again")
    stage.begin()
    parts = os.fspath(stage.path / "parts")
    return [
        Job(number, given, cfg, parts, stage.identity, {path: before[path] for _, path in given.files})
        for number, given in enumerate(inputs)
    ]


def extract(jobs: list[Job], stage: Stage, engine: str, address: str, workers: int | None) -> None:
    """Makes the parts that are not there yet."""
    storage.clean(epath.Path(stage.path) / "parts")
    todo = [job for job in jobs if not job.done]
    if not todo:
        return
    progress = _Progress(stage, jobs, todo)
    if engine == "ray":
        ray_engine.extract_all(todo, address, progress)
    else:
        local_engine.extract_all(todo, workers or machine.cores(), progress)
    progress.close()


class _Progress:
    """Counts the bytes of the inputs that are done, which the time left is taken from, and the pages that the workers have begun."""

    def __init__(self, stage: Stage, jobs: list[Job], todo: list[Job]) -> None:
        self._stage, self._started, self._said = stage, time.monotonic(), time.monotonic()
        self._sizes = {job.number: sum(_size(path) for _, path in job.given.files) for job in jobs}
        self._total = sum(self._sizes.values())
        self._done = self._total - sum(self._sizes[job.number] for job in todo)
        self._bar = Bar("segments", "B", self._total, done=self._done, scaled=True, shown=None)
        self._inputs, self._of = len(jobs) - len(todo), len(jobs)

    def __call__(self, complete: list[Job], pages: int = 0, size: int = 0, read: int = 0) -> None:
        """Hears of jobs that are complete now, of all pages and their bytes so far, and of the bytes that jobs in progress have read."""
        self._inputs += len(complete)
        seconds = max(time.monotonic() - self._started, 1e-9)
        rates = {"pages_per_second": round(pages / seconds, 1), "megabytes_per_second": round(size / 1e6 / seconds, 2)}
        speed = f"{rates['pages_per_second']:,} pages/s, {rates['megabytes_per_second']} MB/s of HTML"
        self._bar.note(f"{self._inputs}/{self._of} inputs, {speed}")
        self._done += sum(self._sizes[job.number] for job in complete)
        self._bar.reach(min(self._done + read, self._total))  # what is read of one stream may be longer than its file
        if time.monotonic() - self._said > _METRICS_SECONDS:
            self._said = time.monotonic()
            self._stage.metrics({"inputs": self._inputs, "of": self._of, "pages": pages, **rates, "seconds": round(seconds, 1)})

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def _size(path: str) -> int:
    try:
        return epath.Path(path).stat().length
    except OSError:  # it will be counted as unreadable
        return 0


def merge(jobs: list[Job], cfg: Segments, stage: Stage, engine: str, address: str) -> dict[str, Any]:
    """Writes what the parts hold without duplicates, and the yield. Returns counts, drops and files for the manifest."""
    out = stage.path
    pairs = functools.partial(ray_engine.verified_pairs, address=address) if engine == "ray" else None
    parts = [job.part() for job in jobs]
    say("segments: looking for duplicates …")
    with Bar("near-duplicates", " keys", scaled=True, shown=None) as bar:
        fates = duplicates.find(parts, jaccard=cfg.near_jaccard, pairs=pairs, progress=bar.reach)
    ids = np.concatenate([np.empty(0, np.uint64), *(duplicates.read_index(part)["id"] for part in parts)])
    kept = fates == duplicates.KEPT
    total, sources = tally.Tally(), {}
    position = 0
    for job in jobs:
        part = _read_part(job, stage)
        total.add(part)
        mine = fates[position : position + part["segments"]]
        sources[part["source"]] = _counts(part["counts"], part["segments"], mine, part["dropped"])
        position += part["segments"]
    counts = _counts(total.counts, len(fates), fates, dict(total.dropped))
    if not kept.any():
        reasons = ", ".join(f"{reason}: {count}" for reason, count in tally.by_count(counts["dropped"])) or "there are no pages"
        if total.warnings:
            reasons += f"; {min(total.warnings)}"
        raise UserError(
            f"segments.input: {cfg.input}: no segment of {cfg.min_chars} to {cfg.max_chars} characters "
            f"in {counts['pages']} pages ({reasons}); give other pages or change segments.min_chars and segments.max_chars"
        )
    if cfg.limit and kept.sum() > cfg.limit:
        kept &= ids <= np.sort(ids[kept])[cfg.limit - 1]
    dropped = counts.pop("dropped")
    lines = _sorted_lines(parts, kept, ids, fates, total)
    files = records.write_lines(out, "segments", lines, int(kept.sum()))
    over = counts["segments_kept"] - int(kept.sum())
    warned = tally.warnings(dropped.items()) + sum(total.warnings.values())
    whole = {**counts, "dropped": dropped, "warnings": dict(sorted(total.warnings.items())), "sources": sources}
    storage.publish_json(out / "yield.json", whole, replace=True)
    storage.publish_json(out / tally.SAMPLES_FILE, total.samples(), replace=True)
    say(tally.table({**counts, "over the limit": over, "warnings": warned}, dropped, len(jobs)))
    counts = {"pages": counts["pages"], "cut": counts["segments"], "segments": int(kept.sum()), "over_limit": over, "warnings": warned}
    return {"counts": counts, "dropped": dropped, "files": [*files, "yield.json", tally.SAMPLES_FILE]}


def _read_part(job: Job, stage: Stage) -> dict[str, Any]:
    """What a part says of itself. UserError when it is of something else, which versions before parts said what did not look for."""
    path = epath.Path(job.out) / f"{job.name}.json"
    part = storage.read_json(path)
    if part.get("identity", stage.identity) not in stage.identities or part["source"] != job.given.source:
        raise UserError(f"{path}: was not made from what {stage.path} is made from now; delete {stage.path} to begin it anew")
    return part


def _counts(counts: dict[str, int], segments: int, fates: np.ndarray, dropped: dict[str, int]) -> dict[str, Any]:
    doubled = {reason: int((fates == fate).sum()) for fate, reason in _FATES.items()}
    every = Counter(dropped) + Counter(doubled)
    whole = {name: counts.get(name, 0) for name in ("pages", "bytes", *COUNTED)}
    return {**whole, "segments": segments, "segments_kept": int((fates == duplicates.KEPT).sum()), "dropped": dict(sorted(every.items()))}


def _sorted_lines(
    parts: list[duplicates.Part], kept: np.ndarray, ids: np.ndarray, fates: np.ndarray, total: tally.Tally
) -> Iterator[bytes]:
    """The lines of the kept rows in the order of their ids, in memory that does not grow with them: by way of files of a range of ids.

    Adds samples of the duplicates to `total` on the way.
    """
    size = sum(epath.Path(part.lines).stat().length for part in parts)
    buckets = min(_BUCKETS, max(1, ceil_div(size, _BUCKET_BYTES)))
    with tempfile.TemporaryDirectory(prefix="humpback-segments-") as folder:
        files = [open(os.path.join(folder, str(number)), "w+b") for number in range(buckets)]  # noqa: SIM115 (many, closed below)
        row = 0
        for part in parts:
            with epath.Path(part.lines).open("rb") as lines:
                for line in lines:
                    if kept[row]:
                        bucket = int(ids[row]) * buckets >> 64
                        files[bucket].write(b"%016x " % int(ids[row]) + line)
                    elif reason := _FATES.get(int(fates[row])):
                        segment = json.loads(line)
                        where = {name: segment[name] for name in ("source", "start", "end", "url", "header")}
                        total.drop(reason, where, functools.partial(str, segment["text"]))
                    row += 1
        for file in files:
            file.seek(0)
            for line in sorted(file):
                yield line[17:]
            file.close()


def main() -> None:
    """`humpback segment`."""
    if _FLAGS.input is None and _FLAGS.out is None:
        run = commandline.open_run()
        cfg, stage = run.cfg.segments, run.stage("segments", ("segments.",), module=__name__)
    else:
        cfg, stage = _alone()
    segment_into(stage, cfg, _FLAGS.engine, _FLAGS.ray_address, _FLAGS.workers)
    damaged = storage.read_json(stage.path / "manifest.json")["counts"]["warnings"]
    if damaged and _FLAGS.strict:
        raise UserError(f"{stage.path}: {damaged} warnings of damaged pages or files, see yield.json; without --strict this is no error")


def _alone() -> tuple[Segments, Stage]:
    """The config part and the folder for --input and --out. UserError when one is missing."""
    for name in ("input", "out"):
        if _FLAGS[name].value is None:
            raise UserError(f"--{name} is missing; for example --input=pages --out=segments (or --config=… --workdir=…: a stage of a run)")
    cfg = _FLAGS.config if _FLAGS.config is not None else configs.Config()
    cfg.segments.input = _FLAGS.input
    if _FLAGS.language is not None:
        cfg.segments.language = _FLAGS.language
    out = epath.Path(_FLAGS.out)
    run = Run(configs.finish(cfg), out, accept_code=_FLAGS.accept_code)
    return run.cfg.segments, run.stage("", ("segments.",), module=__name__)
