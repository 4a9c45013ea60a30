"""The dealing of seed pairs into training and held-out ones."""

import json
import pathlib
import random

import pytest

from humpback.config import Seed
from humpback.errors import UserError
from humpback.records import Example, read_shards
from humpback.stages.directory import read_manifest
from humpback.stages.seed import seed, split_seed


def example(key: str, instruction: str = "") -> Example:
    return Example(key, instruction or f"question {key}", f"answer {key}", "seed", "s")


def ids(examples: list[Example]) -> str:
    return "".join(e.id for e in examples)


TEN = [example(key) for key in "0123456789"]
ORDER, OTHERS = "2950418376", "bac"  # by the hash of the texts
TABLE = [
    (Seed(), ORDER, ""),
    (Seed(held_out=3), ORDER[3:], ORDER[:3]),
    (Seed(held_out=3, limit=4), ORDER[3:7], ORDER[:3]),
    (Seed(limit=2), ORDER[:2], ""),
    (Seed(limit=99), ORDER, ""),
    (Seed(held_out=2, held_out_source="x"), ORDER, OTHERS[:2]),
    (Seed(held_out_source="x", limit=1), ORDER[:1], OTHERS),
]


@pytest.mark.parametrize("cfg, train, held_out", TABLE)
def test_dealt_by_content_whatever_the_order_and_the_ids(cfg: Seed, train: str, held_out: str) -> None:
    others = [example(key) for key in "cab"]
    for shuffle in range(3):
        shuffled = random.Random(shuffle).sample(TEN, 10)
        found = split_seed(shuffled, others if cfg.held_out_source else [], cfg)
        assert (ids(found[0]), ids(found[1])) == (train, held_out)
        assert found[2]["train"] == len(train) and found[2]["held_out"] == len(held_out)


def test_no_held_out_instruction_is_trained_on() -> None:
    pairs = [example("0", "Why is  the sky blue?"), example("1", "why is the sky BLUE"), example("2"), example("3"), example("4")]
    train, held_out, counts = split_seed(pairs, [], Seed(held_out=2, limit=1))
    assert (ids(train), ids(held_out)) == ("4", "20")
    assert counts == {"held_out": 2, "instruction_held_out": 1, "over_limit": 1, "train": 1}
    train, held_out, _ = split_seed(pairs, [example("x", "Question 3!")], Seed(held_out_source="f"))
    assert (ids(train), ids(held_out)) == ("2014", "x")


@pytest.mark.parametrize("count, cfg, part", [
    (0, Seed(source="s.jsonl"), "none is left to train on"),
    (3, Seed(source="s.jsonl", held_out=3), "none is left to train on"),
    (3, Seed(source="s.jsonl", held_out=4), "seed_pairs.held_out: 4 pairs cannot be held out of the 3 of s.jsonl"),
    (3, Seed(source="s.jsonl", held_out_source="h.jsonl"), "of the 0 of h.jsonl"),
])  # fmt: skip
def test_too_few_pairs(count: int, cfg: Seed, part: str) -> None:
    with pytest.raises(UserError, match=part):
        split_seed(TEN[:count], [], cfg)


def test_what_is_in_the_dev_set_does_not_train() -> None:
    dev = [example("z", "Question, 4!")]
    found = split_seed(TEN, [], Seed(held_out=3), dev)
    assert (ids(found[0]), ids(found[1])) == ("018376", "295") and found[2]["instruction_held_out"] == 1


def test_the_sets_are_there_and_none_of_their_instructions_trains(make_run, tmp_path) -> None:
    row = '{"instruction": "%s", "response": "It is so."}\n'
    (tmp_path / "pairs.jsonl").write_text("".join(row % text for text in ("Why?", "How?", "When?", "Where to?")))
    (tmp_path / "faq.jsonl").write_text(row % "HOW" + row % "Who?")
    (tmp_path / "web.jsonl").write_text(row % "when")
    sets = f"faq={tmp_path / 'faq.jsonl'}, web={tmp_path / 'web.jsonl'}"
    run = make_run(seed_pairs__source=str(tmp_path / "pairs.jsonl"), seed_pairs__held_out=1, evaluation__sets=sets)
    seed(run)
    folder = run.workdir / "seed"
    train, kept, *named = (
        {pair.instruction for pair in read_shards(folder, name, Example)} for name in ("seed", "held_out", "set-faq", "set-web")
    )
    assert named == [{"HOW", "Who?"}, {"when"}]
    assert train | kept <= {"Why?", "How?", "When?", "Where to?"} and not train & {"How?", "When?"} and len(kept) == 1
    manifest = read_manifest(run.workdir, "seed")
    assert (manifest["counts"]["set-faq"], manifest["counts"]["set-web"]) == (2, 1)
    assert manifest["contents"]["evaluation.sets"]["files"] == 2
    (tmp_path / "web.jsonl").write_text(row % "whenever")
    with pytest.raises(UserError, match=r"seed: was made with evaluation.sets = .* \(web/web.jsonl has changed\)"):
        seed(make_run(seed_pairs__source=str(tmp_path / "pairs.jsonl"), seed_pairs__held_out=1, evaluation__sets=sets))


