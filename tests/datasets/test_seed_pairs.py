"""Seed files to pairs: formats, ids, counts, and what is wrong with a line."""

import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from humpback.datasets.seed_pairs import read_pairs
from humpback.errors import UserError
from humpback.records import Example, record_id
from tests.datasets.test_oasst import TABLE

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
    pairs, counts, _ = read_pairs(str(tmp_path / "s.jsonl"))
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
    pairs, counts, unread = read_pairs(source)
    assert counts == {"kept": 3, "duplicate": 1, "single reply, no rank": 1} and len(pairs) == 3 and unread == {}
    pairs, counts, _ = read_pairs(source, "reviewed")
    assert counts == {"kept": 4, "duplicate": 1} and [p.response for p in pairs] == ["A.", "Because.", "A2.", "Another."]


def test_the_language_of_trees_is_chosen(tmp_path: Path) -> None:
    german = json.loads(json.dumps(TREE).replace('"en"', '"de"'))
    brazilian = json.loads(json.dumps(TREE).replace('"en"', '"pt-BR"').replace("Q?", "P?"))
    source = write(tmp_path / "s.jsonl", german, brazilian, TREE)
    for language, found in (("en", "Q?"), ("de", "Q?"), ("pt", "P?")):
        pairs, counts, _ = read_pairs(source, language=language)
        assert [pair.instruction for pair in pairs] == [found] and counts["prompt: other language"] == 2


@pytest.mark.parametrize("line, part", [
    (b"{", "not JSON"),
    (b'{"instruction": "a", "response": "b"},', "a comma follows the object"),
    (b"\xff", "not UTF-8"),
    (b"[]", "expected"),
    (b"17", "expected"),
    (b"[" * 100_000, "recursion|not JSON"),
    (b'{"instruction": "a", "response": "half \\ud83d"}', "half of a surrogate pair"),
    (b'{"instruction": "a", "response": "b", "response": "c"}', "the field 'response' is there twice"),
    ({"instruction": "a"}, "'response' is empty or missing"),
    ({"prompt": "a"}, "expected"),
])  # fmt: skip
def test_a_bad_line_is_dropped_counted_and_shown(tmp_path: Path, line: object, part: str) -> None:
    said: list[str] = []
    pairs, counts, _ = read_pairs(source := write(tmp_path / "s.jsonl", PLAIN, b"", line, {**PLAIN, "response": "2"}), say=said.append)
    assert counts == {"kept": 2, "bad line": 1} and [pair.source for pair in pairs] == ["s.jsonl:1", "s.jsonl:4"]
    assert len(said) == 2 and said[0].startswith(f"{source}:3: dropped, ") and re.search(part, said[0])
    with pytest.raises(UserError, match=f"s.jsonl:3: .*({part})"):
        read_pairs(source, strict=True)


def test_of_many_bad_lines_three_are_shown(tmp_path: Path) -> None:
    said: list[str] = []
    source = write(tmp_path / "s.jsonl", PLAIN, *[{"questions": "a"}] * 9)
    assert read_pairs(source, say=said.append).counts == {"kept": 1, "bad line": 9}
    assert len(said) == 5 and said[4] == f"{source}: 9 bad lines are dropped; --strict ends at the first"


def test_fields_that_are_not_read_are_counted_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    source = write(tmp_path / "s.jsonl", {**PLAIN, "category": "qa"}, {"instruction": "b", "output": "c", "category": "", "id": 1}, TREE)
    assert read_pairs(source, say=said.append).unread == {"category": 2, "id": 1}
    assert said[1:] == [f"{source}: fields that are not read: 'category' (2 records), 'id' (1 records)"]


def test_of_many_fields_that_are_not_read_twenty_are_named(tmp_path: Path) -> None:
    said: list[str] = []
    source = write(tmp_path / "s.jsonl", {**PLAIN, **{f"f{n:02}": n for n in range(23)}})
    assert len(read_pairs(source, say=said.append).unread) == 23
    assert said[1].endswith("'f19' (1 records) and 3 more") and "f20" not in said[1]


