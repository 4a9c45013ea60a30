"""The segment stage: workers that a page may kill, parts that continue, the yield."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from humpback import config, storage
from humpback.config import Segments
from humpback.corpus import local_engine, worker
from humpback.corpus.worker import Job, Worker
from humpback.errors import UserError
from humpback.records import Segment, read_shards
from humpback.stages.directory import Run
from humpback.stages.segment import plan, segment_into
from tests import kills
from tests.corpus.parquets import parquet
from tests.forks import Humpback
from tests.pages import UNJUDGED, segment_pages

PROSE = (
    "The miller carries the sacks up to the stone floor and empties them into the hopper. From there the grain runs between two stones, "
    "of which only the upper one turns. Its weight is taken up by a screw, so that the gap can be made wider or narrower while the mill "
    "is at work. Too narrow a gap heats the flour and spoils its taste, too wide a one leaves the bran in large pieces. What comes out at "
    "the rim falls through a spout into the bolter below, where a sieve of silk keeps back what is too coarse for bread. A good miller "
    "hears from the sound of the stones whether they are dressed well, and stops them long before the smell of burning would tell him. "
    "Every few weeks the upper stone is lifted with a crane, turned over, and its furrows are cut afresh with a pointed hammer."
)
CFG = Segments(min_chars=300, **UNJUDGED)


def text(seed: int, words: int = 120) -> str:
    """Words that no other seed has."""
    return " ".join(f"w{seed}x{number}" for number in range(words))


def put(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<h1>Title {number}</h1><p>{text(number)}</p><h2>Part</h2><p>{text(100 + number)}</p><h1>Contact</h1>x")


def put_pages(folder: Path, count: int = 6) -> Path:
    for number in range(count):
        put(folder / f"d{number % 2}" / f"{number}.html", number)
    return folder


def config_for(folder: Path, **fields) -> Segments:
    return dataclasses.replace(CFG, input=str(folder), **fields)


def stage_of(cfg: Segments, folder: Path):
    whole = config.Config()
    whole.segments = cfg
    run = Run(config.finish(whole), folder)
    return run.stage("segments", ("segments.",), module=""), run.cfg.segments


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that must be the same bytes each time."""
    others = ("timing.json", "lock", "digests.json")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in others}


def test_ids_do_not_depend_on_where_the_pages_are(tmp_path: Path) -> None:
    first, second = (segment_pages(config_for(put_pages(tmp_path / place)))[0] for place in ("one", "two/three"))
    assert first == second and len(first) == 6


def test_hostile_files_cost_themselves(tmp_path: Path) -> None:
    (tmp_path / "binary.html").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "huge.html").write_bytes(b"<p>" + b"x" * 50_000_000)
    (tmp_path / "deep.html").write_text("<div>" * 100_000)
    (tmp_path / "empty.html").write_text("")
    (tmp_path / "mixed.html").write_bytes(b"<meta charset=utf-8><h1>Title</h1><p>" + f"\xe9\xe8 {text(1)}".encode() + b"\xe9</p>")
    (tmp_path / "good.html").write_text(f"<h1>Title</h1><p>{text(2)}</p>")
    segments, counts, drops = segment_pages(config_for(tmp_path))
    assert [s.source for s in segments] == ["good.html"]
    assert counts == {"pages": 4, "cut": 1, "segments": 1, "over_limit": 0, "warnings": 4}
    assert drops == {"binary": 1, "broken characters": 1, "empty": 1, "too deep": 1, "too large": 1}


def test_duplicates_limit_and_order(tmp_path: Path) -> None:
    for name in "abcdef":
        body = text(ord(name)) if name < "d" else text(7) + (" and one more word" if name == "f" else "")
        (tmp_path / f"{name}.html").write_text(f"<h1>Title</h1><p>{body}</p>")
    cfg = config_for(tmp_path)
    every, counts, drops = segment_pages(cfg)
    assert counts == {"pages": 6, "cut": 6, "segments": 4, "over_limit": 0, "warnings": 0}
    assert drops == {"duplicate": 1, "near-duplicate": 1}
    assert [s.id for s in every] == sorted(s.id for s in every)
    some, counts, _ = segment_pages(dataclasses.replace(cfg, limit=2))
    assert some == every[:2] and counts["over_limit"] == 2


