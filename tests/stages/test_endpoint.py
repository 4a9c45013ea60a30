"""A judge behind an endpoint, asked over HTTP: what is sent, what is tried again, what is kept, and what nobody has agreed to."""

import contextlib
import http.server
import json
import threading

import pytest

from humpback import config
from humpback.errors import UserError
from humpback.records import Candidate, Example, Judged, Rated, Segment, read_shards, write_shards
from humpback.stages import curate, endpoint, judge
from humpback.stages.directory import Run, Stage, read_manifest

KEY = "local-key"
SCORES = {"text 0": "Score: 5", "text 1": "Score: 2", "text 2": "no idea", "text 3": "Score: 4"}


class Server(http.server.ThreadingHTTPServer):
    """Answers by the table; `failing` are statuses that come first, `asked` is what was sent."""

    def __init__(self, failing=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failing, self.asked, self.lock = list(failing), [], threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((self.path, self.headers.get("Authorization"), body))
            status = self.server.failing.pop(0) if self.server.failing else 200
        prompt = body["messages"][0]["content"]
        text = next((answer for name, answer in SCORES.items() if f"Response: {name}" in prompt), "Score: 3")
        found = {
            "model": "judge-2026", "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 3},
        }  # fmt: skip
        data = json.dumps(found if status == 200 else {"error": "busy"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def serving(failing=()):
    with Server(failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(url, yes): a run with four usable candidates and one that is not, and held-out pairs; waits take no time."""
    monkeypatch.setattr(endpoint, "sleep", lambda seconds: None)
    monkeypatch.setenv(endpoint.KEY, KEY)

    def run(url: str, yes: bool = True) -> Run:
        cfg = config.Config()
        cfg.curate.judge, cfg.curate.judge_model, cfg.curate.threshold = url, "big", 4.0
        run = Run(config.finish(cfg), tmp_path / "run", yes=yes)
        if (run.workdir / "candidates").exists():
            return run
        made = [
            Candidate(segment.id, segment, f"ask {n}", "" if n < 4 else "echo", "m", 0)
            for n in range(5)
            for segment in [Segment(f"{n:016x}", f"text {n}", "h", ("h",), "u", "s", 0, 1)]
        ]
        for name, rows in (("candidates", made), ("seed", []), ("forward-0", [])):
            stage = Stage(run.workdir / name, {}, {}, {})
            files = write_shards(stage.path, name, rows, len(rows)) if rows else []
            stage.finish(counts={}, files=files, weights_sha256="w")
        pairs = [Example(f"{n:016x}", f"why {n}", f"because {n}", "seed", "") for n in range(3)]
        write_shards(run.workdir / "seed", "held_out", pairs, 3)
        return run

    return run


def test_candidates_are_rated_and_the_judge_is_measured(make, monkeypatch):
    """429 and 500 are tried again; an answer without a score is none; held-out pairs are asked about by the same endpoint."""
    with serving([429, 500]) as (server, url):
        run = make(url)
        judge.curate_by(run, 1)
    rated = list(read_shards(run.workdir / "ratings-1", "ratings", Rated))
    assert [r.score for r in rated] == [5.0, 2.0, None, 4.0, None] and [r.texts for r in rated][2:] == [("no idea",), ("Score: 4",), ()]
    assert {r.model for r in rated if r.texts} == {"judge-2026"} and rated[4].reason == "echo"
    assert [e.id for e in read_shards(run.workdir / "curated-1", "curated", Example)] == [f"{n:016x}" for n in (0, 3)]
    assert len(server.asked) == 2 + 4 + 9 and {key for _, key, _ in server.asked} == {f"Bearer {KEY}"}
    path, _, body = server.asked[0]
    assert (path, body["model"], body["max_tokens"], body["temperature"]) == ("/v1/chat/completions", "big", 256, 0.7)
    judged = list(read_shards(run.workdir / "judge-1" / "rubric", "judged", Judged))
    assert len(judged) == 9 and {j.score for j in judged} == {3.0} and judge.read(run, 1)["rubric"]["blind"]
    manifest = read_manifest(run.workdir, "ratings-1")
    assert manifest["counts"]["asked"] == 4 and KEY not in json.dumps(manifest)


def test_nothing_is_sent_before_somebody_agrees(make):
    with serving() as (server, url):
        with pytest.raises(UserError, match=r"4 requests of about \d+ prompt tokens, and at most 1024 new .*, model big.*--yes"):
            curate.rate(make(url, yes=False), 1)
        assert server.asked == []


def test_what_was_answered_is_kept_and_not_asked_again(make, monkeypatch):
    """The third request is refused: the others' answers are parts; the next call asks for what is missing."""
    monkeypatch.setattr(endpoint, "AT_ONCE", 1)
    with serving([200, 200, 401]) as (server, url):
        with pytest.raises(UserError, match="answers 401"):
            curate.rate(make(url), 1)
        assert len(server.asked) == 3 and len(list((make(url).workdir / "ratings-1" / "parts").glob("made*"))) == 2
        curate.rate(make(url), 1)
        assert len(server.asked) == 5 and read_manifest(make(url).workdir, "ratings-1")["counts"]["out"] == 5


def test_an_endpoint_that_stays_away_is_given_up(make, monkeypatch):
    waits = []
    monkeypatch.setattr(endpoint, "sleep", waits.append)
    monkeypatch.setattr(endpoint, "AT_ONCE", 1)
    with serving([503] * 99) as (server, url), pytest.raises(UserError, match="gave no answer in 8 tries"):
        curate.rate(make(url), 1)
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


@pytest.mark.parametrize("fields", [{"judge_model": ""}, {"mode": "expected"}, {"beside": "likelihood"}, {"judge": "host/v1"}])
def test_what_an_endpoint_cannot_do_is_said(fields):
    cfg = config.Config()
    cfg.curate.judge, cfg.curate.judge_model = "https://host/v1", "big"
    for name, value in fields.items():
        setattr(cfg.curate, name, value)
    with pytest.raises(UserError, match=r"curate\.judge"):
        config.finish(cfg)
