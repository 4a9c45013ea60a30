"""Rewritten responses as people label them: whether they keep to their texts, or which of the two is better."""

import json
import re

import pytest
from etils import epath

from humpback.errors import UserError
from humpback.evaluation import statistics
from humpback.records import Rewrite, write_shards
from humpback.review import agreement, labels, page, sample
from tests.export import a_run
from tests.review.test_review import HIDDEN, TEXTS


@pytest.fixture
def run(tmp_path):
    """Ten responses that were rewritten, one of them as it was, and two drafts that stayed."""
    made = []
    for n, segment in enumerate(a_run.cut()[:12]):
        example = a_run.example(a_run.rated(segment, 4.0, f"Ask {n} {a_run.HOSTILE}"))
        draft = example.response
        text = draft if n in (0, 10, 11) else f"Written anew {n} {a_run.HOSTILE}"
        example = a_run.with_response(example, text)
        made.append(Rewrite(example.id, example, draft, f"<answer>{text}", "new number" if n >= 10 else "", "m1", 7))
    a_run.manifest(tmp_path / "rewritten-1", {"in": 12}, files=write_shards(tmp_path / "rewritten-1", "rewrites", made, 12))
    return epath.Path(tmp_path)


def test_what_is_drawn(run):
    kept = sample.rewrites(run, 1, compared=False)
    assert len(kept) == 10 and all(texts[2].startswith("Written") or texts[1] == texts[2] for texts in kept.values())
    assert {i: (asked, draft, text) for i, (asked, text, draft) in sample.rewrites(run, 1, compared=True).items()} == kept
    drawn = sample.of_answers(run, "rewrites-faithful-1", kept, 6, 3, sample.REWRITES)
    assert (drawn.kind, len(drawn.items), drawn.of) == ("rewrites", 6, 9) and {item.weight for item in drawn.items} == {1.5}
    assert sample.read(run, "rewrites-faithful-1") == drawn
    with pytest.raises(UserError, match="rewritten-2: not complete; `humpback rewrite --iteration=2`"):
        sample.rewrites(run, 2, compared=False)


def test_the_text_stands_first_and_nothing_says_who_wrote(run):
    drawn = sample.of_answers(run, "rewrites-faithful-1", sample.rewrites(run, 1, compared=False), 9, 3, sample.REWRITES)
    person = labels.Labels(run, "rewrites-faithful-1", "ann", drawn)
    for shown in person.shown.values():
        assert not shown.turned and page.texts_of(shown)[2].startswith("Written anew")
        text = str(page.render("1 of 9", drawn.kind, shown, ""))
        assert "<img" not in text and text.count("<script") == 1 and not HIDDEN.search(TEXTS.sub("", text))
        assert re.search("<h2>Text</h2>.*<h2>Answer made of it</h2>", text, re.DOTALL)
    static = json.loads(re.search(r'id="items">(.*?)</script>', page.render_static(drawn, "ann", person.shown.values()), re.DOTALL)[1])
    assert {*static["items"][0]} == {"name", "texts"}


def test_how_many_keep_to_their_texts(run):
    drawn = sample.of_answers(run, "rewrites-faithful-1", sample.rewrites(run, 1, compared=False), 9, 3, sample.REWRITES)
    person = labels.Labels(run, "rewrites-faithful-1", "ann", drawn)
    for shown, label in zip(person.shown.values(), ["yes"] * 5 + ["no"] * 3 + ["skip"], strict=False):
        person.add(shown.name, label)
    with pytest.raises(ValueError, match="is no label"):
        person.add(shown.name, "first")
    found = agreement.agreement(run, "rewrites-faithful-1")
    assert found["faithful"] == {"kept": 5, "of": 8, "interval": statistics.wilson(5, 8)}
    assert agreement.told(found)[-1].startswith("5 of 8 rewritten responses keep to their text, 0.625 (")


def test_the_command(run, humpback):
    def said(*arguments):
        done = humpback("review", f"--workdir={run}", *arguments)
        return done.returncode, done.stdout + done.stderr

    assert "--rewrites and --input are of two reviews" in said("--rewrites=better", "--input=x", "--baseline=y")[1]
    code, text = said("--rewrites=better", "--reviewer=bob", f"--static={run / 'better.html'}", "--count=4")
    assert code == 0 and text.startswith("1 of 10 pairs of answers are left out: equal") and "5 items for bob" in text
    assert said("--rewrites=faithful", "--reviewer=bob", f"--static={run / 'bob.html'}", "--count=4")[0] == 0
    data = json.loads(re.search(r'id="items">(.*?)</script>', (run / "bob.html").read_text(), re.DOTALL)[1])
    back = {"review": data["review"], "reviewer": "bob", "labels": {item["name"]: "yes" for item in data["items"]}}
    (run / "back.json").write_text(json.dumps(back))
    assert said("--rewrites=faithful", f"--import={run / 'back.json'}") == (0, "5 new labels by bob; 5 of 5 labelled\n")
    code, text = said("--rewrites=faithful", "--agreement")
    assert code == 0 and "4 of 4 rewritten responses keep to their text" in text
    assert sample.read(run, "rewrites-better-1").kind == sample.ANSWERS
