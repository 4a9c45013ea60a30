"""The summary of a hand-made run: of all of it, of its beginning, and of many records."""

import json
import pathlib
import random
import tracemalloc

import pytest

from humpback import storage
from humpback.errors import UserError
from humpback.evaluation.paired import FILE
from humpback.records import Candidate, Example, Likely, Rated, Segment, write_shards
from humpback.stages.directory import Run
from humpback.stages.summary import _Scores, summarize


def candidate(number: int, output: int = 20, reason: str = "") -> Candidate:
    segment = Segment(f"{number:016x}", "o" * output, f"header {number}", ("h",), f"url {number}", "s", 0, 1)
    return Candidate(segment.id, segment, "i" * (10 + number), reason, "m", 0)


def rated(made: Candidate, score: float | None) -> Rated:
    return Rated(made.id, made, score, (), (), (), made.reason, "m", 0)


def example(made: Candidate) -> Example:
    return Example(made.id, made.instruction, made.segment.text, "augmented", made.segment.url)


CANDIDATES = [candidate(number, 20 + number, "echo" if number == 7 else "") for number in range(8)]
SCORES = [4.5, 1.0, None, 3.0, 5.0, 2.0, 4.0, None]  # of candidate 2 no valid rating came, and 7 was not asked about
FIELDS = {"evaluation__sets": "faq=pairs.jsonl"}
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "summary"
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
    elif name.startswith("likelihood"):
        made = [Likely(c.id, c, c.reason, "m", 2.0 * (c.segment.text == "o" * 24), 0.0, 4) for c in CANDIDATES]
        files = write_shards(stage.path, "likelihood", made, 8)
    elif name.startswith("curated"):
        files = write_shards(stage.path, "curated", [example(made) for made in CANDIDATES[:5:4]], 2)
    elif name.startswith(("backward", "forward")):
        models = [name] if name == "forward-1" else ["base", name]
        rows = [json.dumps(row) + "\n" for model in models for row in measured_rows(model)]
        (stage.path / FILE).write_text("".join(rows) if held_out else "")
    stage.finish(counts={"made": 1}, dropped={}, files=files)


def measured_rows(model: str) -> list[dict]:
    """24 held-out pairs, and 3 of a set `faq`: all models but the base need a nat less; from M_0 to M_1 the prose alone is learned."""
    rows = []
    for name, pairs in (({}, 24), ({"set": "faq"}, 3)):
        for pair in range(pairs):
            own = 3.0 + pair - (model != "base") - (model == "forward-1") * (1 + pair % 2) / 4
            others = own + (0 if model == "base" else 1 + pair % 3 / 2 + (pair % 2 / 8 - 1 / 16) * (model == "forward-1"))
            rows.append({"model": model, **name, "id": str(pair), "nats": own, "tokens": 2})
            rows += [{"model": model, **name, "rotation": r, "id": str(pair), "nats": others + r - 2, "tokens": 2} for r in (1, 2, 3)]
    return rows


@pytest.fixture
def upto(make_run):
    """upto(stage, …): a run that has come so far."""

    def make(last: str, held_out: bool = True) -> Run:
        run = make_run(**FIELDS)
        for name in STAGES[: STAGES.index(last) + 1]:
            put(run, name, held_out)
        return run

    return make


def read(run: Run, name: str) -> dict:
    return storage.read_json(run.workdir / name)


def without_times(report: str) -> str:
    """A report.md up to its last section."""
    return report.partition("## Timing")[0]


def test_the_whole_summary_and_report_are_the_golden_ones(upto):
    """`python -m tests.golden.make_summary` writes them anew where something is meant to change."""
    run = upto("ratings-2")
    summarize(run)
    assert (run.workdir / "summary.json").read_text() == (GOLDEN / "summary.json").read_text()
    assert without_times((run.workdir / "report.md").read_text()) == (GOLDEN / "report.md").read_text()


def test_the_figures_of_ratings(upto):
    run = upto("ratings-2")
    learned = summarize(run)
    assert learned["difference"] == -0.5 and learned["passed"] and learned["pairs"] == 24
    summary = read(run, "summary.json")
    first, second = summary["ratings"]
    assert first["histogram"] == {"1.0": 1, "1.5": 0, "2.0": 1, "2.5": 0, "3.0": 1, "3.5": 0, "4.0": 1, "4.5": 1, "5.0": 1}
    assert first["invalid_rate"] == pytest.approx(1 / 7) and first["score"]["mean"] == 3.25
    assert first["curated"]["examples"] == 2 and first["curated"]["score"]["mean"] == 4.75 and first["curated"]["output"]["mean"] == 22
    assert second["curated"] is None and "length_matched_control" not in first
    assert [row["id"][-1] for row in summary["best"]] == list("40635") and [row["id"][-1] for row in summary["worst"]] == list("15360")
    assert summary["candidates"] == {"candidates": 8, "echo_rate": 1 / 8, "unfinished_rate": 0.0, "empty_rate": 0.0}
    assert [(row["set"], row["examples"]) for row in summary["lengths"]] == [("seed", 2), ("A^(1) curated", 2), ("A, all usable", 7)]


