"""A run's only writer: what a stage does before, while and after it waits for the lock."""

import json
import os

import pytest

from humpback import locks
from humpback.decoding.parts import PartName, Parts
from humpback.locks import Lock
from humpback.records import Segment
from humpback.stages.seed import seed
from humpback.stages.summary import summarize
from tests.stages import hand_made


def test_what_another_process_has_made_meanwhile_is_taken(make_run, monkeypatch, capsys):
    """This one waited for the lock, and looks again."""
    other, this = make_run(), make_run()
    other.place.lock, this.place.lock = (Lock(other.workdir / name) for name in ("lock", "not the lock"))

    def wait() -> bool:
        seed(other)
        return True

    monkeypatch.setattr(this.place.lock, "acquire", wait)
    seed(this)
    assert capsys.readouterr().err.splitlines()[-1] == "seed: done before"


def test_files_are_looked_at_again_after_waiting(edited, monkeypatch):
    files, make = edited
    run = make()
    run.place.now.contents.of("seed_pairs.source")

    def wait() -> bool:
        with (files / "pairs.jsonl").open("a") as pairs:
            pairs.write('{"instruction": "one more", "response": "yes"}\n')
        return True

    monkeypatch.setattr(run.place.lock, "acquire", wait)
    seed(run)
    assert json.loads((run.workdir / "seed" / "manifest.json").read_text())["counts"]["read"] == 71


def test_a_run_holds_its_lock_from_its_first_work_on_and_readers_take_none(make_run, tmp_path):
    run = make_run()
    run.check(["base", "seed"])
    assert run.place.lock.number == 0 and not run.workdir.exists()
    seed(run)
    assert run.place.lock.number == 1 and json.loads((run.workdir / "lock").read_text())["pid"] == os.getpid()
    locks.release_all()
    seed(make_run())
    summarize(make_run())
    assert json.loads((run.workdir / "lock").read_text()) == {"number": 1, "released": True}


def test_who_has_lost_the_lock_completes_nothing(make_run, monkeypatch):
    class Ended(Exception):
        pass

    def end(path, holder):
        raise Ended

    monkeypatch.setattr(locks, "_end", end)
    run = make_run()
    stage = run.stage("x", ("seed",), module="")
    lock = run.workdir / "lock"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "key": "another's", "number": 2}))
    with pytest.raises(Ended):
        stage.begin()
    with pytest.raises(Ended):
        stage.finish(counts={})
    assert not (run.workdir / "x").exists()
    run.place.lock.number = 0


def test_parts_bear_the_number_of_the_lock(make_run, tmp_path):
    inputs, names = hand_made.segments_in(tmp_path), []
    for number in (0, 1):
        stage = hand_made.rate(make_run())
        made = Segment(f"{number + 1:016x}", "text", "h", ("h",), "u", "s", 0, 1)
        parts = Parts(stage.path / "parts", inputs, hand_made.ALONE, -1.0, stage)
        parts.add(number, made)
        parts.settle()
        names.append(sorted(path.name for path in stage.path.glob("parts/*"))[-1])
        locks.release_all()
    assert [PartName.parse(name)[:4] for name in names] == [("made", 1, 0, 0), ("made", 2, 0, 0)]
    assert PartName.parse("made-0003-000007-5-1-2.jsonl") == PartName("made", 0, 3, 7, 5, 1, 2)  # of a run before there were locks
