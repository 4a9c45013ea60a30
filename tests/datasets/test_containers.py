"""Files and folders of records that are no JSON lines, what is said of them, and what is wrong with them."""

import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from humpback.datasets import pair_files
from humpback.datasets.seed_pairs import list_files, read_pairs
from humpback.errors import UserError

CASES = Path(__file__).parents[1] / "cases" / "seeds"
ROWS = [{"instruction": f"Why {number}?", "response": "So.\nYes."} for number in range(3)]


def parquet(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def read(path: Path) -> tuple[list, list[str]]:
    said: list[str] = []
    return read_pairs(str(path), say=said.append).pairs, said


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("plain.jsonl", "recognised JSON lines: instruction/response (4)"),
        ("alpaca_array.json", "recognised JSON array: instruction/input/output (Alpaca) (4)"),
        ("dolly.jsonl", "recognised JSON lines: instruction/context/response (Dolly) (4)"),
        ("real.csv", "recognised CSV: instruction/response (4)"),
        ("plain.parquet", "recognised Parquet: instruction/response (4)"),
        ("saved_to_disk", "recognised Arrow: instruction/response (4)"),
        ("lima.jsonl", "recognised JSON lines: LIMA's conversations (4)"),
        ("sharegpt.jsonl", "recognised JSON lines: ShareGPT's conversations (4)"),
        ("lima_multi.jsonl", "recognised JSON lines: LIMA's conversations (1); 2 later turns are not read"),
        ("messages_system_multi.jsonl", "recognised JSON lines: messages (4); 8 later turns are not read; 4 system turns are not read"),
    ],
)
def test_what_was_recognised_is_said_in_one_line(name, line):
    assert [text for text in read(CASES / name)[1] if "recognised" in text] == [f"{CASES / name}: {line}"]


def test_every_kind_gives_the_same_pairs():
    names = ["plain.jsonl", "array.json", "real.csv", "plain.parquet", "saved_to_disk", "messages.jsonl", "sharegpt.jsonl", "lima.jsonl"]
    texts = {name: [(pair.instruction, pair.response) for pair in read(CASES / name)[0]] for name in names}
    assert all(found == texts["plain.jsonl"] for found in texts.values()) and len(texts["plain.jsonl"]) == 4


def test_a_folder_of_parquet_is_read_split_train_file_after_file(tmp_path):
    for number, row in enumerate(ROWS):
        parquet(tmp_path / "data" / f"train-{number:05d}-of-00003.parquet", [row])
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [{"instruction": "held", "response": "out"}])
    pairs, said = read(tmp_path)
    assert [pair.instruction for pair in pairs] == ["Why 0?", "Why 1?", "Why 2?"]
    assert [pair.source for pair in pairs] == [f"train-{number:05d}-of-00003.parquet:1" for number in range(3)]
    assert said[0] == f"{tmp_path}: only the split train is read, not test"
    assert [name for name, _ in list_files(str(tmp_path))] == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    parquet(tmp_path / "other" / "a.parquet", ROWS)
    parquet(tmp_path / "other" / "b.parquet", ROWS)
    with pytest.raises(UserError, match="its splits are a, b, and none of them is train"):
        read(tmp_path / "other")


@pytest.mark.parametrize(
    ("names", "read_"),
    [
        (["train-00000-of-00002-a09b74b3ef9c3b56.parquet", "train-00001-of-00002-b1.parquet", "test-00000-of-00001.parquet"], None),
        (["train-00000-of-00001-a09b74b3ef9c3b56.parquet", "test-00000-of-00001-a09b74b3ef9c3b56.parquet"], [0]),
        (["0000.parquet", "0001.parquet"], [0, 1]),
        (["part-00000.parquet", "part-00001.parquet"], [0, 1]),
        (["train.parquet", "validation.parquet"], [0]),
        (["train-00001-of-00002.parquet", "train-00002-of-00002.parquet"], [0, 1]),
        (["train-00000-of-00002.parquet"], None),
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], None),
    ],
)
def test_names_of_parquet_files(tmp_path, names, read_):
    """As the hub's converters and Spark give them; a number that is missing is told."""
    for number, name in enumerate(names):
        parquet(tmp_path / name, [{"instruction": f"Why {number}?", "response": "So."}])
    if read_ is None:
        with pytest.raises(UserError, match=r"of \d files of 'train' number 1 is missing; fetch the folder again"):
            read(tmp_path)
        return
    assert [pair.instruction for pair in read(tmp_path)[0]] == [f"Why {number}?" for number in read_]


