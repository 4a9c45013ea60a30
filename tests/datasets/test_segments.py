"""The tfds dataset end to end: the output of `humpback segment` as array_record, by the command, without TensorFlow, and read back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from msgspec import structs

import humpback.datasets.segments  # registers the builder
from humpback import config, records
from humpback.datasets.__main__ import main
from humpback.records import Segment
from humpback.stages.directory import Run
from humpback.stages.segment import segment

COUNT, SHARD = 25, 10
YIELD = {
    "pages": 9,
    "segments_kept": COUNT + 7,  # before the limit
    "dropped": {"too short": 1_234, "language": 5},
    "warnings": {},
    "sources": {"a.warc.gz": {"pages": 9, "segments_kept": COUNT + 7, "dropped": {}}},
}
MANIFEST = {"stage": "out", "counts": {"segments": COUNT, "over_limit": 7}, "config": {"segments.min_chars": 600}}


def made(number: int) -> Segment:
    text = f"Text {number}: é\n\n- one\n- two\n\n\U0001f40b" if number else "\x00"
    path, start = ("Top",) * (number % 3), 2**40
    confidence = 0.5 + number  # as float32 holds it
    return Segment(f"{number:016x}", text, "Header", path, "http://a/b", "a.warc.gz", start, start + number, "en", confidence)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(records, "RECORDS_PER_SHARD", SHARD)
    folder = tmp_path / "out"
    records.write_shards(folder, "segments", map(made, range(COUNT)), COUNT)
    (folder / "yield.json").write_text(json.dumps(YIELD))
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return folder


def record(row: dict) -> Segment:
    """A row as the record it was made from."""
    values = {name: value.decode() if isinstance(value, bytes) else value for name, value in row.items()}
    path = tuple(header.decode() for header in row["header_path"])
    number = {name: int(values[name]) for name in ("start", "end")}
    return Segment(**{**values, **number, "header_path": path, "confidence": float(values["confidence"])})


def test_prepare_and_read_back(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_dir = tmp_path / "data"
    assert main(["segments", f"--source={source}", f"--data_dir={data_dir}"]) == 0
    printed = capsys.readouterr().out
    assert "25  segments of 9 pages" in printed and "1,234  dropped: too short" in printed and f"data_dir='{data_dir}'" in printed
    data = tfds.data_source("segments", split="train", data_dir=data_dir)
    assert [record(row) for row in data] == [made(number) for number in range(COUNT)]
    assert set(Segment.__struct_fields__) == set(data[3])
    info = tfds.builder("segments", data_dir=data_dir).info
    assert info.splits["train"].num_examples == COUNT and list(info.splits) == ["train"]
    totals = {name: value for name, value in YIELD.items() if name != "sources"}
    assert info.metadata == {"segments": COUNT, "yield": totals, "config": MANIFEST["config"]}
    assert str(info.version) == "1.0.0" and "Backtranslation" in info.citation and info.features["start"].np_dtype == np.int64
    assert len(list((data_dir / "segments" / "1.0.0").glob("segments-train.array_record-*-of-00003"))) == 3
    assert len(tfds.data_source("segments", split="train[:40%]", data_dir=data_dir)) == 10


def test_what_the_segment_stage_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = config.Config()
    cfg.segments.input, cfg.segments.limit = str(Path(humpback.__file__).parent / "demo" / "pages"), 20
    run = Run(config.finish(cfg), tmp_path)
    segment(run)
    assert main(["segments", f"--source={tmp_path / 'segments'}", f"--data_dir={tmp_path / 'data'}"]) == 0
    assert "20  segments of 48 pages" in capsys.readouterr().out
    expected = list(records.read_shards(tmp_path / "segments", "segments", Segment))
    found = [record(row) for row in tfds.data_source("segments", split="train", data_dir=tmp_path / "data")]
    assert [structs.replace(one, confidence=0.0) for one in found] == [structs.replace(one, confidence=0.0) for one in expected]
    assert all(abs(a.confidence - b.confidence) < 1e-6 for a, b in zip(found, expected))


def test_grain_reads_it(tmp_path: Path, source: Path) -> None:
    assert main(["segments", f"--source={source}", f"--data_dir={tmp_path / 'data'}"]) == 0
    builder = tfds.builder("segments", data_dir=tmp_path / "data")
    files = sorted(map(str, Path(builder.data_path).glob("*.array_record-*")))
    shuffled = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files)).seed(3).shuffle()
    found = [record(row) for row in shuffled.map(builder.info.features.deserialize_example_np)]
    expected = [made(number) for number in range(COUNT)]
    assert found != expected and sorted(found, key=lambda s: s.id) == expected


def test_mistakes_are_told_and_leave_nothing(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(message: str, folder: Path = source) -> None:
        assert main(["segments", f"--source={folder}", f"--data_dir={tmp_path / 'data'}"]) == 2
        assert message in capsys.readouterr().err
        assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]

    fails("manifest.json: no such file", tmp_path)
    (source / "manifest.json").write_text(json.dumps({**MANIFEST, "counts": {"segments": 24}}))
    fails("manifest.json counts 24 segments, the files have 25")
    (source / "manifest.json").write_text(json.dumps({**MANIFEST, "counts": {"kept": 24}}))
    fails("is not what `humpback segment` makes")
    (source / "manifest.json").write_text("[]")
    fails("is not what `humpback segment` makes")
    (source / "manifest.json").write_text(json.dumps(MANIFEST))
    shard = source / "segments-00001-of-00003.jsonl"
    lines = shard.read_text().splitlines()
    shard.write_text("\n".join([*lines[:4], '{"id": 3}', *lines[5:], ""]))
    fails("segments-00001-of-00003.jsonl:5: not a Segment record")
    shard.unlink()
    fails("shards of 'segments' are not complete")


def test_a_prepared_one_is_not_written_again(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["segments", f"--source={source}", f"--data_dir={tmp_path / 'data'}"]
    assert main(command) == 0 and main(command) == 2
    assert "already prepared" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--single_reply=drop"])


def test_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(humpback.errors.UserError, match=r"not prepared here; run python -m humpback\.datasets segments"):
        tfds.builder("segments", data_dir=tmp_path).download_and_prepare()


def test_as_a_module_without_tensorflow(tmp_path: Path, source: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', 'segments', '--source={source}', '--data_dir={tmp_path / 'data'}']\n"
        "try:\n    runpy.run_module('humpback.datasets', run_name='__main__')\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('tensorflow' in sys.modules)\n"
    )
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "elsewhere")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False" and (tmp_path / "data" / "segments").is_dir()