def test_a_text_that_an_evaluation_asks_for_is_no_segment(tmp_path: Path) -> None:
    """Its own part, which does not, is one."""
    (tmp_path / "prompts.txt").write_text(" ".join(text(1).split()[20:40]) + "\n")
    cfg = config_for(put_pages(tmp_path / "pages", 2), contamination=str(tmp_path / "prompts.txt"))
    segments, _, drops = segment_pages(cfg, workers=1)
    assert sorted(s.header for s in segments) == ["Part", "Title 0"]
    assert drops["contamination"] == 1


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no segment of 300 to 3000 characters in 0 pages"):
        segment_pages(config_for(tmp_path))
    (tmp_path / "a.html").write_text("<h1>Title</h1><p>short</p>")
    with pytest.raises(UserError, match="too short: 1"):
        segment_pages(config_for(tmp_path))


def test_texts_of_every_kind(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    (pages / "data").mkdir(parents=True)
    (pages / "a.md").write_text(f"---\nx: 1\n---\n# Title\n\n{text(1)}\n")
    (pages / "b.txt").write_text(f"{text(2)} a@b.org")
    (pages / "c.jsonl").write_text(json.dumps({"body": text(3), "link": "http://c/"}) + '\n{"id": 1}\n')
    (pages / "data" / "d.parquet").write_bytes(parquet({"text": [text(4), None, text(5)]}, 2))
    stage, cfg = stage_of(config_for(pages), tmp_path / "kept")
    segment_into(stage, cfg, workers=1)
    found = {(s.source, s.start, s.header, s.url): s.text for s in read_shards(stage.path, "segments", Segment)}
    assert found == {
        ("a.md", 0, "Title", "a.md"): text(1), ("b.txt", 0, "", "b.txt"): f"{text(2)} a@b.org", ("c.jsonl", 0, "", "http://c/"): text(3),
        ("data/d.parquet", 0, "", "data/d.parquet"): text(4), ("data/d.parquet", 2, "", "data/d.parquet"): text(5),
    }  # fmt: skip
    whole = json.loads((stage.path / "yield.json").read_text())
    assert (whole["pages"], whole["whole_documents"], whole["email_addresses"], whole["headers"]) == (5, 4, 1, 1)
    assert whole["dropped"] == {"empty": 1, "no text": 1} and "c.jsonl:2: no key of" in next(iter(whole["warnings"]))
    with pytest.raises(UserError, match=r"no segment of 5000 .*no header: 1.*c.jsonl:1: no key 'none'"):
        segment_pages(config_for(pages, without_headers="drop", text_key="none", min_chars=5_000, max_chars=9_000), workers=1)


def test_the_yield_counts_everything(tmp_path: Path) -> None:
    pages = put_pages(tmp_path / "pages")
    (pages / "d0" / "broken.warc").write_bytes(b"WARC/1.0\r\n\r\n")
    stage, cfg = stage_of(config_for(pages), tmp_path)
    segment_into(stage, cfg, workers=1)
    found = json.loads((stage.path / "yield.json").read_text())
    assert (found["pages"], found["headers"], found["segments_kept"]) == (6, 18, 6)
    assert found["dropped"]["navigation header"] == 6
    assert sum(source["segments_kept"] for source in found["sources"].values()) == 6
    assert sum(source["dropped"].get("navigation header", 0) for source in found["sources"].values()) == 6
    assert set(found["sources"]) == {"d0/0.html..d0/4.html", "d0/broken.warc", "d1/1.html..d1/5.html"}
    samples = json.loads((stage.path / "samples.json").read_text())
    assert [(sample["header"], sample["text"]) for sample in samples["navigation header"]] == [("Contact", "x")] * 6
    assert all(len(found) <= 20 for found in samples.values())


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humpback.corpus.readers.FILES_PER_INPUT", 2)
    pages = put_pages(tmp_path / "pages", 14)
    found = []
    for workers in (1, 2, 4):
        stage, cfg = stage_of(config_for(pages), tmp_path / str(workers))
        segment_into(stage, cfg, workers=workers)
        found.append(contents(stage.path))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) >= 4


