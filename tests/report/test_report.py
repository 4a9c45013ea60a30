"""report.html: every number in it follows from the records, nothing in it is more than text, and it asks for nothing."""

import base64
import hashlib
import html.parser
import json
import re

import pytest

from humpback.cli import COMMANDS
from humpback.errors import UserError
from humpback.report import assets, charts, views
from humpback.report.write import write
from tests.export import a_run
from tests.report import recomputed


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


def test_every_number_follows_from_the_records(run, page):
    """Computed once more, by other code; of the suggested thresholds tests/review says how they are found."""
    found = numbers_of(page)
    for judge in found["labels"]["2"]["judges"].values():
        assert judge.pop("suggested")["threshold"] in recomputed.THRESHOLDS
    found["labels"]["2"]["judges"] = {t: judge["curve"] for t, judge in found["labels"]["2"]["judges"].items()}
    written = {file.stem: json.loads(file.read_text()) for file in (run / "figures").iterdir()}
    assert found["figures"]["winrate"][""]["all"].items() <= written["winrate"]["all"].items()
    assert found["figures"]["winrate"][""]["datasets"]["koala"]["wins"] == 62
    assert found["figures"]["scaling"][""] == written["scaling"] and found["figures"]["diversity"]["seed"] == written["diversity-seed"]
    del found["figures"]
    recomputed.same(found, recomputed.numbers(run))
    assert found["rates"]["unusable"]["echo"][0] == 1 and found["churn"][0]["go"] > 0 and found["ratings"]["1"]["valid"] == 22


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
    for one in found["answers"]:
        for model, said in one["models"].items():
            told = f"{said['tokens']} tokens{', cut' if said['finish'] == 'length' else ''}" if said else "not asked, no room"
            assert f"{'M' if model == 'base' else f'M_{model}'}: {told}" in texts and (not said or f"{model} says {one['id']}." in texts)
    assert [one["models"]["0"] is None for one in found["answers"]] == [False, True]
    assert all(f"M_1: {told['2']:.2f}" in texts for told in found["examples"]["scores"].values() if told["2"] is not None)


def test_what_was_dropped_is_shown_by_stage_with_three_of_each_reason(page):
    """Of the seed, pages, trainings, candidates, judges and rewriters; of what had no room the place, too."""
    section = page.partition('id="dropped"')[2].partition("</section>")[0]
    groups = {Parsed(group).texts[0]: group for group in section.split('class="group">')[1:]}
    assert [*groups] == ["seed: bad line", "segments: too short", "backward: too_long", "forward-0: too_long", "candidates: echo",
                         "ratings-1: no valid rating", "rewritten-1: draft kept: new number", "answers-0: rejected: prompt too long",
                         "judge-1: rejected: prompt too long"]  # fmt: skip
    assert [group.count("<p") for group in groups.values()] == [3, 1, 1, 1, 1, 1, 3, 1, 1]
    assert "Long for forward-0. " in groups["forward-0: too_long"]
    assert "Which number is 91?" in groups["answers-0: rejected: prompt too long"] and "It is 91." in page
    assert "Why 6?" in groups["judge-1: rejected: prompt too long"] and "/before/" not in page
    assert "prompts-00000-of-00001.jsonl:2" in page and "/answers-0/prompts" not in page
    assert "s.jsonl:2: " in groups["seed: bad line"] and "s.jsonl:3: " not in groups["seed: bad line"]
    assert "Score: None" in groups["ratings-1: no valid rating"] and groups["rewritten-1: draft kept: new number"].count(" 1234</div>") == 3


def test_people_on_rewritten_responses(page):
    found = numbers_of(page)["labels"]["rewrites-faithful-1"]["faithful"]
    texts = " ".join(Parsed(page.partition("Rewritten responses</h2>")[2].partition("</section>")[0]).texts)
    assert found["kept"] == found["of"] - 1 and f"rewrites-faithful-1 {found['kept']} of {found['of']}" in texts
    assert " ".join(f"{share:.1%}" for share in (found["kept"] / found["of"], *found["interval"])) in texts
    assert "draft kept: new number" in texts and "Not there yet" not in texts


