"""What labels say of people, judges and answers, against figures computed by hand or by other code."""

import json
import math

import pytest
from etils import epath

from humpback.errors import UserError
from humpback.evaluation import curation
from humpback.records import write_shards
from humpback.review import agreement, labels, sample
from tests.export import a_run

SCORES = {1: [1.0, 2.0, 3.0, 4.0, 5.0, None], 2: [5.0, 4.5, 4.0, 3.0, 2.0, 1.0]}  # of six candidates, by both judges
GOOD = [False, False, True, True, True, True]


@pytest.fixture
def run(tmp_path):
    """Six candidates; the first judge goes with the labels, the second against them."""
    found = a_run.cut()[:6]
    for t, scores in SCORES.items():
        rows = [a_run.rated(segment, score) for segment, score in zip(found, [s or 0.0 for s in scores], strict=True)]
        rows = [row if score is not None else a_run.unrated(row) for row, score in zip(rows, scores, strict=True)]
        a_run.manifest(tmp_path / f"ratings-{t}", {"asked": 6}, files=write_shards(tmp_path / f"ratings-{t}", "ratings", rows, 6))
    return epath.Path(tmp_path)


def give(run, name, drawn, reviewer, told):
    """Labels by one person: `told` says of each id what, None for one that is passed over."""
    person = labels.Labels(run, name, reviewer, drawn)
    for shown in person.shown.values():
        if (given := told(shown)) is not None:
            person.add(shown.name, given)


def test_each_judge_at_each_threshold(run):
    drawn = sample.of_candidates(run, 2, 6, 0)
    good = {segment.id: value for segment, value in zip(a_run.cut(), GOOD, strict=False)}
    give(run, "2", drawn, "ann", lambda shown: "yes" if good[shown.item.id] else "no")
    found = agreement.agreement(run, "2")
    assert (found["labelled"], found["good"], found["undecided"], found["of"]) == (6, 4, 0, 6) and list(found["judges"]) == ["1", "2"]
    for t, judge in found["judges"].items():
        for row in judge["curve"]:
            picked = [score is not None and score >= row["threshold"] for score in SCORES[int(t)]]
            right = sum(a and b for a, b in zip(picked, GOOD, strict=True))
            assert row["picked"] == sum(picked) and row["right"] == right and math.isclose(row["recall"]["value"], right / 4)
            assert row["precision"] is None if not any(picked) else math.isclose(row["precision"]["value"], right / sum(picked))
    assert found["judges"]["1"]["suggested"]["threshold"] == 3.0  # three of three picked are right, and three of four are picked
    assert math.isclose(found["judges"]["1"]["suggested"]["f1"], 6 / 7)
    assert storage_json(run, "2") == json.loads(json.dumps(found))
    lines = agreement.told(found)
    assert "  suggested threshold: 3.00, F1 0.857" in "\n".join(lines) and lines[1].startswith("ann: 2 no, 4 yes; 1 of 1 the same again (")


def storage_json(run, name):
    return json.loads((run / "review" / f"agreement-{name}.json").read_text())


def test_a_stratum_stands_for_what_it_is_of(run, tmp_path):
    """Of 90 candidates rated 2 and 10 rated 5 ten each are drawn; a skipped one does not make its stratum smaller."""
    segments = a_run.cut()[:2]
    ids = [f"{n:016x}" for n in range(100)]
    rows = [a_run.renamed(a_run.rated(segments[n >= 90], 5.0 if n >= 90 else 2.0), ids[n]) for n in range(100)]
    a_run.manifest(tmp_path / "w" / "ratings-1", {}, files=write_shards(tmp_path / "w" / "ratings-1", "ratings", rows, 100))
    path = epath.Path(tmp_path / "w")
    drawn = sample.of_candidates(path, 1, 20, 0)
    low = [item.id for item in drawn.items if item.stratum == "2.0"]
    good = {*low[:2], *ids[90:95]}
    give(path, "1", drawn, "ann", lambda s: "skip" if s.item.id == low[-1] else "yes" if s.item.id in good else "no")
    found = agreement.agreement(path, "1")
    row = next(row for row in found["judges"]["1"]["curve"] if row["threshold"] == 4.0)
    assert found["labelled"] == 19 and math.isclose(row["precision"]["value"], 0.5)
    assert math.isclose(row["recall"]["value"], 5 / (5 + 2 * 90 / 9))


