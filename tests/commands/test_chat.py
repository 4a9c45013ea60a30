"""`humpback chat`: turns, what is cut or left out, and what reaches the terminal. Its start: tests/stages/test_kill.py."""

import os

import jax
import pytest

from humpback import prompts
from humpback.commands.chat import Chat, Written
from humpback.config import Decoding
from humpback.decoding.engine import Engine, Result
from humpback.decoding.sampling import Sampler
from humpback.model import llama, sharding
from humpback.models.folders import Model, ModelInfo
from tests import tiny

TOKENIZER = tiny.make_tokenizer()


class Scripted:
    """An engine that gives the next of some answers, and keeps what it was asked."""

    def __init__(self, *answers: tuple[str, str], length: int = 200) -> None:
        self.length, self.asked, self._answers = length, [], iter(answers)

    def generate(self, requests, sampler, stop_ids, on_token):
        [request] = requests
        self.asked.append(request)
        text, finish = next(self._answers)
        ids = TOKENIZER.encode(text)
        for token in ids:
            on_token(request.id, token)
        yield Result(request.id, tuple(ids), (0.0,) * len(ids), finish)


def conversation(engine, **fields) -> Chat:
    return Chat(Model(ModelInfo(tiny.CONFIG, "forward", "chatml"), {}, TOKENIZER), engine, Sampler(0.0), 20, 0, **fields)


def turn(question: str) -> str:
    return f"<|im_start|>user\n{question} {prompts.SEED_TAG} {prompts.WEB_TAG}<|im_end|>\n<|im_start|>assistant\n"


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode_wrapped(text, "", "")


def test_earlier_turns_stand_before_the_question_each_with_both_tags():
    engine = Scripted(("It is.", "stop"), ("No.", "stop"), ("Yes.", "stop"), length=400)
    chat = conversation(engine)
    for question in ("Is it?", "Is it not?", "Sure?"):
        chat.answer(question)
    texts = [turn("Is it?"), f"{turn('Is it?')}It is.<|im_end|>\n{turn('Is it not?')}"]
    texts += [f"{texts[1]}No.<|im_end|>\n{turn('Sure?')}"]
    assert [request.ids.tolist() for request in engine.asked] == [ids_of(text) for text in texts]
    assert len({tuple(request.key) for request in engine.asked}) == 3


@pytest.mark.parametrize("turns, first", [(0, "Third?"), (1, "Second?"), (5, "First?")])
def test_as_many_turns_are_kept_as_are_asked_for(turns, first):
    engine = Scripted(*[("So.", "stop")] * 3, length=400)
    chat = conversation(engine, turns=turns)
    for question in ("First?", "Second?", "Third?"):
        chat.answer(question)
    assert engine.asked[-1].ids[: len(ids_of(turn(first)))].tolist() == ids_of(turn(first))


def test_what_is_cut_or_left_out_is_said(capsys):
    engine = Scripted(("So.", "length"), ("So.", "stop"), ("So.", "stop"), length=110)
    chat = conversation(engine)
    for question in ("First?", "Second?", "word " * 90):
        chat.answer(question)
    assert capsys.readouterr().out.splitlines() == [
        "So. … [cut off at --max_new_tokens=20]",
        "So. [without the first 1 turns, which no longer fit]",
        "So. [the end of the question did not fit into 110 tokens]",
    ]
    assert all(len(request.ids) <= 90 for request in engine.asked)


def test_no_control_character_reaches_the_terminal(capsys):
    written = Written(TOKENIZER)
    for token in TOKENIZER.encode("a\x1b]0;title\x07 b\x9b2J\u202e é\n\tc 🙂"):
        written.show("0", token)
    written.rest()
    assert capsys.readouterr().out == "a\ufffd]0;title\ufffd b\ufffd2J\ufffd é\n\tc 🙂"


def test_the_real_engine_on_several_devices(capsys):
    mesh = sharding.make_mesh(1, 4, 2, devices=jax.devices()[:8])
    decoding = Decoding(length=160, compute_dtype="float32", slots=4, steps_per_visit=1)
    engine = Engine(tiny.CONFIG, llama.init_params(tiny.CONFIG, jax.random.key(0)), mesh, decoding)
    chat = conversation(engine)
    chat.answer("Why?")
    assert capsys.readouterr().out.endswith(" … [cut off at --max_new_tokens=20]\n") and len(chat.earlier) == 1


def test_a_question_that_is_no_utf8_is_told(tmp_path, humpback):
    tiny.make_base(tmp_path / "base")
    done = humpback("chat", f"--model={tmp_path / 'base'}", f"--prompt={os.fsdecode(b'Why ' + bytes([255]))}", "--dtype=float32")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("humpback: --prompt: not UTF-8"), done.stderr