def test_hostile_text_is_text(page):
    found = Parsed(page)
    assert [tag for tag, _ in found.tags if tag in ("script", "img", "iframe", "object", "link", "base", "form")] == ["script"] * 2
    assert not [at for _, attributes in found.tags for at in attributes if at.startswith("on") or at in ("src", "style", "srcdoc")]
    assert all(attributes["href"].startswith("#") for tag, attributes in found.tags if tag == "a")
    shown = a_run.HOSTILE.replace("\u202e", "\ufffd").replace("\u202c", "\ufffd")
    assert sum(shown in text for text in found.texts) > 8 and "\u202e" not in page
    [policy] = [attributes["content"] for tag, attributes in found.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    style, _, script = found.raw
    assert policy.startswith("default-src 'none'")
    for text in (style, script):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert "http" not in style + script and "<" not in re.search(r'id="numbers">(.*?)</script>', page, re.DOTALL)[1]


def test_every_field_of_a_run_may_be_hostile(tmp_path):
    """All texts that a run's files hold, and the name of its folder."""
    run = a_run.full(tmp_path / "<b>javascript:x<")
    for file in sorted(run.rglob("*.json*")):
        if "review" not in file.parts and "metrics" not in file.parts and file.name != "config.json":
            rows = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
            file.write_text("".join(json.dumps(a_run.planted(json.loads(row))) + "\n" for row in rows))
    for name, other in (("review/agreement-2", "review/agreement-<b>"), ("figures/scaling", "figures/scaling-<style><b>")):
        (run / f"{other}.json").write_text((run / f"{name}.json").read_text())
    text = write(run).read_text()
    found = Parsed(text)
    assert not [tag for tag, _ in found.tags if tag in ("img", "b", "iframe", "object", "link", "base", "form")]
    assert all(attributes["href"].startswith("#") for tag, attributes in found.tags if tag == "a")
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on") or name in ("src", "style")]
    assert text.count("<script") == 2 == text.count("</script>") and text.count("</style>") == 1 and "\u202e" not in text
    for what in ("too short", "koala", "verb0", "set 0", "Score: "):  # a reason, a source, a verb, a set, what a judge wrote
        assert any(what in shown and "<script>alert(1)</script>" in shown for shown in found.texts), what


def test_a_page_of_the_demos_size_is_small(tmp_path):
    """56 candidates rated twice, as `configs/demo.py` has; .ci/run looks at the page of the smaller demo that it has made."""
    texts = write(a_run.full(tmp_path / "run", 56)).read_text()
    assert "56 of 56 candidates: all of them" in texts and len(texts.encode()) <= 1_500_000


def test_the_same_run_has_the_same_bytes_and_two_stand_side_by_side(run, page, tmp_path):
    assert write(run).read_text() == page
    other = a_run.make(tmp_path / "other").parent
    text = write(run, str(other)).read_text()
    beside = len(views.VIEWS) + len(views.FURTHER) + 1  # what was dropped
    assert text.count("<h3>run</h3>") == beside == text.count("<h3>other</h3>") and write(run, str(other)).read_text() == text
    assert (run / "report.html").read_text() == page


def test_what_is_not_there_names_its_command(tmp_path):
    with pytest.raises(UserError, match="no stage is complete"):
        write(tmp_path)
    a_run.make(tmp_path)
    texts = " ".join(Parsed(write(tmp_path).read_text()).texts)
    assert texts.count("Not there yet") == 16
    for command in {missing.split()[1] for _, _, missing in (*views.VIEWS, *views.FURTHER)}:
        assert command in COMMANDS
    assert "humpback augment --config=CONFIG --workdir=RUN" in texts


def test_colours_can_be_read_in_light_and_dark():
    """WCAG's contrast, AA: 4.5 for texts, on the page and in its boxes; legends are texts in the colours of the charts."""
    light, dark = (dict(re.findall(r"--(\w+):#(\w+)", block)) for block in re.findall(r":root\{([^}]*--link[^}]*)\}", assets.STYLE))

    def luminance(colour):
        long = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = [int(long[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colours in (light, dark):
        assert len(colours) == 12
        for name in ("fg", "soft", "link", *(f"c{n}" for n in range(6))):
            for ground in ("bg", "box"):
                low, high = sorted((luminance(colours[name]), luminance(colours[ground])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground, colours[name])


def test_figures_of_another_kind_are_refused(tmp_path):
    a_run.make(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "winrate-x.json").write_text('{"all": 3}')
    with pytest.raises(UserError, match=r"winrate-x.json: not what `humpback evaluate --task=winrate` writes .*\$.all"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.json", '{"seed": "<b>"}', r"\$.seed"),
        ("seed/manifest.json", '{"counts": {}}', "missing required field `dropped`"),
        ("seed/manifest.json", '{"counts": {"read": "<b>"}, "dropped": {}}', r"\$.counts"),
        ("seed/timing.json", '{"seconds": 1.0}', "missing required field `tokens`"),
        ("seed/samples.json", "[1]", "Expected `object`, got `array`"),
        ("seed/samples.json", "{", "Expecting property name"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(tmp_path, file, content, told):
    a_run.make(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=rf"{file}: not .*{told}"):
        write(tmp_path)


def test_rounds_that_curated_nothing(tmp_path):
    run = a_run.full(tmp_path / "run")
    for t in (1, 2):
        (run / f"curated-{t}" / "curated-00000-of-00001.jsonl").write_text("")
    found = numbers_of(write(run).read_text())
    assert found["churn"] == [{"sets": [1, 2], "stay": 0, "go": 0, "come": 0, "jaccard": None}]


def test_charts_of_odd_numbers_are_drawn():
    assert charts.lines("t", {}, "x") == "" and "NaN" not in charts.bars("t", [], {}, "u") + charts.stripes("t", [], "u")
    flat = charts.lines("t", {"a": [(1, 2.0)]}, "x") + charts.bars("t", ["<a>"], {"&": [0]}, "u") + charts.grid("t", ["1"], [[0]], "x", "y")
    flat += charts.lines("t", {"a": [(1, 2.0)]}, "x", {"a": [(1, 1.0, 3.0)]}) + charts.sunburst("t", {"<a>": [("b", 1)]})
    assert "&lt;a&gt;" in flat and "nan" not in flat
