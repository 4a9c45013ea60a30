"""What a finished stage leaves: of what it was made, what became of it, and the sums of its files."""

import hashlib
import json

from humpback import config, storage
from humpback.stages import code
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
        "recorded": {"backward.remat": "none"},
        "inputs": {"seed": sha256((run.workdir / "seed" / "manifest.json").read_bytes())},
        "counts": {"examples": 2},
        "dropped": {"too_long": 1},
        "files": {"rows.jsonl": sha256(b"{}\n")},
        "step": 4,
    }
