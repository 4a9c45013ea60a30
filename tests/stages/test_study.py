"""A study at the smallest size: what each arm trains on, and what comes out of its trainings."""

import json
import random

import jax
import pytest

from humpback.errors import UserError
from humpback.evaluation.paired import Measured
from humpback.models import folders
from humpback.records import Candidate, Example, Likely, Rated, Segment, write_shards
from humpback.stages import study, study_report
from humpback.stages.base import convert_base
from humpback.stages.directory import Stage
from humpback.stages.seed import seed
from humpback.training import loop, optimizer


def pool() -> study.Pool:
    """Six candidates: by the rubric the first are best, by likelihood the last."""
    examples = [Example(f"{n:016x}", f"ask {n}", f"text {n}", "augmented", "u") for n in range(6)]
    return study.Pool(examples, [f"header {n}" for n in range(6)], [5.0 - n / 2 for n in range(6)], [n / 10 for n in range(6)])


def test_what_each_arm_trains_on():
    asked = {arm: [(e.instruction, e.response) for e in study.chosen(pool(), arm, 3, 0)] for arm in study.ARMS}
    own = [(f"ask {n}", f"text {n}") for n in range(6)]
    assert asked["S"] == asked["S2"] == [] and asked["SC"] == own[:3] and asked["SL"] == asked["C"] == own[3:] and asked["SB"] == own[3:]
    assert asked["SP"] == [("ask 4", "text 3"), ("ask 5", "text 4"), ("ask 3", "text 5")]
    assert asked["SH"] == [(f"header {n}", f"text {n}") for n in (3, 4, 5)]
    drawn = {tuple(e.id for e in study.chosen(pool(), "SR", 3, seed)) for seed in range(20)}
    assert len(drawn) > 5 and drawn == {tuple(e.id for e in study.chosen(pool(), "SR", 3, seed)) for seed in range(20)}


def measured(arm: str, gain: float, pairs: int = 30) -> Measured:
    """Likelihoods of pairs whose target costs 100 nats, and more behind other prompts."""
    rows, chance = [], random.Random(f"{arm} {gain}")
    for name in ("held_out", "h2"):
        for pair in range(pairs):
            for rotation in range(study_report.OTHERS + 1):
                nats = 100 + (100 * gain + chance.gauss(0, 1) if rotation else 0)
                rows.append({"model": arm, "set": name, "rotation": rotation, "id": str(pair), "nats": nats, "tokens": 100})
    return Measured(rows)


@pytest.mark.parametrize(
    ("sl", "sp", "outcome"),
    [(0.3, 0.1, "augmentation helps"), (0.3, 0.3, "no more than other questions do"), (0.1, 0.0, "no difference"), (0.0, 0.0, "does harm")],
)
def test_the_verdict_is_that_of_both_endpoints(sl, sp, outcome):
    gains = {"S2": 0.1, "SL": sl, "SP": sp}
    made = {f"{arm}-3-{n}": measured(arm, gain + n / 10_000) for arm, gain in gains.items() for n in range(3)}
    found = study_report.compare({"untrained": measured("base", 0.05), **made}, [3], 3, ["held_out", "h2"])
    assert outcome in found["verdicts"][0]
    row = next(row for row in found["rows"] if (row["arm"], row["set"]) == ("SL", "h2"))
    assert row["gain"]["difference"] == pytest.approx(sl - 0.05, abs=5e-3) and row["retrieval"]["of"] == 90
    text, drawn = study_report.render(found), study_report.plot(found)
    assert f"| SL | 3 | h2 | +0.0000 ± 0.0000 | {row['gain']['difference']:+.4f} ±" in text and "| SL − SP | 3 | h2 | gain |" in text
    assert drawn.count("<circle") == 3 and "SL, k = 3" in drawn


def test_arms_are_trained_measured_and_continued(make_run, tmp_path, monkeypatch):
    """Three of the arms, by a trainer that writes down what it is given; S2 takes as many steps as SL; a second call trains nothing."""
    monkeypatch.setattr(study, "ARMS", {arm: study.ARMS[arm] for arm in ("S2", "SL", "SP")})
    rows = [{"instruction": f"Why {n}?", "response": f"Because of {n}."} for n in range(9)]
    (tmp_path / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"evaluation__sets": f"h2={tmp_path / 'faq.jsonl'}", "forward__steps": 0, "forward__epochs": 1.0, "seed_pairs__limit": 8}
    run = make_run(**fields)
    convert_base(run)
    seed(run)
    of = lambda e: Segment(e.id, e.response, "h", ("h",), "u", "s", 0, 1)  # noqa: E731
    candidates = [Candidate(e.id, of(e), e.instruction, "", "m", 0) for e in pool().examples]
    for name, made in (
        ("ratings", [Rated(c.id, c, 3.0, (3.0,), (), (), "", "n", 0) for c in candidates]),
        ("likelihood", [Likely(c.id, c, "", "n", -10.0 + n, -12.0, 5) for n, c in enumerate(candidates)]),
    ):
        stage = Stage(run.workdir / f"{name}-1", {}, {}, {})
        stage.finish(counts={}, files=write_shards(stage.path, name, made, len(made)))
    trained, whole = [], folders.load_model(run.workdir / "base").params

    def train(base, examples, training, **_):
        steps, _ = optimizer.schedule(len(examples), training.ft)
        trained.append((len(examples), steps, training.seed))
        return loop.Trained(jax.tree.map(lambda x: x * (1 + len(trained) / 100), whole), steps, 1)

    monkeypatch.setattr(loop, "train", train)
    study.train_arms(run, [4], 2)
    assert trained == [(8, 3, 0), (8, 3, 1), (12, 3, 0), (12, 3, 1), (12, 3, 0), (12, 3, 1)]
    found = json.loads((run.workdir / "study.json").read_text())
    assert [(row["arm"], row["set"]) for row in found["rows"]][:2] == [("S2", "held_out"), ("S2", "h2")]
    of_h2 = [row for row in found["rows"] if row["set"] == "h2"]
    assert {row["retrieval"]["of"] for row in of_h2} == {18} and all(row["nll"]["difference"] != 0 for row in of_h2)
    assert [(p["first"], p["other"], p["trainings"], p["pairs"]) for p in found["primary"]] == [("SL", "S2", 2, 9), ("SL", "SP", 2, 9)]
    before = (run.workdir / "study.md").read_bytes()
    study.train_arms(make_run(**fields), [4], 2)
    assert len(trained) == 6 and (run.workdir / "study.md").read_bytes() == before
    with pytest.raises(UserError, match="--k=1000 asks for more"):
        study.train_arms(run, [1000], 1)
    with pytest.raises(UserError, match="names no h2=FILE"):
        study.study(make_run(workdir=tmp_path / "other"), [4], 1)


def test_questions_are_headers_that_ask():
    made = [
        Segment(f"{n:016x}", "x" * length, header, (header,), "u", "s", 0, 1)
        for n, (header, length) in enumerate([("2.1 Where is it?", 300), ("3. Where", 300), ("Who?", 100), ("Why?", 1_100)])
    ]  # fmt: skip
    assert [row["instruction"] for row in study.questions_of(made)] == ["Where is it?", "Why?"]
