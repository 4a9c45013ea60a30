"""`humpback generate`: what it takes, what it refuses, and what a line of its output says. Several processes: tests/decoding."""

import json
import math
import subprocess

import numpy as np
import pytest

from humpback import prompts
from humpback.commands import generate
from humpback.decoding import answers
from humpback.decoding.engine import Result
from humpback.decoding.offline import Inputs, Unservable
from humpback.errors import UserError
from humpback.models import folders
from tests import tiny
from tests.convert import conftest as gguf_files

TOKENIZER = tiny.make_tokenizer()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "one of 'prompt', 'instruction', 'messages', 'ids'"),
        ("{}", "one of"),
        ('{"prompt": "a", "ids": [1]}', "one of"),
        ('{"prompt": "a", "instruction": "a"}', "one of"),
        ('{"instruction": 3}', '"instruction" must be a text, not 3'),
        ('{"instruction": "a", "input": [1]}', "'input' is not a text"),
        ('{"messages": "a"}', '"messages" must be a list'),
        ('{"messages": [{"role": "user"}]}', '"messages" must be a list'),
        ('{"messages": []}', "must be user, assistant, … and end with user, not none"),
        ('{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}]}', "not system, user"),
        ('{"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "a"}]}', "no assistant's turn follows"),
        ('{"prompt": 3}', '"prompt" must be a text, not 3'),
        ('{"ids": [1, true]}', '"ids" must be a list of whole numbers'),
        ('{"ids": "12"}', '"ids" must be a list of whole numbers'),
        ('{"prompt": "a", "id": 7.5}', '"id" must be a whole number, or a text in valid Unicode that is not empty, not 7.5'),
        ('{"prompt": "a", "id": true}', '"id" must be'),
        ('{"prompt": "a", "id": ""}', '"id" must be'),
        ('{"prompt": "a", "id": "\\ud800"}', '"id" must be'),
    ],
)
def test_a_bad_line_is_named_with_its_place(line, message):
    with pytest.raises(UserError, match=f"in.jsonl:7: .*{message}"):
        generate.parse(line, "in.jsonl:7")


def test_ids_that_are_missing_come_from_line_and_content():
    one, same, line, text, tokens = (
        generate.parse(json.dumps(row), where).id
        for row, where in [
            ({"prompt": "a"}, "x/in.jsonl:1"), ({"prompt": "a", "more": 1}, "y:1"), ({"prompt": "a"}, "y:2"), ({"prompt": "b"}, "y:1"),
            ({"ids": [1]}, "y:1"),
        ]
    )  # fmt: skip
    assert one == same and len({one, line, text, tokens}) == 4 and len(one) == 16
    assert generate.parse('{"prompt": "a", "id": "mine"}', "x:1").id == "mine"
    assert generate.parse('{"prompt": "a", "id": 7}', "x:1").id == "7"


def test_every_form_of_a_line_asks_the_same():
    user, assistant = ({"role": role, "content": text} for role, text in (("user", "Why?"), ("assistant", "So.")))
    lines = [{"prompt": "Why?"}, {"instruction": "Why?"}, {"messages": [user]}]
    encoded = [writer().encode(generate.parse(json.dumps(line), "x:1")).tolist() for line in lines]
    assert encoded[0] == encoded[1] == encoded[2]
    joined = generate.parse('{"instruction": "Who?", "input": "It was she.", "output": "old"}', "x:1")
    assert joined.instruction == "Who?\n\nIt was she."
    several = writer().encode(generate.parse(json.dumps({"messages": [user, assistant, user]}), "x:1")).tolist()
    between = [*TOKENIZER.encode("So."), TOKENIZER.eos_id, *TOKENIZER.encode("\n")]
    assert several == encoded[0] + between + encoded[0]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Why?"}, {"question": "Why?", "answer": "So."}, {"conversations": ["Why?", "So."]},
        {"messages": [{"role": "system", "content": "Be"}, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]},
        {"instruction": "Why?", "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]},
        {"prompt": {"text": "Why?", "lang": "en", "replies": [{"text": "So.", "lang": "en", "rank": 0}]}},
        {"prompt": {"text": "Why?", "lang": "de", "synthetic": True, "replies": []}},
        {"Question": "Why?", "Answer": "So."}, {"messages": [{"Role": "Human", "content": "Why?"}, {"role": "GPT", "content": "So."}]},
    ],
)  # fmt: skip
def test_of_a_pair_what_it_asks_is_the_prompt(row):
    asked = generate.parse(json.dumps({**row, "id": 3}), "x:1")
    assert (asked.id, asked.instruction, asked.prompt, asked.messages) == ("3", "Why?", None, None)