def test_fields_of_turns_that_are_not_read_are_counted(tmp_path: Path) -> None:
    """A turn's `weight` of 0 says that it is not to be learned, which is not heeded."""
    turns = [{"role": "user", "content": "Why?", "name": "bob"}, {"role": "assistant", "content": "Because.", "weight": 0}]
    source, said = write(tmp_path / "s.jsonl", {"messages": turns}, {"messages": [{**turn, "content": "a"} for turn in turns]}), []
    counts = read_pairs(source, say=said.append).unread
    assert counts == {"messages.name": 2, "messages.weight": 2}
    assert said[1] == f"{source}: fields that are not read: 'messages.name' (2 records), 'messages.weight' (2 records)"


def test_where_no_pair_is_left_the_reasons_are_shown(tmp_path: Path) -> None:
    source = write(tmp_path / "s.jsonl", *[ALONE] * 8, json.loads(json.dumps(TREE).replace('"en"', '"de"')), b"{")
    with pytest.raises(UserError) as told:
        read_pairs(source)
    assert str(told.value).startswith(
        f"{source}: no seed pair in it: 8 dropped: single reply, no rank (see seed_pairs.single_reply); "
        f"1 dropped: prompt: other language (see seed_pairs.language); 1 dropped: bad line ({source}:10: not JSON"
    )


def flat(tree: dict, number: int) -> list[dict]:
    """A tree as the export of messages has it, the replies in front of what they answer."""

    def messages(message: dict, parent: str | None, name: str) -> Iterator[dict]:
        for place, reply in enumerate(message.get("replies") or []):
            yield from messages(reply, name, f"{name}.{place}")
        yield {**message, "replies": None, "message_id": name, "parent_id": parent, "role": "assistant" if parent else "prompter"}

    return list(messages(tree["prompt"], None, str(number)))


def test_messages_of_open_assistants_give_what_their_trees_give(tmp_path: Path) -> None:
    trees = [json.loads(json.dumps(tree).replace("Question?", f"Question {n}?")) for n, (tree, _, _) in enumerate(TABLE)]
    nested = write(tmp_path / "trees.jsonl", *trees)
    messages = write(tmp_path / "messages.jsonl", *[message for n, tree in enumerate(trees) for message in flat(tree, n)], PLAIN)
    for reviewed in ("drop", "reviewed"):
        a, b = read_pairs(nested, reviewed), read_pairs(messages, reviewed)
        assert [pair[1:3] for pair in map(msgspec.structs.astuple, b.pairs)] == [
            ("Why?", "Because."), *[pair[1:3] for pair in map(msgspec.structs.astuple, a.pairs)]
        ]  # fmt: skip
        assert b.counts == a.counts | {"kept": a.counts["kept"] + 1} and len(a.counts) > 9
    assert json.loads(Path(messages).read_text().splitlines()[int(b.pairs[1].source.rpartition(":")[2]) - 1])["role"] == "prompter"


def test_what_is_left_out_is_told_with_its_place(tmp_path: Path) -> None:
    """Of a tree what its prompt asks; names of fields may have capitals there, too."""
    told: list[tuple[str, str, str]] = []
    german = {"Prompt": {"text": "Warum?", "lang": "de"}}
    read_pairs(write(tmp_path / "s.jsonl", PLAIN, german, PLAIN, [], b"{"), on_drop=lambda *what: told.append(what))
    assert [(reason, place.partition(": ")[0], text) for reason, place, text in told] == [
        ("prompt: other language", "s.jsonl:2", "Warum?"), ("duplicate", "s.jsonl:3", "Why?\n\nBecause."),
        ("bad line", "s.jsonl:4", "[]"), ("bad line", "s.jsonl:5", "{"),
    ]  # fmt: skip


def test_messages_that_make_no_tree_are_told(tmp_path: Path) -> None:
    lost = {"message_id": "b", "parent_id": "a", "text": "A.", "role": "assistant", "rank": 0, **GOOD}
    texts = {"message_id": "c", "parent_id": None, "text": "Q?", "role": "prompter", "lang": "en", "deleted": "False"}
    said: list[str] = []
    assert read_pairs(write(tmp_path / "s.jsonl", lost, texts, PLAIN), say=said.append).counts == {"kept": 1, "bad line": 2}
    assert "s.jsonl:2: dropped, 'deleted' is a text, 'False'; take the export as JSON lines or Parquet" in said[0]
    assert "s.jsonl:1: dropped, the message that it answers, 'a', is not there" in said[1]