def test_people_beside_each_other(run):
    drawn = sample.of_candidates(run, 2, 6, 0)
    ids = [segment.id for segment in a_run.cut()[:6]]
    says = {"ann": "yyyynn", "bob": "yyynns", "eve": "y-nnyn"}
    for reviewer, told in says.items():
        by_id = {i: {"y": "yes", "n": "no", "s": "skip", "-": None}[letter] for i, letter in zip(ids, told, strict=True)}
        give(run, "2", drawn, reviewer, lambda shown, by_id=by_id: by_id[shown.item.id] if "again" not in shown.name else "no")
    found = agreement.agreement(run, "2")
    assert found["reviewers"]["bob"]["labels"] == {"no": 2, "skip": 1, "yes": 3} and found["reviewers"]["eve"]["again"] <= 1
    [ann_bob, *_] = found["between"]
    assert (ann_bob["reviewers"], ann_bob["both"], ann_bob["same"]) == (["ann", "bob"], 5, 4)
    assert math.isclose(ann_bob["kappa"], (0.8 - (4 * 3 + 1 * 2) / 25) / (1 - (4 * 3 + 1 * 2) / 25))
    given = {reviewer: labels.Labels(run, "2", reviewer, drawn).read() for reviewer in says}
    agreed = agreement.majority(given)
    assert [agreed[i] for i in ids] == ["yes", "yes", "yes", "no", "no", "no"]
    assert agreement.majority({"a": {ids[0]: "yes"}, "b": {ids[0]: "no"}, "c": {ids[0]: "skip", ids[1]: "skip"}}) == {ids[0]: None}


def test_which_model_people_prefer(tmp_path):
    run = epath.Path(tmp_path)
    drawn = sample.of_answers(run, "answers", {f"{n:016x}": ("Ask", f"m{n}", f"b{n}") for n in range(10)}, 10, 0)

    def told(shown):
        number = int(shown.item.id, 16)
        side = "first" if shown.turned == (number >= 6) else "second"
        return "tie" if number == 9 else "skip" if number == 8 else side

    give(run, "answers", drawn, "ann", told)
    found = agreement.agreement(run, "answers")
    rate = found["win_rate"]
    assert (rate["wins"], rate["losses"], rate["draws"], rate["n"]) == (6, 2, 1, 9) and math.isclose(rate["win_rate"], 650 / 9)
    assert "people prefer the model in 72.2 % (6 wins, 1 ties, 2 losses)" in agreement.told(found)[-1]


def test_what_has_not_begun_or_has_no_label(run):
    with pytest.raises(UserError, match="no review '2' has begun"):
        agreement.agreement(run, "2")
    drawn = sample.of_candidates(run, 2, 6, 0)
    give(run, "2", drawn, "ann", lambda shown: "skip")
    with pytest.raises(UserError, match="nothing of the review '2' is labelled yet"):
        agreement.agreement(run, "2")


def test_a_threshold_is_suggested_with_those_that_cannot_be_told_from_it():
    clear = [curation.Scored(n >= 50, float(n >= 50) * 3 + 1.5) for n in range(100)]
    assert curation.suggest(clear, (1.0, 2.0, 4.0, 5.0)) == {"threshold": 4.0, "f1": 1.0, "interval": [2.0, 4.0]}
    assert curation.suggest([curation.Scored(False, 3.0)], (1.0, 2.0)) is None
    few = [curation.Scored(good, score) for good, score in ((True, 5.0), (False, 4.0), (True, 3.0), (False, 2.0), (True, 1.0))]
    found = curation.suggest(few, (1.0, 2.0, 3.0, 4.0, 5.0))
    assert found["threshold"] == 1.0 and found["interval"] == [1.0, 5.0]  # of five labels nothing can be told