def writer(direction="forward", template=prompts.forward_prompt, stops=()):
    return answers.Writer(folders.Model(folders.ModelInfo(tiny.CONFIG, direction, "chatml"), {}, TOKENIZER), template, stops)


def test_a_wrapped_prompt_is_that_of_inference_and_a_bare_one_is_itself():
    asked = answers.PromptLine("1", "Why? <|im_end|>", None)
    content = f"Why? <|im_end|> {prompts.SEED_TAG} {prompts.WEB_TAG}"
    prefix, suffix = prompts.WRAPPERS["chatml"]
    assert writer().encode(asked).tolist() == TOKENIZER.encode_wrapped(prefix, content, suffix)
    bare = writer(template=None).encode(asked).tolist()
    assert bare == TOKENIZER.encode("Why? <|im_end|>") and TOKENIZER.eos_id not in bare


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (answers.PromptLine("1", " \n", None), "empty"),
        (answers.PromptLine("1", "a \ud83d", None), "half of a surrogate pair"),
        (answers.PromptLine("1", None, None, messages=(answers.Message("user", "\udc00"),)), "half of a surrogate pair"),
        (answers.PromptLine("1", None, (1, 512)), "ids outside the vocabulary"),
        (answers.PromptLine("1", None, (-1,)), "ids outside the vocabulary"),
    ],
)
def test_what_cannot_be_served(asked, reason):
    with pytest.raises(Unservable, match=reason):
        writer().encode(asked)


