"""Blind labels: what is drawn, what a page shows, who may ask, and that a label is never lost."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import urllib.parse

import pytest
from etils import epath

from humpback import storage
from humpback.errors import UserError
from humpback.review import labels, sample, server
from tests import kills
from tests.export import a_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return epath.Path(a_run.full(tmp_path_factory.mktemp("review") / "run"))


@pytest.mark.parametrize(
    ("sizes", "count", "found"), [([5, 5], 4, [2, 2]), ([1, 9, 9], 7, [1, 3, 3]), ([2, 0, 1], 9, [2, 0, 1]), ([4, 4], 3, [2, 1])]
)
def test_strata_have_equal_shares(sizes, count, found):
    assert sample.shares(sizes, count) == found


def test_a_sample_stands_for_all_and_is_drawn_once(run):
    items = sample.sample(run, 2, 12, 3)
    rated = [json.loads(line) for line in (run / "ratings-2" / "ratings-00000-of-00001.jsonl").read_text().splitlines()]
    scores = {row["id"]: row["score"] for row in rated if row["score"] is not None}
    assert len(items) == 12 and abs(sum(item.weight for item in items) - len(scores)) < 1e-9
    assert all(float(item.stratum) == scores[item.id] for item in items)
    assert sample.sample(run, 2, 5, 4) == items  # what is there stays
    with pytest.raises(UserError, match="ratings-9: not complete"):
        sample.sample(run, 9, 5, 4)


def test_everybody_has_an_order_and_every_tenth_comes_again(run):
    items = sample.sample(run, 2, 12, 3)
    ann, bob = ([name for name, _ in sample.order(items, person, 3)] for person in ("ann", "bob"))
    assert ann != bob and sorted(ann[:12]) == sorted(bob[:12]) == [item.id for item in items]
    assert ann[12:] == [f"{name}-again" for name in ann[:2]]


def test_the_last_label_counts_and_none_is_overwritten(tmp_path):
    one = labels.Labels(epath.Path(tmp_path), 1, "ann")
    for name, label in (("0" * 16, "yes"), ("0" * 16, "no"), ("1" * 16, "skip"), ("0" * 16 + "-again", "no")):
        one.add(name, label)
    (tmp_path / "review/labels-1/ann" / f"{storage.TEMPORARY}x").write_text("ha")  # what a kill leaves
    again = labels.Labels(epath.Path(tmp_path), 1, "ann")
    assert again.read() == {"0" * 16: "no", "1" * 16: "skip", "0" * 16 + "-again": "no"}
    assert labels.self_agreement(again.read()) == (1, 1) and len(storage.list_files(again.folder)) == 4
    for name, label in (("0" * 16, "maybe"), ("../x", "yes")):
        with pytest.raises(ValueError, match="is no label"):
            again.add(name, label)
    with pytest.raises(UserError, match=r"--reviewer='\.\./eve'"):
        labels.Labels(epath.Path(tmp_path), 1, "../eve")
    (again.folder / f"{'1' * 16}.1.json").write_text('{"label": 3}')
    with pytest.raises(UserError, match=r"1\.1\.json: no label"):
        again.read()


@pytest.fixture
def served(run, tmp_path):
    made = server.Server(0, list(sample.order(sample.sample(run, 2, 12, 3), "ann", 3)), labels.Labels(epath.Path(tmp_path), 2, "ann"))
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def ask(served, method, path=None, body="", **headers):
    host = f"127.0.0.1:{served.server_address[1]}"
    connection = http.client.HTTPConnection(host, timeout=10)
    sent = {"Host": host, **headers}
    connection.request(method, path if path is not None else f"/{served.token}/", body, sent)
    answer = connection.getresponse()
    return answer, answer.read().decode()


def test_a_page_tells_nothing_of_score_model_or_place(run, served):
    shown = []
    while "All are labelled" not in (text := ask(served, "GET")[1]):
        name = re.search(r'name="item" value="([^"]*)"', text)[1]
        shown.append(text)
        body = urllib.parse.urlencode({"item": name, "label": "yes"})
        own = f"http://127.0.0.1:{served.server_address[1]}"
        assert ask(served, "POST", body=body, Origin=own)[0].status == 303
    assert len(shown) == 14 and "Of 2 that came twice, 2 were labelled the same." in text
    hidden = re.compile(r"myx|\bm1\b|score|weight|stratum|http|\.html|javascript|[1-5]\.[05]\b", re.IGNORECASE)
    around = [re.sub(r'<div class="text".*?</div>', "", re.sub(r"<style>.*?</style>", "", page, flags=re.S), flags=re.S) for page in shown]
    assert all("Instruction" in page for page in around) and not any(hidden.search(page) for page in around)
    assert not any("<script>alert" in page or "<img" in page for page in shown)


def test_who_may_ask(served):
    name, own = next(iter(served.items)), f"http://127.0.0.1:{served.server_address[1]}"
    good = urllib.parse.urlencode({"item": name, "label": "no"})
    assert ask(served, "GET", "/")[0].status == ask(served, "GET", "/x/")[0].status == 403
    assert ask(served, "GET", Host=f"evil.example:{served.server_address[1]}")[0].status == 403  # a name that leads here
    for origin in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {}):
        assert ask(served, "POST", body=good, **origin)[0].status == 403
    assert ask(served, "POST", "/", good, Origin=own)[0].status == 403
    for body in ("item=x&label=yes", f"item={name}&label=great", ""):
        assert ask(served, "POST", body=body, Origin=own)[0].status == 400
    assert served.labels.read() == {}
    answer, _ = ask(served, "GET")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"] and answer.headers["Cache-Control"] == "no-store"
    ask(served, "POST", body=good, Origin=own)
    assert served.labels.read() == {name: "no"} and f'value="{name}"' not in ask(served, "GET")[1]
    assert f'value="{name}"' in ask(served, "GET", f"/{served.token}/?back={name}")[1]


CHROMIUM = os.environ.get("HUMPBACK_CHROMIUM") or shutil.which("chromium")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed (apt-get install chromium)")
def test_twenty_labels_by_keys_with_kills(run, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e .[test])")
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("review"))
    folder = tmp_path / "run" / "review" / "labels-2" / "ann"
    command = kills.humpback("review", f"--workdir={tmp_path / 'run'}", "--reviewer=ann", "--iteration=2", "--count=20")
    pressed = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for some in ("yyn", "s", "n" * 5, "ynynynynyny"):
            with subprocess.Popen(command, cwd=kills.REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
                address = process.stdout.readline().split()[-1]
                page = browser.new_page()
                page.goto(address)
                for key in some:
                    with page.expect_navigation():
                        page.keyboard.press(key)
                    pressed.append({"y": "yes", "n": "no", "s": "skip"}[key])
                process.send_signal(signal.SIGKILL)
            assert len(storage.list_files(folder)) == len(pressed)
        browser.close()
    found = labels.Labels(epath.Path(tmp_path / "run"), 2, "ann").read()
    names = [name for name, _ in sample.order(sample.sample(epath.Path(tmp_path / "run"), 2, 20, 3), "ann", 3)]
    assert [found[name] for name in names[:20]] == pressed
