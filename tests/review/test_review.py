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
from humpback.review import labels, page, sample, server
from tests import browsers, kills
from tests.export import a_run

ANSWERS = {f"{n:016x}": (f"Ask {n}{a_run.HOSTILE}", f"The model says {n}.", f"The baseline says {n}.") for n in range(30)}
# What is shown of an item, and what a page must not tell beside it.
TEXTS = re.compile(r'<div class="text".*?</div>|<style>.*?</style>|<script>.*?</script>', re.DOTALL)
HIDDEN = re.compile(r"myx|\bm1\b|score|weight|stratum|http|\.html|javascript|[1-5]\.[05]\b", re.IGNORECASE)
browser = pytest.fixture(scope="module")(browsers.started)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = epath.Path(a_run.full(tmp_path_factory.mktemp("review") / "run"))
    (run / "review").rmtree()  # nobody has labelled yet
    return run


@pytest.mark.parametrize(
    ("sizes", "count", "found"), [([5, 5], 4, [2, 2]), ([1, 9, 9], 7, [1, 3, 3]), ([2, 0, 1], 9, [2, 0, 1]), ([4, 4], 3, [2, 1])]
)
def test_strata_have_equal_shares(sizes, count, found):
    assert sample.shares(sizes, count) == found


def test_a_sample_stands_for_all_and_is_drawn_once(run):
    items = sample.of_candidates(run, 2, 12, 3).items
    rated = [json.loads(line) for line in (run / "ratings-2" / "ratings-00000-of-00001.jsonl").read_text().splitlines()]
    scores = {row["id"]: row["score"] for row in rated if row["score"] is not None}
    assert len(items) == 12 and abs(sum(item.weight for item in items) - len(scores)) < 1e-9
    assert all(float(item.stratum) == scores[item.id] for item in items)
    assert sample.of_candidates(run, 2, 5, 4).items == items  # what is there stays
    with pytest.raises(UserError, match="ratings-9: not complete"):
        sample.of_candidates(run, 9, 5, 4)


def test_everybody_has_an_order_and_every_tenth_comes_again(run):
    drawn = sample.of_candidates(run, 2, 12, 3)
    ann, bob = ([shown.name for shown in sample.order(drawn, person)] for person in ("ann", "bob"))
    assert ann != bob and sorted(ann[:12]) == sorted(bob[:12]) == [item.id for item in drawn.items]
    assert ann[12:] == [f"{name}-again" for name in ann[:2]]


def test_answers_are_drawn_once_and_stand_on_sides_by_chance(tmp_path):
    path = epath.Path(tmp_path)
    same = {"f" * 16: ("Ask", "the same", "the same")}
    drawn = sample.of_answers(path, "answers", ANSWERS | same, 20, 3)
    assert len(drawn.items) == 20 and drawn.of == 30 and {item.weight for item in drawn.items} == {1.5}
    assert sample.of_answers(path, "answers", ANSWERS, 5, 4) == drawn
    with pytest.raises(UserError, match="begun with other answers"):
        sample.of_answers(path, "answers", {i: (a, "other", c) for i, (a, _, c) in ANSWERS.items()}, 20, 3)
    with pytest.raises(UserError, match="none of 1 pairs of answers differs"):
        sample.of_answers(path, "more", same, 20, 3)
    ann, bob = ({shown.name: shown for shown in sample.order(drawn, person)} for person in ("ann", "bob"))
    assert 4 < sum(ann[item.id].turned for item in drawn.items) < 16
    assert any(ann[item.id].turned != bob[item.id].turned for item in drawn.items)
    again = [name for name in ann if name.endswith("-again")]
    assert len(again) == 2 and all(ann[name].turned != ann[name.removesuffix("-again")].turned for name in again)
    one = labels.Labels(path, "answers", "ann", drawn)
    for name, shown in list(ann.items())[:9]:  # whoever takes the first side says the model there or the baseline
        one.add(name, "first")
        assert one.read()[name] == ("baseline" if shown.turned else "model")
        assert page.texts_of(shown)[1].startswith("The baseline" if shown.turned else "The model")


def test_two_who_begin_at_once_label_the_same(run, tmp_path, monkeypatch):
    """Each with another --count: who comes second takes what the first has drawn."""
    shutil.copytree(run / "ratings-2", tmp_path / "ratings-2")
    first = sample.of_candidates(epath.Path(tmp_path), 2, 9, 3)
    there, not_yet = sample.read, [None]
    monkeypatch.setattr(sample, "read", lambda *place: not_yet.pop() if not_yet else there(*place))
    assert sample.of_candidates(epath.Path(tmp_path), 2, 12, 3) == first and not not_yet


def test_the_last_label_counts_and_none_is_overwritten(run, tmp_path):
    path, drawn = epath.Path(tmp_path), sample.of_candidates(run, 2, 12, 3)
    one = labels.Labels(path, "1", "ann", drawn)
    first, second = list(one.shown)[:2]
    for name, label in ((first, "yes"), (first, "no"), (second, "skip"), (f"{first}-again", "no")):
        one.add(name, label)
    (tmp_path / "review/labels-1/ann" / f"{storage.TEMPORARY}x").write_text("ha")  # what a kill leaves
    again = labels.Labels(path, "1", "ann", drawn)
    assert again.read() == {first: "no", second: "skip", f"{first}-again": "no"}
    assert labels.self_agreement(again.read()) == (1, 1) and len(storage.list_files(again.folder)) == 4
    for name, label in ((first, "maybe"), (first, "first"), ("0" * 16, "yes"), ("../x", "yes")):
        with pytest.raises(ValueError, match="is no label"):
            again.add(name, label)
    with pytest.raises(UserError, match=r"--reviewer='\.\./eve'"):
        labels.Labels(path, "1", "../eve", drawn)
    (again.folder / f"{second}.1.json").write_text('{"label": 3}')
    with pytest.raises(UserError, match=r"\.1\.json: no label"):
        again.read()


