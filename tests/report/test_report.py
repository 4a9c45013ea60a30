"""report.html: every number in it follows from the records, nothing in it is more than text, and it asks for nothing."""

import base64
import hashlib
import html.parser
import json
import math
import re
import statistics

import pytest

from humpback.cli import COMMANDS
from humpback.errors import UserError
from humpback.report import charts, views
from humpback.report.write import write
from tests.export import a_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return a_run.full(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run):
    return write(run).read_text()


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, texts, and the contents of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.raw, self._open = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        (self.raw if self._open in ("script", "style") else self.texts).append(data)


def numbers_of(page):
    return json.loads(re.search(r'<script type="application/json" id="numbers">(.*?)</script>', page, re.DOTALL)[1])["run"]


def lines(run, stage, name):
    return [json.loads(line) for file in sorted((run / stage).glob(f"{name}-*.jsonl")) for line in file.read_text().splitlines()]


def test_every_number_follows_from_the_records(run, page):
    """Computed here once more, by other code."""
    found = numbers_of(page)
    candidates = lines(run, "candidates", "candidates")
    ratings = {t: lines(run, f"ratings-{t}", "ratings") for t in (1, 2)}
    curated = {t: lines(run, f"curated-{t}", "curated") for t in (1, 2)}
    usable = [one for one in candidates if not one["reason"]]
    scores = {t: {one["id"]: one["score"] for one in rows if one["score"] is not None} for t, rows in ratings.items()}
    assert found["funnel"] == [
        ["pages", 48], ["segments", 24], ["candidates", 24], ["usable candidates", 23], ["rated by M_0", 22],
        ["curated-1", len(curated[1])], ["rated by M_1", 23], ["curated-2", len(curated[2])],
    ]  # fmt: skip
    assert found["rates"] == {"candidates": 24, "unusable": {"echo": [1, 1 / 24]}, "contaminated_segments": 2}
    for t in (1, 2):
        one, values = found["ratings"][str(t)], list(scores[t].values())
        assert (one["asked"], one["valid"]) == (23, len(values)) and math.isclose(one["invalid_rate"], 1 - len(values) / 23)
        assert one["histogram"] == {f"{half / 2:.1f}": sum(value == half / 2 for value in values) for half in range(2, 11)}
        assert math.isclose(one["mean"], statistics.mean(values)) and math.isclose(one["sd"], statistics.stdev(values))
        texts = [len(row["candidate"]["segment"]["text"]) for row in ratings[t] if row["score"] is not None]
        assert math.isclose(one["score_length_correlation"], statistics.correlation(values, texts))
        for row in found["threshold"][str(t)]:
            kept = [length for length, value in zip(texts, values, strict=True) if value >= row["threshold"]]
            assert row["kept"] == len(kept) and math.isclose(row["share"], len(kept) / 23)
            assert row["mean_output"] is None if not kept else math.isclose(row["mean_output"], statistics.mean(kept))
    both = scores[1].keys() & scores[2].keys()
    [agreement] = found["agreement"]
    assert agreement["both"] == len(both) == sum(map(sum, agreement["grid"]))
    for y in range(9):
        for x in range(9):
            assert agreement["grid"][y][x] == sum(scores[1][i] == 1 + x / 2 and scores[2][i] == 1 + y / 2 for i in both)
    a, b = ({row["id"] for row in curated[t]} for t in (1, 2))
    churn = {"sets": [1, 2], "stay": len(a & b), "go": len(a - b), "come": len(b - a), "jaccard": len(a & b) / len(a | b)}
    assert found["churn"] == [churn]
    sets = {row["set"]: row for row in found["lengths"]}
    assert list(sets) == ["seed", "candidates", "curated-1", "curated-2", "control for curated-2"]
    outputs = [len(row["segment"]["text"]) for row in usable]
    assert sets["candidates"]["examples"] == 23 and math.isclose(sets["candidates"]["output"]["mean"], statistics.mean(outputs))
    assert sets["candidates"]["output_bins"] == [sum(length // 200 == n for length in outputs) for n in range(16)] + [
        sum(length >= 3200 for length in outputs)
    ]
    [held_out] = found["held_out"]["forward"]
    [*_, model] = held_out["models"]
    against = model["against"]["base"]
    assert model["model"] == "forward-0" and math.isclose(against["difference"], -8 / 26) and math.isclose(model["value"], 38 / 26)
    assert against["verdict"] == "fewer than 20 pairs: no verdict" and (held_out["set"], held_out["measure"]) == ("held_out", "nll")
    assert found["training"]["backward"] == found["training"]["forward-0"] == [[1, 4.0], [2, 2.0], [3, 4 / 3 + 1], [4, 2.0]]
    hosts = [re.sub(r"^\w+://([^/]*).*", r"\1", row["source"]) for row in curated[2]]
    assert found["sites"]["pairs"] == len(hosts) and found["sites"]["sites"] == len(set(hosts))
    assert found["trigrams"]["pairs_of_each_set"] == min(9, len(a), len(b))
    assert found["examples"]["of"] == found["examples"]["shown"] == 24 and len(found["examples"]["random"]) == 10
    for i, told in found["examples"]["scores"].items():
        assert told == {str(t): scores[t].get(i) for t in (1, 2)}
    best = sorted(scores[2], key=lambda i: (-scores[2][i], i))[:5]
    assert found["examples"]["best"] == best and found["examples"]["worst"] == sorted(scores[2], key=lambda i: (scores[2][i], i))[:5]
    assert found["stages"]["segments"]["dropped"] == {"too short": 3, "contaminated": 2}
    assert found["time"]["backward"]["tokens_per_second"] == 80.0


def test_trigrams_of_a_whole_set(page):
    """The seed's instructions are alike but for a number."""
    sets = numbers_of(page)["trigrams"]["sets"]
    size = numbers_of(page)["trigrams"]["pairs_of_each_set"]
    assert sets["seed"]["instruction"]["trigrams"] == 3 * size  # "what is the number N": three trigrams each
    assert sets["seed"]["instruction"]["unique"] == 2 + size and sets["seed"]["repeated_instructions"] == 0


def test_without_its_script_every_number_is_there(page):
    texts = " ".join(Parsed(page).texts)
    found = numbers_of(page)
    for name, count in found["funnel"]:
        assert re.search(rf"{re.escape(name)} {count}\b", texts), name
    for one in found["ratings"].values():
        row = " ".join(str(count) for count in one["histogram"].values())
        assert row in texts and f"{one['mean']:.2f}" in texts and f"{one['invalid_rate']:.1%}" in texts
    for rows in found["threshold"].values():
        assert all(f"{row['threshold']:.2f} {row['kept']} {row['share']:.1%}" in texts for row in rows)
    for row in found["held_out"]["forward"][0]["models"]:
        assert f"{row['value']:.4f}" in texts and all(of["verdict"] in texts for of in row["against"].values())
    assert all(f"M_1: {told['2']:.2f}" in texts for told in found["examples"]["scores"].values() if told["2"] is not None)


def test_hostile_text_is_text(page):
    found = Parsed(page)
    assert [tag for tag, _ in found.tags if tag in ("script", "img", "iframe", "object", "link", "base", "form")] == ["script"] * 2
    assert not [at for _, attributes in found.tags for at in attributes if at.startswith("on") or at in ("src", "style", "srcdoc")]
    assert all(attributes["href"].startswith("#v") for tag, attributes in found.tags if tag == "a")
    shown = a_run.HOSTILE.replace("\u202e", "\ufffd").replace("\u202c", "\ufffd")
    assert sum(shown in text for text in found.texts) > 8 and "\u202e" not in page
    [policy] = [attributes["content"] for tag, attributes in found.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    style, _, script = found.raw
    assert policy.startswith("default-src 'none'")
    for text in (style, script):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert "http" not in style + script and "<" not in re.search(r'id="numbers">(.*?)</script>', page, re.DOTALL)[1]


def test_the_same_run_has_the_same_bytes_and_two_stand_side_by_side(run, page, tmp_path):
    assert write(run).read_text() == page
    other = a_run.make(tmp_path / "other").parent
    text = write(run, str(other)).read_text()
    assert text.count("<h3>run</h3>") == len(views.VIEWS) == text.count("<h3>other</h3>") and write(run, str(other)).read_text() == text
    assert (run / "report.html").read_text() == page


def test_what_is_not_there_names_its_command(tmp_path):
    with pytest.raises(UserError, match="no stage is complete"):
        write(tmp_path)
    a_run.make(tmp_path)
    texts = " ".join(Parsed(write(tmp_path).read_text()).texts)
    assert texts.count("Not there yet:") == 8 and texts.count("Not measured:") == 1 and texts.count("Of files beside a run:") == 4
    for command in {missing.split()[1] for _, _, missing in views.VIEWS if missing}:
        assert command in COMMANDS
    assert "humpback augment --config=CONFIG --workdir=RUN" in texts


def test_charts_of_odd_numbers_are_drawn():
    assert charts.lines("t", {}, "x") == "" and "NaN" not in charts.bars("t", [], {}, "u") + charts.stripes("t", [], "u")
    flat = charts.lines("t", {"a": [(1, 2.0)]}, "x") + charts.bars("t", ["<a>"], {"&": [0]}, "u") + charts.grid("t", ["1"], [[0]], "x", "y")
    assert "&lt;a&gt;" in flat and "nan" not in flat