def test_a_folder_that_was_begun_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humpback.corpus.readers.FILES_PER_INPUT", 2)
    pages = put_pages(tmp_path / "pages", 8)
    stage, cfg = stage_of(config_for(pages), tmp_path / "whole")
    segment_into(stage, cfg, workers=1)
    begun, cfg = stage_of(config_for(pages), tmp_path / "begun")
    jobs = plan(cfg, begun)
    local_engine.extract_all(jobs[:2], 1, lambda *_: None)
    asked: list[int] = []
    run = Worker.run
    monkeypatch.setattr(Worker, "run", lambda self, job: (asked.append(job.number), run(self, job))[1])
    segment_into(begun, cfg, workers=1)
    assert asked == [2, 3]
    assert contents(begun.path) == contents(stage.path)


def test_other_files_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    pages = put_pages(tmp_path / "pages")
    stage, cfg = stage_of(config_for(pages), tmp_path)
    local_engine.extract_all(plan(cfg, stage), 1, lambda *_: None)
    (pages / "new.html").write_text("<h1>New</h1>")
    with pytest.raises(UserError, match=r"segments: was begun with segments.input = '.*/pages', whose .* \(new.html is new\); put back"):
        stage_of(config_for(pages), tmp_path)


def one_job(tmp_path: Path, second: str = "", **fields) -> Job:
    """Three pages, of which one may be another."""
    for number in (0, 2, 4):
        put(tmp_path / "pages" / f"{number}.html", number)
    if second:
        (tmp_path / "pages" / "2.html").write_text(second)
    stage, cfg = stage_of(config_for(tmp_path / "pages", **fields), tmp_path / "out")
    return plan(cfg, stage)[0]


def outcome(job: Job) -> tuple[dict[str, int], dict[str, int]]:
    found = storage.read_json(Path(job.out) / f"{job.name}.json")
    return found["counts"], found["dropped"]


def outcome_of_hurt(job: Job, program: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, int], dict[str, int]]:
    """What becomes of a job whose children run this program in place of the worker's own."""
    popen = subprocess.Popen
    monkeypatch.setattr(worker.subprocess, "Popen", lambda arguments, **kw: popen([sys.executable, "-c", program], **kw))
    with contextlib.closing(Worker()) as guard:
        guard.run(job)
    return outcome(job)


def test_a_page_that_takes_too_long_costs_itself(tmp_path: Path) -> None:
    many = "".join(f"<li>{text(n, 20)}" for n in range(40_000))
    job = one_job(tmp_path, f"<h1>Long</h1><ul>{many}</ul>", page_seconds=0.3)
    guard = Worker()
    guard.run(job)
    guard.close()
    counts, dropped = outcome(job)
    assert counts["pages"] == 3 and dropped == {"navigation header": 2, "took too long": 1}


@pytest.mark.parametrize("silent", [False, True])
def test_a_page_that_kills_its_worker_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    """The child is killed, or stopped so that it never answers, while it is at the second page of three."""
    job = one_job(tmp_path, page_seconds=0.5)
    hurt = f"""
import os, signal, time
from humpback.corpus import worker
choose = worker.choose
def hurtful(page, *rest):
    if page.source.endswith("2.html"):
        os.kill(os.getpid(), signal.{"SIGSTOP" if silent else "SIGKILL"})
    return choose(page, *rest)
worker.choose = hurtful
worker.main()
"""
    counts, dropped = outcome_of_hurt(job, hurt, monkeypatch)
    assert counts["pages"] == 3
    assert dropped == {"navigation header": 2, "took too long" if silent else "killed its worker": 1}
    assert len((Path(job.out) / f"{job.name}.jsonl").read_text().splitlines()) == 2


def test_a_fault_of_the_program_costs_the_page_that_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = one_job(tmp_path)
    hurt = """
from humpback.corpus import worker
choose = worker.choose
def faulty(page, *rest):
    return [].pop() if page.source.endswith("2.html") else choose(page, *rest)
worker.choose = faulty
worker.main()
"""
    counts, dropped = outcome_of_hurt(job, hurt, monkeypatch)
    assert counts["pages"] == 3 and dropped == {"navigation header": 2, "program fault": 1}
    assert "pop from empty list" in (Path(job.out) / f"{job.name}.json").read_text()


def test_an_input_that_kills_whoever_reads_it_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = one_job(tmp_path)
    hurt = """
import os, signal
from humpback.corpus import readers, worker
read = readers.read_pages
def hurtful(given, *rest):
    for number, page in enumerate(read(given, *rest), 1):
        yield page
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
readers.read_pages = hurtful
worker.main()
"""
    counts, dropped = outcome_of_hurt(job, hurt, monkeypatch)
    assert counts["pages"] == 2 and dropped == {"navigation header": 2, "unreadable": 1}