@pytest.mark.parametrize("last", STAGES)
def test_a_run_that_has_come_so_far_has_a_report(upto, last, capsys):
    run = upto(last)
    summarize(run)
    text = (run.workdir / "report.md").read_text()
    assert f"| {last} | 1 made |" in text and "## Timing" in text
    there = STAGES[: STAGES.index(last) + 1]
    for title, stage in (("## Candidates", "candidates"), ("## Ratings of iteration 1", "ratings-1"), ("## Overlap", "curated-1")):
        assert (title in text) == (stage in there)
    told = capsys.readouterr().out.splitlines()
    for stage, line in (("backward", "M_yx, instruction given response"), ("forward-0", "M_0, response given instruction")):
        measured = f"{line}, held out: -0.5000 ± 0.0000 nats a token against base (24 pairs): better"
        for lines in (text.removesuffix("\n").replace("- M_", "M_").splitlines(), told):
            assert any(said.startswith(measured) for said in lines) == (stage in there)
            assert (f"{line}: not measured" in lines) == (stage not in there)
    assert told[-1].startswith("M_yx: learned" if "backward" in there else "M_0, response given instruction: not measured")


def test_each_model_is_compared_with_the_base_and_with_the_one_before_it(upto, capsys):
    """On each set, by likelihood and by gain; what is learned of the prose alone shows in the first and not in the second."""
    run = upto("ratings-2")
    summarize(run)
    by_set = {(found["set"], found["measure"]): found["models"] for found in read(run, "summary.json")["held_out"]["forward"]}
    assert list(by_set) == [(name, measure) for name in ("held_out", "faq") for measure in ("nll", "gain")]
    for models in by_set.values():
        assert [(row["model"], list(row["against"])) for row in models] == [
            ("base", []), ("forward-0", ["base"]), ("forward-1", ["base", "forward-0"]),
        ]  # fmt: skip
    nll, gain = (by_set["held_out", measure][2]["against"] for measure in ("nll", "gain"))
    assert nll["base"]["difference"] == pytest.approx(-(1 + 3 / 8) / 2) and nll["forward-0"]["difference"] == pytest.approx(-3 / 16)
    assert (nll["forward-0"]["verdict"], nll["forward-0"]["below"]) == ("better", 24)
    assert gain["base"]["difference"] == pytest.approx(0.75) and gain["base"]["verdict"] == "better"
    assert gain["forward-0"]["difference"] == 0 and gain["forward-0"]["standard_error"] > 0.001
    assert gain["forward-0"]["verdict"] == "no difference can be seen"
    assert {row["verdict"] for row in by_set["faq", "nll"][2]["against"].values()} == {"fewer than 20 pairs: no verdict"}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("M_1, response given instruction, held out:")]
    assert len(said) == 1 and "against M_0 (24 pairs): better; gain " in said[0] and said[0].endswith("no difference can be seen")


def test_without_held_out_pairs_nothing_is_measured_and_all_else_is_there(upto, capsys):
    run = upto("ratings-2", held_out=False)
    assert summarize(run) is None
    assert read(run, "summary.json")["held_out"] == {"backward": [], "forward": []}
    text = (run.workdir / "report.md").read_text()
    assert text.count("not measured") == 2 and "Not measured: there is no model yet, no pair is held out" in text and "## Ratings" in text
    assert capsys.readouterr().out.count("not measured") == 2


def test_a_curated_set_is_compared_by_the_score_that_did_not_choose_it(upto):
    """Candidates 0 and 4 of 20 and 24 characters are curated; the nearest others are 1 (21) and 3 (23)."""
    run = upto("curated-1")
    put(run, "likelihood-1")
    summarize(run)
    [row] = read(run, "summary.json")["beside"]
    assert (row["score"], row["pairs"], row["difference"]) == ("likelihood", 2, 0.25) and row["verdict"].startswith("fewer than 20")
    assert "- A^(1) by likelihood against as many others of the same lengths: +0.2500" in (run.workdir / "report.md").read_text()


def test_noise_that_chooses_shows_a_gap_by_itself_and_none_by_another_score():
    chance, scores = random.Random(3), _Scores()
    for number in range(400):
        scores.ids.append(number)
        scores.scores.append(chance.gauss(3, 0.3))
        scores.add("i", "o" * (600 + number))
    best = set(sorted(range(400), key=lambda number: -scores.scores[number])[:100])
    assert scores.beside(best)["difference"] > 0.3
    assert scores.beside(set(range(0, 400, 4)))["verdict"] == "no difference can be seen"


def test_chance_is_no_learning(upto):
    """A mean far enough below the base's, of few pairs or with a large error, does not pass."""
    made, run = measured_rows("backward"), upto("backward")
    for rows in (made[:1], [row | {"nats": 4.0 - 50.0 * (row["id"] == "1") + int(row["id"])} for row in made]):
        base = [row for row in measured_rows("base") if row["id"] in {row["id"] for row in rows}]
        (run.workdir / "backward" / FILE).write_text("".join(json.dumps(row) + "\n" for row in [*base, *rows]))
        learned = summarize(run)
        assert learned["difference"] < -0.05 and not learned["passed"]


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