# What becomes of each file of other people's forms: how many pairs and what else is counted, or what the error says.
FORMS: dict[str, dict[str, int] | str] = {
    "alpaca.jsonl": {"kept": 4},
    "alpaca_array.json": {"kept": 4},
    "alpaca_lora_input_response.jsonl": {"kept": 3},
    "array.json": {"kept": 4},
    "array_one_line.json": {"kept": 4},
    "bom.jsonl": {"kept": 4},
    "control.jsonl": {"kept": 4, "bad line": 1},
    "crlf.jsonl": {"kept": 4},
    "dolly.jsonl": {"kept": 4},
    "dups.jsonl": {"kept": 5, "duplicate": 8},
    "empty.jsonl": "it is empty",
    "empty_response.jsonl": {"kept": 4, "bad line": 1},
    "extra_fields.jsonl": {"kept": 4},
    "german.jsonl": {"kept": 3},
    "hh_rlhf.jsonl": "a pair of answers, one chosen and one rejected",
    "latin1.jsonl": {"kept": 3, "bad line": 1},
    "lima.jsonl": {"kept": 4},
    "lima_multi.jsonl": {"kept": 1},
    "long_instruction.jsonl": {"kept": 5},
    "long_response.jsonl": {"kept": 5},
    "messages.jsonl": {"kept": 4},
    "messages_system_multi.jsonl": {"kept": 4},
    "nan.jsonl": {"kept": 4, "bad line": 1},
    "nested_dict.jsonl": "is not a text",
    "no_newline_end.jsonl": {"kept": 4},
    "null_response.jsonl": {"kept": 4, "bad line": 1},
    "oasst_flat.messages.jsonl": {"kept": 1},
    "oasst_guanaco.jsonl": "one text with both turns in it",
    "only_blank.jsonl": "it is empty",
    "plain.jsonl": {"kept": 4},
    "plain.parquet": {"kept": 4},
    "prompt_completion.jsonl": {"kept": 4},
    "prompt_response.jsonl": {"kept": 4},
    "real.csv": {"kept": 4},
    "saved_to_disk": {"kept": 4},
    "saved_to_disk/data-00000-of-00001.arrow": {"kept": 4},
    "sharegpt.jsonl": {"kept": 4},
    "special_tokens.jsonl": {"kept": 3},
    "trailing_comma.jsonl": "a comma follows the object",
    "truncated.jsonl.gz": "not a whole gzip file",
    "truncated_last.jsonl": {"kept": 4, "bad line": 1},
    "u2028.jsonl": {"kept": 4},
    "utf16.jsonl": "text in UTF-16",
    "whitespace_dup.jsonl": {"kept": 3},
}
CASES = Path(__file__).parents[1] / "cases" / "seeds"


def test_every_case_stands_in_the_table() -> None:
    assert {path.name for path in CASES.iterdir()} == {name.split("/")[0] for name in FORMS}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    expected = FORMS[name]
    if isinstance(expected, dict):
        assert read_pairs(str(CASES / name)).counts == expected
        return
    with pytest.raises(UserError) as told:
        read_pairs(str(CASES / name))
    assert str(told.value).startswith(str(CASES / name)) and expected in str(told.value)


def test_a_byte_order_mark_is_said() -> None:
    said: list[str] = []
    read_pairs(str(CASES / "bom.jsonl"), say=said.append)
    assert said[:1] == [f"{CASES / 'bom.jsonl'}: begins with a byte order mark, which is passed over"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_pairs(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="no saved dataset; name a file"):
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
    pairs, counts, _ = read_pairs(str(path))
    assert len(pairs) == len({pair.id for pair in pairs}) == 94
    assert counts == {"kept": 94, "no reply of rank 0": 1, "prompt: synthetic": 5}
