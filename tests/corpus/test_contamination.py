"""Which texts share words with an evaluation prompt: literal cases, every form of a prompt file, and mistakes in them."""

import json
from pathlib import Path

import pytest

from humpback.corpus.contamination import REASON, Contamination
from humpback.errors import UserError

LONG = "Explain to a curious child of nine years why the sea looks blue although water in a glass does not."  # 20 words
SHORT = "Which whales sing and who listens to them?"  # 8 words


def words(text: str, start: int, end: int) -> str:
    return " ".join(text.split()[start:end])


@pytest.fixture
def found(tmp_path: Path) -> Contamination:
    path = tmp_path / "prompts.txt"
    path.write_text(f"{LONG}\n\n{SHORT}\nHow old is the universe?\n")
    return Contamination(str(path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LONG, REASON),
        (f"Before it. {words(LONG, 0, 13)} and after it.", REASON),
        (f"Before it. {words(LONG, 7, 20)} And after it.", REASON),
        (f"Before it. {words(LONG, 0, 12)} and after it.", ""),  # twelve words in a row
        (f"{words(LONG, 0, 12)} and {words(LONG, 12, 20)}", ""),
        ("EXPLAIN, to a curious\nchild — of nine (years) why: the *sea* looks blue!", REASON),  # case and punctuation do not count
        (f"So: {SHORT.lower()} Nobody.", REASON),
        (words(SHORT, 0, 7), ""),
        ("which whales sing and who listens to us", ""),
        ("How old is the universe?", ""),  # too short to tell
        ("", ""),
        ("Something else.", ""),
    ],
)
def test_the_rule(found: Contamination, text: str, reason: str) -> None:
    assert found.reason(text) == reason


def test_what_was_read_is_counted(found: Contamination) -> None:
    assert (found.prompts, found.whole, found.ignored) == (3, 1, 1)
    assert str(found) == (
        "3 evaluation prompts: 1 by each 13 words in a row, 1 shorter ones as a whole, 1 of fewer than 8 words not at all"
    )


def test_no_files() -> None:
    assert Contamination("").reason(LONG) == "" and Contamination("").prompts == 0


def test_another_length(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text(f"{LONG}\none two three four\n")
    found = Contamination(str(path), ngram=5)
    assert found.reason(words(LONG, 3, 8)) == REASON and found.reason(words(LONG, 3, 7)) == "" and found.ignored == 1
    assert Contamination(str(path), ngram=3).reason("zero one two three") == REASON


@pytest.mark.parametrize(
    "value",
    [
        LONG,
        {"id": 1, "instruction": LONG, "output": "x"},
        {"prompt": LONG},
        {"prompt": {"text": LONG, "replies": []}},
        {"question": LONG},
        {"text": LONG},
        {"turns": ["Hello.", LONG]},
        {"conversations": ["Hello.", LONG]},
        {"conversations": [{"from": "human", "value": LONG}]},
        {"prompt": [{"role": "user", "content": LONG}]},
    ],
)
def test_forms(tmp_path: Path, value: object) -> None:
    (tmp_path / "a.jsonl").write_text(f"\n{json.dumps(value)}\n")
    (tmp_path / "a.json").write_text(json.dumps(["Hello.", value]))
    for name in ("a.jsonl", "a.json"):
        assert Contamination(str(tmp_path / name)).reason(LONG) == REASON


def test_several_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LONG)
    (tmp_path / "b.jsonl").write_text(json.dumps(SHORT))
    found = Contamination(f"{tmp_path}/a.txt, {tmp_path}/b.jsonl")
    assert found.reason(LONG) == found.reason(SHORT) == REASON and found.prompts == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": \n', r"a\.jsonl:2: not JSON .* another suffix"),
        ("a.jsonl", b'{"answer": "x"}\n', r"a\.jsonl:1: no prompt in \{'answer': 'x'\}; expected a string or an object with one of"),
        ("a.jsonl", b"7\n", r"a\.jsonl:1: no prompt in 7"),
        ("a.json", b'[{"prompt": "x"}, {}]', r"a\.json: entry 1: no prompt"),
        ("a.json", b"{}", r"a\.json: expected a list"),
        ("a.json", b"[", r"a\.json: not JSON"),
        ("a.txt", b"one\n\xff\xfe\n", r"a\.txt:2: not UTF-8"),
        ("a.txt", b"\n \n", r"a\.txt: there is no prompt"),
        ("a.jsonl", b"", r"a\.jsonl: there is no prompt"),
        ("", b"", "no such file"),
        ("folder", None, "no such file"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is None:
        (tmp_path / name).mkdir()
    elif name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        Contamination(str(tmp_path / (name or "nothing.txt")))


def test_real_prompts(test_data: Path) -> None:
    paths = sorted((test_data / "prompts").glob("*.jsonl"))
    found = Contamination(",".join(map(str, paths)))
    assert found.prompts == 250 + 2 * 80 + 80  # Open Assistant's, MT-bench's turns, Vicuna-bench's
    for line in paths[1].read_text().splitlines():
        if len(json.loads(line).split()) > 20:
            assert found.reason(f"A page. {json.loads(line)} It goes on.") == REASON
    assert found.reason(Path(__file__).parents[2].joinpath("README.md").read_text()) == ""