def test_a_part_that_cannot_be_written_is_an_error_and_a_long_one_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_SILENT", 1)
    job = one_job(tmp_path, page_seconds=1)
    publish = "import os, signal, time\nfrom humpback.corpus import worker\npublish = worker.storage.publish\n"
    killed = publish + "worker.storage.publish = lambda *a, **kw: os.kill(os.getpid(), signal.SIGKILL)\nworker.main()\n"
    with pytest.raises(RuntimeError, match="died 2 times while it wrote part 000000"):
        outcome_of_hurt(job, killed, monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(worker, "_SILENT", 1)
    slow = publish + "worker.storage.publish = lambda *a, **kw: (time.sleep(3), publish(*a, **kw))[1]\nworker.main()\n"
    size = sum(path.stat().st_size for path in (tmp_path / "pages").iterdir())
    counts = {"bytes": size, "headers": 9, "navigation_characters": 3, "own_characters": 0, "pages": 3}
    assert outcome_of_hurt(job, slow, monkeypatch) == (counts, {"navigation header": 3})


def test_a_worker_that_fails_otherwise_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = dataclasses.replace(one_job(tmp_path), out=str(tmp_path / "pages" / "0.html" / "no folder"))
    with pytest.raises(RuntimeError, match="NotADirectoryError"):
        local_engine.extract_all([job], 1, lambda *_: None)


def test_memory_is_limited(tmp_path: Path) -> None:
    job = one_job(tmp_path, "<h1>Wide</h1>" + "<i>x</i>" * 1_200_000, page_megabytes=100)
    guard = Worker()
    guard.run(job)
    guard.close()
    counts, dropped = outcome(job)
    assert counts["pages"] == 3 and dropped["navigation header"] == 2
    assert dropped.keys() - {"navigation header"} <= {"too much memory", "killed its worker"} and len(dropped) == 2


def test_a_killed_command_continues(tmp_path: Path) -> None:
    """kill -9 to the whole group in the middle; the same command again ends in the same bytes."""
    pages = tmp_path / "pages"
    pages.mkdir()
    for part in range(4):
        lines = (json.dumps({"url": f"http://x.org/{part}/{n}", "html": f"<h1>T</h1><p>{text(10_000 * part + n)}"}) for n in range(300))
        (pages / f"{part}.jsonl").write_text("\n".join(lines))
    cfg_file = tmp_path / "c.py"
    cfg_file.write_text(
        "from humpback import config\nfrom tests.pages import UNJUDGED\n"
        "def get_config():\n    cfg = config.Config()\n    for k, v in UNJUDGED.items(): setattr(cfg.segments, k, v)\n    return cfg\n"
    )

    def command(out: str) -> list[str]:
        return kills.humpback("segment", f"--input={pages}", f"--out={tmp_path / out}", f"--config={cfg_file}", "--workers=1")

    environment = {**os.environ, "PYTHONPATH": str(kills.REPOSITORY), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command("whole"), check=True, env=environment, cwd=kills.REPOSITORY, capture_output=True)
    process = subprocess.Popen(command("killed"), env=environment, cwd=kills.REPOSITORY, start_new_session=True, stderr=subprocess.DEVNULL)
    parts = tmp_path / "killed" / "parts"
    while process.poll() is None and not (parts / "000001.json").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    subprocess.run(command("killed"), check=True, env=environment, cwd=kills.REPOSITORY, capture_output=True)
    assert contents(tmp_path / "killed") | {"stage.json": b"", "manifest.json": b""} == contents(tmp_path / "whole") | {
        "stage.json": b"", "manifest.json": b"",
    }  # fmt: skip
    assert len(list(read_shards(tmp_path / "killed", "segments", Segment))) == 1200


def test_strict_makes_damage_an_error(tmp_path: Path, humpback: Humpback) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "good.html").write_text(f"<h1>The mill</h1><p>{PROSE}</p>")
    (pages / "binary.html").write_bytes(bytes(range(256)) * 9)
    arguments = ["segment", f"--input={pages}", f"--out={tmp_path / 'out'}"]
    done = humpback(*arguments)
    assert done.returncode == 0 and "1 warnings" in done.stderr, done.stderr
    done = humpback(*arguments, "--strict")
    assert done.returncode == 2 and "1 warnings of damaged pages" in done.stderr, done.stderr
