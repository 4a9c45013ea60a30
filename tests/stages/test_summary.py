"""The summary of a hand-made run: of all of it, of its beginning, and of many records."""

import random
import tracemalloc

import pytest

from humpback import storage
from humpback.errors import UserError
from humpback.records import Candidate, Example, Rated, Segment, write_shards
from humpback.stages import report
from humpback.stages.directory import Run
from humpback.stages.finetune import HELD_OUT_FILE
from humpback.stages.summary import summarize


def candidate(number: int, output: int = 20, reason: str = "") -> Candidate:
    segment = Segment(f"{number:016x}", "o" * output, f"header {number}", ("h",), f"url {number}", "s", 0, 1)
    return Candidate(segment.id, segment, "i" * (10 + number), reason, "m", 0)


def rated(made: Candidate, score: float | None) -> Rated:
    return Rated(made.id, made, score, (), (), (), made.reason, "m", 0)


def example(made: Candidate) -> Example:
    return Example(made.id, made.instruction, made.segment.text, "augmented", made.segment.url)


CANDIDATES = [candidate(number, 20 + number, "echo" if number == 7 else "") for number in range(8)]
SCORES = [4.5, 1.0, None, 3.0, 5.0, 2.0, 4.0, None]  # of candidate 2 no valid rating came, and 7 was not asked about
STAGES = ("base", "seed", "segments", "backward", "candidates", "forward-0", "ratings-1", "curated-1", "forward-1", "ratings-2")


def put(run: Run, name: str, held_out: bool = True) -> None:
    """Makes a stage's folder by hand."""
    stage = run.stage(name, (), module="")
    stage.begin()
    files = []
    if name == "seed":
        files = write_shards(stage.path, "seed", [Example("a", "i" * n, "o" * n, "seed", "s") for n in (4, 8)], 2)
    elif name == "candidates":
        files = write_shards(stage.path, "candidates", CANDIDATES, 8)
    elif name.startswith("ratings"):
        files = write_shards(stage.path, "ratings", map(rated, CANDIDATES, SCORES), 8)
    elif name.startswith("curated"):
        files = write_shards(stage.path, "curated", [example(made) for made in CANDIDATES[:5:4]], 2)
    elif name.startswith(("backward", "forward")):
        models = [name] if name == "forward-1" else ["base", name]
        rows = [f'{{"model": "{m}", "id": "{i}", "nats": {2 + (m == "base") + i}, "tokens": 2}}\n' for m in models for i in range(3)]
        (stage.path / HELD_OUT_FILE).write_text("".join(rows) if held_out else "")
    stage.finish(counts={"made": 1}, dropped={}, files=files)


@pytest.fixture
def upto(make_run):
    """upto(stage, …): a run that has come so far."""

    def make(last: str, held_out: bool = True) -> Run:
        run = make_run()
        for name in STAGES[: STAGES.index(last) + 1]:
            put(run, name, held_out)
        return run

    return make


def read(run: Run, name: str) -> dict:
    return storage.read_json(run.workdir / name)


def test_the_figures_of_ratings_and_of_the_control(upto):
    run = upto("ratings-2")
    learned = summarize(run)
    assert learned["backward"]["difference"] == learned["forward-0"]["difference"] == -0.5 and learned["forward-0"]["passed"]
    summary = read(run, "summary.json")
    first, second = summary["ratings"]
    assert first["histogram"] == {"1.0": 1, "1.5": 0, "2.0": 1, "2.5": 0, "3.0": 1, "3.5": 0, "4.0": 1, "4.5": 1, "5.0": 1}
    assert first["invalid_rate"] == pytest.approx(1 / 7) and first["score"]["mean"] == 3.25
    assert first["curated"]["examples"] == 2 and first["curated"]["score"]["mean"] == 4.75 and first["curated"]["output"]["mean"] == 22
    # Candidates 0 and 4 of 20 and 24 characters: the nearest others are 1 (21) and 3 (23).
    assert first["length_matched_control"]["score"]["mean"] == 2.0 and first["length_matched_control"]["output"]["mean"] == 22
    assert second["curated"] is None and second["length_matched_control"] is None
    assert [row["id"][-1] for row in summary["best"]] == list("40635") and [row["id"][-1] for row in summary["worst"]] == list("15360")
    assert summary["candidates"] == {"candidates": 8, "echo_rate": 1 / 8, "unfinished_rate": 0.0, "empty_rate": 0.0}
    assert [(row["set"], row["examples"]) for row in summary["lengths"]] == [("seed", 2), ("A^(1) curated", 2), ("A, all usable", 7)]
    assert [row["model"] for row in summary["held_out"]["forward"]] == ["base", "forward-0", "forward-1"]


@pytest.mark.parametrize("last", STAGES)
def test_a_run_that_has_come_so_far_has_a_report(upto, last, capsys):
    run = upto(last)
    summarize(run)
    text = (run.workdir / "report.md").read_text()
    assert f"| {last} | 1 made |" in text and "## Timing" in text
    there = STAGES[: STAGES.index(last) + 1]
    for title, stage in (("## Candidates", "candidates"), ("## Ratings of iteration 1", "ratings-1"), ("## Overlap", "curated-1")):
        assert (title in text) == (stage in there)
    measured = {"backward": "M_yx, instruction given response: -0.500", "forward-0": "M_0, response given instruction: -0.500"}
    for stage, line in measured.items():
        assert (line in text) == (stage in there)
        assert (line.partition(":")[0] + ": not measured" in text) == (stage not in there)
    assert capsys.readouterr().out.splitlines()[-1].startswith("M_0, response given instruction:")


def test_without_held_out_pairs_nothing_is_measured_and_all_else_is_there(upto, capsys):
    run = upto("ratings-2", held_out=False)
    assert summarize(run) == {"backward": None, "forward-0": None}
    assert read(run, "summary.json")["held_out"] == {"backward": [], "forward": []}
    text = (run.workdir / "report.md").read_text()
    assert text.count("not measured") == 2 and "Not measured: there is no model yet, no pair is held out" in text and "## Ratings" in text
    assert capsys.readouterr().out.count("not measured") == 2
    assert report.verdict({"backward": None}) == ["M_yx, instruction given response: not measured"]


def test_of_many_records_only_numbers_are_held(make_run):
    """4,000 records of 4 kB are 16 MB on disk; held as objects they would be more."""
    run, chance = make_run(iterations=1), random.Random(1)
    for name in STAGES[:6]:
        put(run, name)
    many = [candidate(number, 4_000) for number in range(4_000)]
    for name, records in (
        ("ratings-1", [rated(made, chance.uniform(1, 5)) for made in many]),
        ("curated-1", [example(made) for made in many[::10]]),
    ):
        stage = run.stage(name, (), module="")
        stage.begin()
        stage.finish(counts={}, files=write_shards(stage.path, name.partition("-")[0], records, len(records)))
    del many, records
    tracemalloc.start()
    summarize(run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6, peak


def test_what_is_not_begun_has_no_summary(make_run):
    with pytest.raises(UserError, match="run: no stage is complete"):
        summarize(make_run())
    assert not make_run().workdir.exists()