@pytest.fixture
def served(run, tmp_path):
    made = server.Server(0, labels.Labels(epath.Path(tmp_path), "2", "ann", sample.of_candidates(run, 2, 12, 3)))
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
    around = [TEXTS.sub("", text) for text in shown]
    assert all("Instruction" in text for text in around) and not any(HIDDEN.search(text) for text in around)
    assert not any("<script>alert" in text or "<img" in text for text in shown)


def test_who_may_ask(served):
    name, own = next(iter(served.labels.shown)), f"http://127.0.0.1:{served.server_address[1]}"
    good = urllib.parse.urlencode({"item": name, "label": "no"})
    assert ask(served, "GET", "/")[0].status == ask(served, "GET", "/x/")[0].status == 403
    assert ask(served, "GET", Host=f"evil.example:{served.server_address[1]}")[0].status == 403  # a name that leads here
    for origin in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {}):
        assert ask(served, "POST", body=good, **origin)[0].status == 403
    for origin in (f"{own}.evil.example", own.replace("http:", "https:"), "http://["):
        assert ask(served, "POST", body=good, Origin=origin)[0].status == 403
    assert ask(served, "POST", "/", good, Origin=own)[0].status == ask(served, "GET", "http://[/")[0].status == 403
    for size, status in (("10001", 413), ("9" * 30, 403), ("-5", 403), ("\u00b2", 403)):
        assert ask(served, "POST", body=good, Origin=own, **{"Content-Length": size})[0].status == status
    for body in ("item=x&label=yes", f"item={name}&label=great", ""):
        assert ask(served, "POST", body=body, Origin=own)[0].status == 400
    assert served.labels.read() == {}
    answer, _ = ask(served, "GET")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"] and answer.headers["Cache-Control"] == "no-store"
    ask(served, "POST", body=good, Origin=own)
    assert served.labels.read() == {name: "no"} and f'value="{name}"' not in ask(served, "GET")[1]
    assert f'value="{name}"' in ask(served, "GET", f"/{served.token}/?back={name}")[1]


def test_many_label_at_once(run, tmp_path):
    """Two people, one of them in two windows: no label is lost or another's."""
    drawn = sample.of_candidates(run, 2, 12, 3)
    people = [labels.Labels(epath.Path(tmp_path), "2", name, drawn) for name in ("ann", "ann", "bob")]
    start = threading.Barrier(len(people))

    def give(person, label):
        start.wait()
        for name in person.shown:
            person.add(name, label)

    threads = [threading.Thread(target=give, args=pair) for pair in zip(people, ("yes", "yes", "no"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert people[0].read() == dict.fromkeys(people[0].shown, "yes") and people[2].read() == dict.fromkeys(people[2].shown, "no")


class Forked:
    """A server in a process of its own, for a kill."""

    def __init__(self, people):
        read, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                made = server.Server(0, people)
                os.write(write, made.address.encode())
                made.serve_forever()
            finally:
                os._exit(1)
        os.close(write)
        self.address = os.read(read, 1_000).decode()
        os.close(read)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(self.pid, 0)[1]) == signal.SIGKILL


@browsers.NEEDED
@pytest.mark.filterwarnings("ignore:os.fork")  # the child calls no JAX: its order of items is drawn before
def test_twenty_labels_by_keys_with_a_kill_after_each(run, tmp_path, browser):
    drawn = sample.of_candidates(epath.Path(shutil.copytree(run / "ratings-2", tmp_path / "ratings-2")).parent, 2, 20, 3)
    person = labels.Labels(epath.Path(tmp_path), "2", "ann", drawn)
    tab = browser.new_page()
    for number, key in enumerate("yynsnnnnnynynynynyny"):
        process = Forked(person)
        tab.goto(process.address)
        assert not HIDDEN.search(TEXTS.sub("", tab.content()))
        with tab.expect_navigation():
            tab.keyboard.press(key)
        process.kill()
        given = person.read()
        assert len(given) == number + 1
        assert given[list(person.shown)[number]] == {"y": "yes", "n": "no", "s": "skip"}[key]


def test_the_command_goes_on_after_a_kill(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("review"))
    command = kills.humpback("review", f"--workdir={tmp_path / 'run'}", "--reviewer=ann", "--iteration=2", "--count=20")
    for done in ("0 of 22 labelled", "1 of 22 labelled"):
        with subprocess.Popen(command, cwd=kills.REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
            told = process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert told.startswith(f"{done}; open http://127.0.0.1:")
        person = labels.Labels(epath.Path(tmp_path / "run"), "2", "ann", sample.of_candidates(epath.Path(tmp_path / "run"), 2, 20, 3))
        person.add(next(iter(person.shown)), "yes")