def test_a_saved_dataset_of_several_files_and_splits(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        names = [f"data-{number:05d}-of-00002.arrow" for number in range(2)]
        for name in names:
            table = pyarrow.Table.from_pylist([{"question": f"{split} {name}?", "answer": "Yes."}])
            with pyarrow.ipc.new_stream(tmp_path / split / name, table.schema) as writer:
                writer.write_table(table)
        (tmp_path / split / "cache-1.arrow").write_bytes(b"of map")
        (tmp_path / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [pair.instruction for pair in read(tmp_path)[0]] == [f"train {name}?" for name in names]
    assert [name for name, _ in list_files(str(tmp_path / "test"))] == ["state.json", *names]
    (tmp_path / "train" / names[1]).unlink()
    with pytest.raises(UserError, match=f"{names[1]}: missing; the folder is not whole"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset_dict.json", [], "dataset_dict.json: not of a dataset saved with save_to_disk"),
        ("dataset_dict.json", {"splits": [3]}, "dataset_dict.json: not of a dataset saved with save_to_disk"),
        ("dataset_dict.json", {"splits": ["train"]}, "train: no saved dataset is there, which dataset_dict.json names"),
        ("dataset_dict.json", {"splits": ["a", "b"]}, "its splits are a, b, and none of them is train"),
        ("state.json", {"_data_files": "a"}, "state.json: not of a dataset saved with save_to_disk"),
        ("state.json", {"_data_files": [], "_indices_data_files": [{"filename": "i"}]}, "was saved with an index of its rows"),
        ("state.json", {"_data_files": [{"filename": "x.arrow"}]}, "x.arrow: missing; the folder is not whole"),
    ],
)
def test_a_saved_dataset_that_is_none(tmp_path, name, content, message):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "sources"),
    [
        ("a.csv", b'\xef\xbb\xbfinstruction,response\r\n"two\nlines, and ""more""",b\r\nc,d\r\n', ["a.csv:2", "a.csv:4"]),
        ("a.tsv", b"Source Text\tquestion\tanswer\nx\ta\tb\n", ["a.tsv:2"]),
        ("a.csv", b"prompt;completion\na,b;c\n", ["a.csv:2"]),
        ("table", b"prompt,response\na,b\n\nc\nd,\xe9\ne,f\n", ["table:2", "table:6"]),  # a line of one cell, and one not in UTF-8
    ],
)
def test_csv(tmp_path, name, content, sources):
    (tmp_path / name).write_bytes(content)
    pairs, said = read(tmp_path / name)
    assert [pair.source for pair in pairs] == sources
    if name == "table":
        told = ["dropped, 1 cells for the 2 columns prompt, response", "dropped, not UTF-8"]
        assert [text.partition(": ")[2] for text in said[:2]] == told


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"title,body\na,b\n", "its fields are"),
        ("a.csv", b'instruction,response\na,"b\n', "a.csv:2: not CSV"),
        ("a.csv", b"question,answer,question\na,b,c\n", "a.csv:1: several columns are named 'question'"),
        ("a.json", b'[{"instruction": "a",\n "response": "b"},\n', "a.json:3: not a whole JSON array"),
        ("a.json", b"[\xff]", "not a JSON array in UTF-8"),
        ("a.parquet", b"PAR1" + b"\0" * 60, "not a whole Parquet file"),
        ("a.arrow", b"\xff\xff\xff\xff" + b"\1" * 60, "not a whole Arrow file"),
        ("a.jsonl", b'{"question": "a", "answer": "b", "prompt": "a", "completion": "c"}\n', "a.jsonl:1: its prompt/completion and its"),
    ],
)  # fmt: skip
def test_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("plain.parquet", "saved_to_disk"):
        with pytest.raises(UserError, match=r"pyarrow, of the extra `corpus`.*\.\[corpus\]"):
            read(CASES / name)


def test_records_as_numbered_lines(tmp_path):
    file = parquet(tmp_path / "a.parquet", ROWS)
    lines = list(pair_files.numbered_records(file))
    assert [(where, json.loads(line)) for where, line in lines] == [(f"{file}:{number}", row) for number, row in enumerate(ROWS, 1)]
