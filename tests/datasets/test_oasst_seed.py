"""The tfds dataset end to end: prepared as array_record by the command, read back as a seed source, without TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from humpback.datasets.__main__ import main
from humpback.datasets.seed_pairs import read_pairs
from humpback.errors import UserError

PAIRS = [{"instruction": f"Question {i}? é", "response": f"Answer {i}.\n\nIn two parts."} for i in range(20)]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in [*PAIRS, PAIRS[0]]))
    return str(path)


def test_prepare_and_read_back(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data_dir = tmp_path / "data"
    assert main(["oasst_seed", f"--source={source}", f"--data_dir={data_dir}"]) == 0
    assert "20  kept" in capsys.readouterr().out
    assert list((data_dir / "oasst_seed" / "1.0.0").glob("oasst_seed-train.array_record-*"))
    expected = sorted(read_pairs(source)[0], key=lambda pair: pair.id)
    pairs, counts, _ = read_pairs(f"tfds:oasst_seed:train?data_dir={data_dir}")
    assert sorted(pairs, key=lambda pair: pair.id) == expected and counts == {"kept": 20}
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert read_pairs("tfds:oasst_seed")[0] == read_pairs("tfds:oasst_seed:train")[0] == pairs
    assert len(read_pairs("tfds:oasst_seed:train[:5]")[0]) == 5


def test_mistakes_are_told(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    for name, part in (("oasst_seed", "no prepared dataset"), ("no_such_set", "cannot be read"), ("", "expected tfds:NAME"),
                       ("oasst_seed?folder=x", "expected tfds:NAME")):  # fmt: skip
        with pytest.raises(UserError, match=part):
            read_pairs(f"tfds:{name}")
    assert main(["oasst_seed", f"--source={source}"]) == 0
    with pytest.raises(UserError, match="test"):
        read_pairs("tfds:oasst_seed:test")
    assert main(["oasst_seed", f"--source={source}"]) == 2
    assert "already prepared" in capsys.readouterr().err
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    assert main(["oasst_seed", f"--source={bad}", f"--data_dir={tmp_path / 'other'}"]) == 2
    assert f"{bad}: no seed pair in it: 1 dropped: bad line ({bad}:1: expected" in capsys.readouterr().err
    bad.write_text('{}\n{"instruction": "a", "response": "b"}\n')
    assert main(["oasst_seed", f"--source={bad}", f"--data_dir={tmp_path / 'other'}", "--strict"]) == 2
    assert f"{bad}:1: expected" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_as_a_module_without_tensorflow(tmp_path: Path, source: str) -> None:
    code = (
        "import sys\nfrom humpback.datasets.__main__ import main\n"
        f"assert main(['oasst_seed', '--source={source}', '--data_dir={tmp_path / 'data'}']) == 0\n"
        "from humpback.datasets.seed_pairs import read_pairs\n"
        f"print(len(read_pairs('tfds:oasst_seed:train?data_dir={tmp_path / 'data'}')[0]), 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "20 False"
    command = [sys.executable, "-m", "humpback.datasets", "oasst_seed", "--sauce=x"]
    unknown = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert unknown.returncode == 2 and "Traceback" not in unknown.stderr
