"""The file for a colleague, and what comes back from it; and what the command says to wrong flags."""

import json
import re

import pytest
from etils import epath

from humpback.errors import UserError
from humpback.review import labels, page, sample
from tests import browsers
from tests.export import a_run

browser = pytest.fixture(scope="module")(browsers.started)
HOSTILE = "</script><script>alert(1)</script>" + a_run.HOSTILE
ANSWERS = {f"{n:016x}": (f"Ask {n}", f"m{n} {HOSTILE}", f"b{n} {HOSTILE}") for n in range(9)}


@pytest.fixture
def bob(tmp_path):
    """The labels of who works on the file: none yet."""
    drawn = sample.of_answers(epath.Path(tmp_path), "answers", ANSWERS, 9, 3)
    return labels.Labels(epath.Path(tmp_path), "answers", "bob", drawn)


def returned(bob, given, **other):
    return json.dumps({"review": bob.sample.digest, "reviewer": "bob", "labels": given} | other).encode()


def test_a_file_tells_nothing_of_what_it_is_of(bob):
    text = str(page.render_static(bob.sample, "bob", bob.shown.values()))
    assert text.count("<script") == 3 and "<img" not in text and "\u202e" not in text
    data = json.loads(re.search(r'id="items">(.*?)</script>', text, re.DOTALL)[1])
    assert {*data} == {"review", "reviewer", "items"} and {*data["items"][0]} == {"name", "texts"}
    for shown, item in zip(bob.shown.values(), data["items"], strict=True):
        assert item["name"] == shown.name and item["texts"][1].startswith("b" if shown.turned else "m")
    assert not re.search("model|baseline|weight|stratum|turned", re.sub(r'id="items">.*?</script>', "", text, flags=re.DOTALL))


@browsers.NEEDED
def test_labels_by_keys_are_kept_saved_and_come_back(bob, browser, tmp_path):
    file = tmp_path / "bob.html"
    file.write_text(page.render_static(bob.sample, "bob", bob.shown.values()))
    tab, wrong = browser.new_page(), []
    tab.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "blob:")) else None)
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: wrong.append(dialog.message))
    tab.goto(f"file://{file}")
    assert HOSTILE.split("</style>")[0].strip() in tab.inner_text("#item")
    for key in "122ts1":
        tab.keyboard.press(key)
    tab.reload()
    assert tab.inner_text("#progress") == "6 of 10 labelled"
    for key in "b2":  # the sixth once more
        tab.keyboard.press(key)
    for key in "1111" + "1":  # the last does nothing, as there is nothing more
        tab.keyboard.press(key)
    assert tab.inner_text("#progress") == "10 of 10 labelled: save them" and not tab.is_visible("#item")
    with tab.expect_download() as download:
        tab.keyboard.press("d")
    assert download.value.suggested_filename == "labels-bob.json" and not wrong
    data = labels.returned_bytes(str(download.value.path()))
    given = ["first", "second", "second", "tie", "skip", "second", "first", "first", "first", "first"]
    assert json.loads(data)["labels"] == dict(zip(bob.shown, given, strict=True))
    assert bob.take(data, "x") == 10 and bob.take(data, "x") == 0
    for label, shown in zip(given, bob.shown.values(), strict=True):
        sides = {"first": "baseline", "second": "model"} if shown.turned else {"first": "model", "second": "baseline"}
        assert bob.read()[shown.name] == sides.get(label, label)


def test_what_comes_back_is_of_this_review_alone(bob, tmp_path):
    name = next(iter(bob.shown))
    for data, error in (
        (b"[]", "not a file of labels"),
        (b"\xff", "not a file of labels"),
        (returned(bob, {name: 1}), r"Expected `str`, got `int` - at `\$.labels"),
        (returned(bob, {}, more=1), "unknown field `more`"),
        (returned(bob, {}, review="0"), "of bob on another sample"),
        (returned(bob, {}, reviewer="eve"), "holds labels of 'eve'"),
        (returned(bob, {"../../x": "tie"}), "'../../x' is no item of this review"),
        (returned(bob, {"f" * 16: "tie"}), "is no item of this review"),
        (returned(bob, {name: "tie"}).replace(b"{", b'{"reviewer": "bob", ', 1), "'reviewer' is there twice"),
        (returned(bob, {name: "tie"}).replace(b'"tie"', f'"tie", "{name}": "first"'.encode()), f"'{name}' is there twice"),
        (returned(bob, {name: "model"}), "'model' is no label, which is one of first, second, tie, skip"),
    ):
        with pytest.raises(UserError, match=error):
            bob.take(data, "back.json")
    assert bob.read() == {}
    large = tmp_path / "large.json"
    large.write_bytes(b" " * 10_000_001)
    with pytest.raises(UserError, match="10,000,001 bytes; a file of labels has at most 10,000,000"):
        labels.returned_bytes(str(large))
    with pytest.raises(UserError, match="no such file"):
        labels.returned_bytes(str(tmp_path))


def test_the_command(humpback, tmp_path):
    rows = [{"instruction": asked, "output": one} for asked, one, _ in ANSWERS.values()]
    (tmp_path / "model.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "baseline.json").write_text(json.dumps([{"instruction": asked, "output": other} for asked, _, other in ANSWERS.values()]))
    answers = [f"--input={tmp_path / 'model.jsonl'}", f"--baseline={tmp_path / 'baseline.json'}"]

    def said(*arguments):
        done = humpback("review", f"--workdir={tmp_path / 'w'}", *arguments)
        return done.returncode, done.stdout + done.stderr

    assert said("--iteration=2") == (2, "humpback: --reviewer is missing: who labels, for example --reviewer=ann\n")
    assert "--input and --baseline go together" in said(answers[0], "--reviewer=bob")[1]
    assert "not digits alone" in said("--name=3", "--reviewer=bob")[1] and "three commands" in said("--agreement", "--static=x")[1]
    assert "no review 'answers' has begun here" in said("--name=answers", "--import=x.json")[1]
    code, text = said(*answers, "--reviewer=bob", f"--static={tmp_path / 'bob.html'}", "--count=5")
    assert code == 0 and text.startswith(f"{tmp_path / 'bob.html'}: 6 items for bob")
    data = json.loads(re.search(r'id="items">(.*?)</script>', (tmp_path / "bob.html").read_text(), re.DOTALL)[1])
    back = tmp_path / "back.json"
    back.write_text(json.dumps({"review": data["review"], "reviewer": "bob", "labels": {item["name"]: "tie" for item in data["items"]}}))
    for new in (6, 0):
        assert said("--name=answers", f"--import={back}") == (0, f"{new} new labels by bob; 6 of 6 labelled\n")
    code, text = said("--name=answers", "--agreement")
    assert code == 0 and "people prefer the model in 50.0 % (0 wins, 5 ties, 0 losses)" in text and "1 of 1 the same again" in text