def test_pairs_that_evaluation_prompts_hold_do_not_train(make_run, tmp_path) -> None:
    """The prompt itself, however short; a longer one by thirteen words in a row, in the instruction or in the response."""
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    pairs = [("Why?", "So."), ("Say it", f"It is {words}, that is it."), (f"Go on: {words}", "No."), ("Why so?", "So."), ("Why", "Yes.")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({"instruction": x, "response": y}) + "\n" for x, y in pairs))
    (tmp_path / "prompts.txt").write_text(f"why?\n{words}\n")
    run = make_run(
        seed_pairs__source=str(tmp_path / "pairs.jsonl"), seed_pairs__held_out=0, seed_pairs__contamination=str(tmp_path / "prompts.txt")
    )
    seed(run)
    assert [pair.instruction for pair in read_shards(run.workdir / "seed", "seed", Example)] == ["Why so?"]
    assert read_manifest(run.workdir, "seed")["dropped"]["contamination"] == 4


def test_neither_the_files_name_nor_the_place_of_a_line_decides(make_run, inputs, tmp_path) -> None:
    source = next(flag.partition("=")[2] for flag in inputs if "seed_pairs.source" in flag)
    lines = pathlib.Path(source).read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("\n" + "".join(random.Random(0).sample(lines, len(lines))))
    found = []
    for number, path in enumerate((source, tmp_path / "other.jsonl")):
        run = make_run(tmp_path / str(number), seed_pairs__source=str(path))
        seed(run)
        sets = (read_shards(run.workdir / "seed", name, Example) for name in ("seed", "held_out"))
        found.append([{(example.instruction, example.response) for example in examples} for examples in sets])
    assert found[0] == found[1] and [len(pairs) for pairs in found[0]] == [16, 4]


def test_what_is_dropped_or_not_read_stands_in_the_manifest_and_on_the_screen(make_run, tmp_path, capsys) -> None:
    rows = [json.dumps({"instruction": f"{i}?", "response": "So.", "category": "qa"}) for i in (1, 2, 3, 3)]
    (tmp_path / "pairs.jsonl").write_text("\n".join([*rows, "{"]))
    (tmp_path / "held_out.jsonl").write_text("\n".join([rows[0], rows[0], "{"]))
    where = {"seed_pairs__source": str(tmp_path / "pairs.jsonl"), "seed_pairs__held_out_source": str(tmp_path / "held_out.jsonl")}
    with pytest.raises(UserError, match=r"pairs\.jsonl:5: not JSON"):
        seed(make_run(tmp_path / "strict", **where), strict=True)
    run = make_run(**where, seed_pairs__held_out=0)
    seed(run)
    manifest = read_manifest(run.workdir, "seed")
    assert manifest["counts"] == {"read": 3, "held_out": 1, "train": 2} and manifest["unread_fields"] == {"category": 4}
    assert {reason: count for reason, count in manifest["dropped"].items() if count} == {
        "bad line": 1, "duplicate": 1, "held_out: bad line": 1, "held_out: duplicate": 1, "instruction_held_out": 1
    }  # fmt: skip
    told = capsys.readouterr().err
    assert f"seed: {tmp_path}/pairs.jsonl:5: dropped, not JSON" in told and "fields that are not read: 'category' (4 records)" in told
    assert "seed: 3 read, 1 held_out, 2 train; dropped: 1 bad line, 1 duplicate, " in told


def test_samples_of_what_is_left_out_say_where_it_stood(make_run, tmp_path) -> None:
    """By reason, of sets that measure as well; without a folder of this machine, and whatever the bytes are."""
    row = '{"instruction": "%s", "response": "It is so."}\n'
    bad = b'{"instruction": "cut o\n\xff\xfe?\n{"instruction": "half \\ud83d", "response": "b"}\n{"title": "x", "body": ["y"]}\n'
    tree = {"prompt": {"text": "Warum?", "lang": "de", "replies": []}}
    good = "".join(row % text for text in ("Why?", "Why?", "How?", "When?", "Where to?", "Who?"))
    (tmp_path / "pairs.jsonl").write_bytes(good.encode() + bad + json.dumps(tree).encode() + b"\n")
    (tmp_path / "faq.jsonl").write_text(row % "HOW" + "[]\n")
    (tmp_path / "asked.txt").write_text("Who?\n")
    run = make_run(
        seed_pairs__source=str(tmp_path / "pairs.jsonl"), seed_pairs__limit=2, seed_pairs__held_out=0,
        seed_pairs__contamination=str(tmp_path / "asked.txt"), evaluation__sets=f"faq={tmp_path / 'faq.jsonl'}",
    )  # fmt: skip
    seed(run)
    manifest, text = read_manifest(run.workdir, "seed"), (run.workdir / "seed" / "samples.json").read_text()
    samples = json.loads(text)
    assert str(tmp_path) not in text and "samples.json" in manifest["files"]
    assert {reason: len(rows) for reason, rows in samples.items()} == {name: n for name, n in manifest["dropped"].items() if n}
    shown = {reason: [(row["header"].partition(":")[2].partition(" ")[0], row["text"]) for row in rows] for reason, rows in samples.items()}
    assert sorted(shown["bad line"]) == [
        ("10:", '{"title": "x", "body": ["y"]}'), ("7:", '{"instruction": "cut o'), ("8:", "��?"),
        ("9:", '{"instruction": "half ?", "response": "b"}'),
    ]  # fmt: skip
    assert shown["duplicate"] == [("2", "Why?\n\nIt is so.")] and shown["prompt: other language"] == [("11", "Warum?")]
    assert shown["contamination"] == [("6", "Who?\n\nIt is so.")] and shown["instruction_held_out"] == [("3", "How?\n\nIt is so.")]
    assert [len(shown[reason]) for reason in ("over_limit", "set-faq: bad line")] == [1, 1]
