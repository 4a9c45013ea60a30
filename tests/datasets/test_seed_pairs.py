"""Seed files to pairs: formats, ids, counts, and what is wrong with a line."""

import gzip
import json
import os
from pathlib import Path

import pytest

from humpback.datasets.seed_pairs import read_pairs
from humpback.errors import UserError
from humpback.records import Example, record_id

GOOD = {"lang": "en", "synthetic": False, "deleted": False, "review_result": True}
TREE = {"prompt": {"text": "Q?", **GOOD, "replies": [{"text": "A.", "rank": 0, **GOOD}]}}
ALONE = {"prompt": {"text": "Q2?", **GOOD, "replies": [{"text": "A2.", "rank": None, **GOOD}]}}
PLAIN = {"instruction": "Why?", "response": " Because.\n"}


def write(path: Path, *lines: object) -> str:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines))
    return str(path)


def test_both_formats_with_ids_that_lead_back(tmp_path: Path) -> None:
    first, second = json.dumps(TREE).encode(), json.dumps(PLAIN).encode()
    (tmp_path / "s.jsonl").write_bytes(b"\xef\xbb\xbf" + first + b"\r\n\n" + second)
    pairs, counts = read_pairs(str(tmp_path / "s.jsonl"))
    start = 3 + len(first) + 2 + 1
    assert pairs == [
        Example(record_id("s.jsonl", 0, 3 + len(first), "Q?\0A."), "Q?", "A.", "seed", "s.jsonl:1"),
        Example(record_id("s.jsonl", start, start + len(second), "Why?\0Because."), "Why?", "Because.", "seed", "s.jsonl:3"),
    ]
    assert counts == {"kept": 2}


def test_gzip_gives_the_same_pairs_but_for_the_file_name(tmp_path: Path) -> None:
    plain = write(tmp_path / "s.jsonl", TREE, PLAIN)
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    a, b = read_pairs(plain)[0], read_pairs(plain + ".gz")[0]
    assert [(p.instruction, p.response) for p in a] == [(p.instruction, p.response) for p in b]
    assert [p.source for p in b] == ["s.jsonl.gz:1", "s.jsonl.gz:2"]


def test_counts(tmp_path: Path) -> None:
    source = write(tmp_path / "s.jsonl", TREE, PLAIN, TREE, ALONE, {**PLAIN, "response": "Another."})
    pairs, counts = read_pairs(source)
    assert counts == {"kept": 3, "duplicate": 1, "single reply, no rank": 1} and len(pairs) == 3
    pairs, counts = read_pairs(source, "reviewed")
    assert counts == {"kept": 4, "duplicate": 1} and [p.response for p in pairs] == ["A.", "Because.", "A2.", "Another."]


@pytest.mark.parametrize("line, part", [
    (b"{", "not JSON"),
    (b"\xff", "not UTF-8"),
    (b"[]", "expected an Open Assistant tree"),
    (b"17", "expected an Open Assistant tree"),
    (b"[" * 100_000, "no seed pair|not JSON"),
    ({"question": "a"}, "expected an Open Assistant tree"),
    ({"instruction": "a"}, "'response' is empty or missing"),
    ({"instruction": "a", "response": " "}, "'response' is empty or missing"),
    ({"instruction": "", "response": "a"}, "'instruction' is empty or missing"),
    ({"instruction": 1, "response": "a"}, "'instruction' is empty or missing"),
    ({"prompt": "a"}, "'prompt' is missing or not a message"),
    ({"message_id": "1", "text": "a"}, "take the one of trees"),
])  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: object, part: str) -> None:
    with pytest.raises(UserError, match=f"s.jsonl:3: .*({part})"):
        read_pairs(write(tmp_path / "s.jsonl", PLAIN, b"", line))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_pairs(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="no such file"):
        read_pairs(str(tmp_path))
    with pytest.raises(UserError, match="is empty"):
        read_pairs("")
    whole = gzip.compress(json.dumps(PLAIN).encode() * 100)
    for content in (whole[:-20], b"plain text", whole[:10] + b"\xff" * 60):
        (tmp_path / "s.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"s\.jsonl\.gz: not a whole gzip file"):
            read_pairs(str(tmp_path / "s.jsonl.gz"))


def test_the_real_export() -> None:
    folder = os.environ.get("HUMPBACK_TEST_DATA", "")
    path = Path(folder) / "oasst" / "en_100_tree.jsonl"
    if not folder or not path.exists():
        pytest.skip("HUMPBACK_TEST_DATA names no folder with oasst/en_100_tree.jsonl")
    pairs, counts = read_pairs(str(path))
    assert len(pairs) == len({pair.id for pair in pairs}) == 94
    assert counts == {"kept": 94, "no reply of rank 0": 1, "prompt: synthetic": 5}