@pytest.mark.parametrize("template", [None, prompts.forward_prompt, prompts.backward_prompt])
def test_every_prompt_fits_into_the_room_that_is_made(tmp_path, template):
    """Texts of which every byte is a token, and ids."""
    info = folders.ModelInfo(tiny.CONFIG, "forward", "chatml")
    encode = answers.Writer(folders.Model(info, {}, TOKENIZER), template, ()).encode
    for row in ({"prompt": "漢字" * 40}, {"prompt": "\x07\x08" * 90}, {"prompt": "x"}, {"ids": [3] * 300}):
        (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
        inputs = Inputs([tmp_path / "in.jsonl"], generate.parse, any_id=True)
        room = generate.room_for(inputs, info, template, 8)
        (asked,) = (asked for _, _, asked in inputs)
        assert len(encode(asked)) + 8 <= room <= 1024 and room % 128 == 0


@pytest.mark.parametrize(
    ("text", "stops", "cut_text", "finish"),
    [
        ("one two three", (), "one two three", "length"),
        ("one two three", ("four",), "one two three", "length"),
        ("one two three", ("two",), "one ", "stop"),
        ("one two three", ("three", "wo"), "one t", "stop"),
        ("one", ("one",), "", "stop"),
    ],
)
def test_an_answer_ends_before_the_first_stop_string(text, stops, cut_text, finish):
    ids = TOKENIZER.encode(text)
    answer = Result("1", tuple(ids), tuple(-float(i) for i in range(1, len(ids) + 1)), "length")
    shown, why, log_prob, tokens = answers.cut(TOKENIZER, answer, stops)
    assert (shown, why) == (cut_text, finish)
    assert log_prob == -math.fsum(range(1, tokens + 1))
    kept = TOKENIZER.decode(ids[:tokens])
    if finish == "stop":  # as many tokens as are needed until the stop string is there
        assert any(stop in kept for stop in stops) and not any(stop in TOKENIZER.decode(ids[: tokens - 1]) for stop in stops)
    else:
        assert tokens == len(ids)


def test_fields_that_are_not_read_are_counted(tmp_path):
    rows = [
        {"prompt": "a", "id": "b", "input": "not read beside a prompt"},
        {"instruction": "a", "context": "", "output": "b"},
        {"messages": [{"role": "user", "content": "a", "name": "b"}], "tools": [], "output": "b"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    assert generate.unread_fields(tmp_path / "in.jsonl") == {"input": 1, "messages.name": 1, "output": 2, "tools": 1}


def test_the_command(tmp_path, humpback):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return humpback("generate", *arguments, "--max_new_tokens=8", "--length=64", "--slots=4")

    tiny.make_base(tmp_path / "base")
    rows = [{"prompt": "Why?", "id": "a"}, {"ids": [5, 6, 7]}, {"ids": [5, 600]}]
    rows += [{"prompt": "x " * 200}, {"prompt": "b", "id": "a"}, {"prompt": " "}, {"prompt": "\ud83d"}]
    rows += [{"instruction": "Why?", "id": 7, "input": "", "output": "old", "dataset": "x"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [f"--model={tmp_path / 'base'}", f"--input={tmp_path / 'in.jsonl'}", f"--out={tmp_path / 'out'}", "--samples=2"]
    first = run(*flags, "--temperature=5")
    assert first.returncode == 0, first.stderr
    made = [json.loads(line) for line in (tmp_path / "out" / "generated-00000-of-00001.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prompt"], row["ids"], row["prompt_tokens"]) for row in made] == [
        ("a", "Why?", None, len(TOKENIZER.encode("Why?"))), (generate.parse('{"ids": [5, 6, 7]}', ":2").id, None, [5, 6, 7], 3),
        ("7", None, None, len(TOKENIZER.encode("Why?"))),
    ]  # fmt: skip
    assert [row.get("instruction") for row in made] == [None, None, "Why?"] and all(row["output"] == row["texts"][0] for row in made)
    assert all(len(row[name]) == 2 for row in made for name in ("texts", "finish", "log_probs", "output_tokens"))
    assert all(f == "stop" or n == 8 for row in made for f, n in zip(row["finish"], row["output_tokens"], strict=True))
    assert np.isfinite([row["log_probs"] for row in made]).all()
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects-00000-of-00001.jsonl").read_text().splitlines()]
    reasons = {3: "ids outside the vocabulary", 4: "prompt too long", 5: "duplicate id", 6: "empty", 7: "half of a surrogate pair"}
    assert [(row["where"], row["reason"]) for row in rejects] == [(f"{tmp_path}/in.jsonl:{n}", text) for n, text in reasons.items()]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    cut = sum(row["finish"].count("length") for row in made)
    assert manifest["counts"] == {"in": 8, "out": 3, "rejects": 5, "answers": 6, "answers cut": cut}
    assert manifest["dropped"] == {f"rejected: {reason}": 1 for reason in reasons.values()}
    assert manifest["unread_fields"] == {"dataset": 1, "output": 1}
    assert "in.jsonl: fields that are not read: 'dataset' (1 lines), 'output' (1 lines)" in first.stderr
    assert f"{cut} answers cut; dropped: " in first.stderr and "1 rejected: prompt too long" in first.stderr

    again = run(*flags, "--temperature=5", "--slots=8")  # cannot change the result
    assert again.returncode == 0 and "out: done before" in again.stderr
    other = run(*flags, "--temperature=4")
    assert other.returncode == 2 and "was made with --temperature = 5.0, now it is 4.0" in other.stderr
    (tmp_path / "in.jsonl").write_text('{"prompt": "another"}\n')
    changed = run(*flags, "--temperature=5")
    assert changed.returncode == 2 and "was made with --input = " in changed.stderr


def test_a_hugging_face_folder_answers_as_the_model_folder_it_was_made_from(tmp_path, humpback):
    tiny.make_base(tmp_path / "run" / "base")
    assert humpback("convert", f"--source={tmp_path}/run/base", f"--target={tmp_path}/hf", "--to_format=huggingface").returncode == 0
    (tmp_path / "in.jsonl").write_text('{"prompt": "Why?"}\n')
    flags = [f"--input={tmp_path / 'in.jsonl'}", "--max_new_tokens=8", "--length=64", "--slots=4", "--dtype=float32"]
    for model, out in ((tmp_path / "run" / "base", "one"), (tmp_path / "hf", "two")):
        done = humpback("generate", f"--model={model}", f"--out={tmp_path / out}", *flags)
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / out / "generated-00000-of-00001.jsonl").read_bytes() for out in ("one", "two"))
    assert one == two
    named = humpback("generate", f"--model={tmp_path / 'run'}", f"--out={tmp_path / 'three'}", *flags)
    assert named.returncode == 2 and f"is a run; name one of its models: {tmp_path / 'run' / 'base'}" in named.stderr


def test_a_gguf_file_answers_as_the_model_folder_that_is_made_from_it(tmp_path, humpback):
    cfg = gguf_files.tiny_config()
    tensors = gguf_files.gguf_tensors(cfg, gguf_files.tiny_params(cfg))
    file = gguf_files.write_gguf(tmp_path / "tiny.gguf", tensors, gguf_files.gguf_metadata(cfg))
    assert humpback("convert", f"--source={file}", f"--target={tmp_path / 'folder'}").returncode == 0
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello world"}\n')
    flags = [f"--input={tmp_path / 'in.jsonl'}", "--max_new_tokens=8", "--length=64", "--slots=4", "--dtype=float32"]
    for model, out in ((file, "one"), (tmp_path / "folder", "two")):
        done = humpback("generate", f"--model={model}", f"--out={tmp_path / out}", *flags)
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / out / "generated-00000-of-00001.jsonl").read_bytes() for out in ("one", "two"))
    assert one == two and json.loads(one)["texts"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=nowhere", "--input=x", "--out=y"], "nowhere: no such model folder"),
        (["--input=x", "--out=y"], "--model"),
    ],
)
def test_wrong_command_lines(flags, message, humpback):
    done = humpback("generate", *flags)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
