"""The prepared dataset through Grain, for those who train with it: array_record files, shuffled, the same records as by tfds."""

import json
from pathlib import Path

import grain
import pytest
import tensorflow_datasets as tfds

from humpback.datasets.__main__ import main

PAIRS = [{"instruction": f"Question {i}? é", "response": f"Answer {i}.\n\nIn two parts."} for i in range(40)]


@pytest.fixture
def builder(tmp_path: Path) -> tfds.core.DatasetBuilder:
    """oasst_seed, prepared."""
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    assert main(["oasst_seed", f"--source={source}", f"--data_dir={tmp_path / 'data'}"]) == 0
    return tfds.builder("oasst_seed", data_dir=tmp_path / "data")


def text(record: dict[str, bytes]) -> tuple[str, ...]:
    return tuple(record[name].decode() for name in ("id", "instruction", "response", "source"))


def test_all_records_once_in_another_order_each_epoch(builder: tfds.core.DatasetBuilder) -> None:
    files = sorted(map(str, Path(builder.data_path).glob("*.array_record-*")))
    records = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files)).seed(7).shuffle()
    decoded = records.repeat(2).map(builder.info.features.deserialize_example_np).to_iter_dataset()
    found = [text(record) for record in decoded]
    expected = [text(record) for record in builder.as_data_source("train")]
    first, second = found[: len(PAIRS)], found[len(PAIRS) :]
    assert {pair[1:3] for pair in expected} == {(pair["instruction"], pair["response"]) for pair in PAIRS}
    assert sorted(first) == sorted(second) == sorted(expected) and len(set(expected)) == len(PAIRS)
    assert first != expected and second != first
