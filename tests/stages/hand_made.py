"""Stages without a model, and files to edit, for tests of what a folder is made from."""

import pathlib

from humpback import distributed, records
from humpback.decoding.parts import Inputs
from humpback.records import Segment
from humpback.stages.directory import Run, Stage

OLD_RUBRIC, NEW_RUBRIC = "Rate it from 1 to 5.", "Rate it from 1 to 9."
ALONE = distributed.Replica(0, 1, (), is_first=True)


def segments_in(folder: pathlib.Path) -> Inputs:
    """Two records to serve."""
    made = [Segment(f"{number:016x}", "text", "h", ("h",), "u", "s", 0, 1) for number in (1, 2)]
    (folder / "in.jsonl").write_bytes(b"".join(records.to_json(record) for record in made))
    return Inputs([folder / "in.jsonl"], lambda line, where: records.from_json(Segment, line, where))


def places(files: pathlib.Path) -> dict[str, str]:
    """The fields that name the files of a folder."""
    names = {"seed_pairs__source": "pairs.jsonl", "base__source": "base", "segments__input": "pages", "curate__rubric_file": "rubric.txt"}
    return {field: str(files / name) for field, name in names.items()}


def rate(run: Run) -> Stage:
    """ratings-1 of nothing, as its own stage begins and ends it."""
    return run.stage("ratings-1", ("curate.mode", "curate.rubric_file"), module="")
