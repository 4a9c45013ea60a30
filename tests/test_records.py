import hashlib
import json
import os
import re

import pytest

from humpback import records
from humpback.errors import UserError
from humpback.records import Candidate, Example, Rated, Segment

SEGMENT = Segment("00" * 8, "Text – with\nlines", "Header", ("Top", "Header"), "http://x/", "a/b.html", 0, 99)
CANDIDATE = Candidate(SEGMENT.id, SEGMENT, "Do it.", "", "m" * 8, 3)
RATED = Rated(SEGMENT.id, CANDIDATE, 4.5, (4.0, None, 5.0), ("Score: 4", "?", "Score: 5"), (), "", "n" * 8, 3)
EXAMPLE = Example(SEGMENT.id, "Do it.", SEGMENT.text, "augmented", "http://x/", RATED)


@pytest.mark.parametrize("record", [SEGMENT, CANDIDATE, RATED, EXAMPLE, Example("1" * 16, "i", "r", "seed", "f:1")])
def test_round_trip(record):
    assert records.from_json(type(record), records.to_json(record)) == record


def test_lines_of_before_are_read():
    spaced = json.dumps(json.loads(records.to_json(EXAMPLE)), ensure_ascii=False)
    assert '", "' in spaced and records.from_json(Example, spaced) == EXAMPLE


def test_half_of_a_surrogate_pair_is_no_text():
    record = Example("1" * 16, "half \ud800", "r", "seed", "")
    with pytest.raises(UnicodeEncodeError):
        records.to_json(record)
    assert records.from_json(Example, records.to_json(record, errors="replace")).instruction == "half ?"


def test_the_id_is_read_without_the_rest():
    assert records.id_of(b'{"id": "x", "text": {"nothing": [1]}}') == "x"
    for line, what in (('{"text": 1}', "missing required field `id`"), ('{"id": "x"', "truncated")):
        with pytest.raises(UserError, match=f"a:1: .*{what}"):
            records.id_of(line, "a:1")


def test_id_is_that_of_the_source_the_range_and_the_text():
    expected = hashlib.sha256(b"page.html\x000-10\x00text").hexdigest()[:16]
    assert records.record_id("page.html", 0, 10, "text") == expected
    others = [("page2.html", 0, 10, "text"), ("page.html", 1, 10, "text"), ("page.html", 0, 11, "text"), ("page.html", 0, 10, "Text")]
    assert len({expected, *(records.record_id(*other) for other in others)}) == 5


def test_history_of_an_example_leads_back_to_its_page():
    back = records.from_json(Example, records.to_json(EXAMPLE))
    assert (back.rated.texts[0], back.rated.model) == ("Score: 4", "n" * 8)
    assert (back.rated.candidate.model, back.rated.candidate.seed) == ("m" * 8, 3)
    segment = back.rated.candidate.segment
    assert (segment.url, segment.header, segment.start, segment.end) == ("http://x/", "Header", 0, 99)


def test_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS_PER_SHARD", 2)
    made = [Example(f"{i:016x}", "i", "r", "seed", "") for i in range(5)]
    files = records.write_shards(tmp_path, "seed", made, 5)
    assert files == [f"seed-0000{i}-of-00003.jsonl" for i in range(3)]
    assert list(records.read_shards(tmp_path, "seed", Example)) == made
    (tmp_path / files[1]).unlink()
    with pytest.raises(UserError, match="not complete"):
        list(records.read_shards(tmp_path, "seed", Example))


def test_no_records_are_one_empty_shard(tmp_path):
    assert records.write_shards(tmp_path, "x", [], 0) == ["x-00000-of-00001.jsonl"]
    assert list(records.read_shards(tmp_path, "x", Example)) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"id": ', "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"id": "x"}', "missing required field `instruction`"),
        ('{"id": 1, "instruction": "i", "response": "r", "kind": "seed", "source": ""}', "Expected `str`, got `int` - at `$.id`"),
        ('{"id": "x", "instruction": "i", "response": "r", "kind": "seed", "source": "", "extra": 1}', "unknown field `extra`"),
    ],
)
def test_a_malformed_line_names_file_line_and_field(tmp_path, line, what):
    path = tmp_path / "x-00000-of-00001.jsonl"
    path.write_bytes(records.to_json(EXAMPLE) + line.encode() + b"\n")
    with pytest.raises(UserError, match=f"x-00000-of-00001.jsonl:2: .*{re.escape(what)}"):
        list(records.read_shards(tmp_path, "x", Example))


def test_a_line_of_a_file_whose_name_is_no_utf8_has_a_place(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.jsonl")
    path.write_text("{}\n")
    [(where, _)] = records.numbered_lines(path)
    assert where == f"{tmp_path}/\\xff.jsonl:1" and records.to_json(Example(where, "i", "r", "seed", where))
