"""What a finished stage leaves: of what it was made, what became of it, and the sums of its files."""

import hashlib
import json

from humpback import config, storage
from humpback.stages import code, directory
from humpback.stages.directory import Run


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_manifest_says_what_made_the_stage(tmp_path):
    cfg = config.Config()
    cfg.backward.lr = 0.25
    run = Run(config.finish(cfg), tmp_path)
    run.stage("seed", ("seed_pairs.limit",), module="").finish(counts={"train": 3})
    stage = run.stage("backward", ("backward.lr", "backward.remat", "seed"), ("seed",), module="")
    storage.publish(stage.path / "rows.jsonl", b"{}\n")
    stage.finish(counts={"examples": 2}, dropped={"too_long": 1}, files=["rows.jsonl"], tokens=40, step=4)
    read = {"backward.lr": 0.25, "seed": 0}
    assert json.loads((stage.path / "manifest.json").read_text()) == {
        "stage": "backward",
        "config": read,
        "contents": {},
        "upstream": {"config": {"seed_pairs.limit": 0}, "contents": {}},
        "code": [code.version("")],
        "config_sha256": sha256(json.dumps(read, sort_keys=True).encode()),
        "recorded": {"backward.remat": "found"},
        "inputs": {"seed": sha256((run.workdir / "seed" / "manifest.json").read_bytes())},
        "counts": {"examples": 2},
        "dropped": {"too_long": 1},
        "files": {"rows.jsonl": sha256(b"{}\n")},
        "step": 4,
    }


def test_the_times_are_those_of_all_attempts(tmp_path, monkeypatch, capsys):
    """The second begins after the first was killed, which had last said something after 30 s; the wait for the lock is no work."""
    now = [0.0]
    monkeypatch.setattr(directory.time, "monotonic", lambda: now[0])

    def attempt() -> directory.Stage:
        return Run(config.finish(config.Config()), tmp_path).stage("backward", (), module="")

    def waits(self) -> bool:
        now[0] += 1_000
        return take(self)

    first, take = attempt(), directory.Place.take
    for step, tokens, seconds in ((1, 5, 12.0), (2, 6, 18.0)):
        now[0] += seconds
        first.metrics({"step": step, "tokens": tokens})
    first.background.join()
    now[0] += 7  # and then it is killed
    monkeypatch.setattr(directory.Place, "take", waits)
    second = attempt()
    now[0] += 10
    second.finish(counts={"examples": 2}, tokens=80)
    timing = storage.read_json(tmp_path / "backward" / "timing.json")
    assert timing == {"seconds": 40.0, "attempts": 2, "tokens": 80, "tokens_per_second": 2.0, "devices": 8}
    assert capsys.readouterr().err.endswith("backward: 2 examples (10.0 s, 40.0 s in 2 attempts)\n")
