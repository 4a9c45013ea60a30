"""`humpback chat --model=MODEL`: an answer to each line, as it is written, with what was said before in mind.

Every question carries both tags, as at inference in the paper, also those of earlier turns: the model has seen no other form. Answers
carry none. It was trained on single turns.
"""

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import jax
import numpy as np
from absl import flags

from humpback import config as configs
from humpback import keys, prompts
from humpback.commands.models import define_base, open_model
from humpback.config import Decoding
from humpback.decoding.engine import Engine, Request, Result
from humpback.decoding.sampling import Sampler
from humpback.decoding.serving import fit_prompt
from humpback.errors import UserError
from humpback.models import folders
from humpback.progress import printable, say
from humpback.records import half_surrogate
from humpback.tokens.examples import exchange
from humpback.tokens.tokenizer import Tokenizer


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("model", None, "a model folder (forward-T or base), GGUF file, Hugging Face or Meta folder", required=True)
    define_base()
    flags.DEFINE_string("prompt", "", "answer this and end; without it, each line of the standard input is a question")
    flags.DEFINE_integer("turns", None, "earlier turns that a question is asked with; default: as many as fit", lower_bound=0)
    flags.DEFINE_float("temperature", 0.7, "0 is greedy", lower_bound=0)
    flags.DEFINE_float("top_p", 0.9, "nucleus", lower_bound=0, upper_bound=1)
    flags.DEFINE_integer("max_new_tokens", 256, "the longest answer, in tokens", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of the sampling", lower_bound=0)
    flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "what is computed in; default: what is faster here")
    flags.DEFINE_integer("tensor", 1, "devices that share the model", lower_bound=1)


def main() -> None:
    """Loads the model and answers."""
    values = flags.FLAGS
    if jax.process_count() > 1:
        raise UserError("chat is for one process; humpback generate answers a file of prompts with several")
    opened = open_model(values.model, {"forward", "base"}, values.base)
    length = min(opened.info.config.max_positions, Decoding().length)
    if values.max_new_tokens >= length:
        raise UserError(f"--max_new_tokens={values.max_new_tokens} leaves no room for a question in {length} tokens")
    dtype = values.dtype or configs.device_dtype(jax.default_backend())
    decoding = Decoding(length=length, compute_dtype=dtype, slots=4, steps_per_visit=1)
    model, engine = opened.engine(decoding, values.tensor, None)
    say(f"{values.model}: {opened.info.direction} model, {dtype}; programs are compiled when they are first needed, and kept")
    interactive = sys.stdin.isatty() and not values.prompt
    if interactive:
        say(f"up to {length} tokens of what was said are kept in mind; `new` begins anew, `exit` ends")
    chat = Chat(model, engine, Sampler(values.temperature, values.top_p), values.max_new_tokens, values.seed, values.turns)
    for number, line in enumerate([values.prompt] if values.prompt else _lines(interactive), 1):
        if half_surrogate(line):
            where = "--prompt" if values.prompt else f"standard input, line {number}"
            raise UserError(f"{where}: not UTF-8, or half of a surrogate pair; give the question in UTF-8")
        if interactive and line.strip() == "new":
            chat.earlier.clear()
        elif line.strip():
            chat.answer(line)


@dataclass
class Chat:
    """A conversation. earlier: the ids of each turn and its answer; turns: how many of them are kept, None for all that fit."""

    model: folders.Model
    engine: Engine
    sampler: Sampler
    max_new: int
    seed: int
    turns: int | None = None
    earlier: list[list[int]] = field(default_factory=list)
    number: int = 0  # of the question, from which its draws come

    def answer(self, instruction: str) -> None:
        """Writes one answer to the standard output as it comes; what was cut or left out is said in brackets behind it."""
        notes: list[str] = []
        room = self.engine.length - self.max_new
        fitted = fit_prompt(self.model, prompts.forward_prompt(instruction), room)
        if fitted is None:
            raise UserError(f"--max_new_tokens={self.max_new} leaves no room for a question in {self.engine.length} tokens")
        before = _latest(self.earlier, room - len(fitted.ids), self.turns)
        if fitted.cut:
            notes.append(f"the end of the question did not fit into {self.engine.length} tokens")
        elif len(before) < len(self.earlier) and self.turns is None:
            notes.append(f"without the first {len(self.earlier) - len(before)} turns, which no longer fit")
        self.earlier = before
        ids = np.array([*(token for turn in before for token in turn), *fitted.ids], np.int32)
        result = self._write(ids)
        if result.finish == "length":
            notes.insert(0, f"cut off at --max_new_tokens={self.max_new}")
        print("".join((" …" if result.finish == "length" else "", *(f" [{note}]" for note in notes))))
        self.number += 1
        wrapper = prompts.WRAPPERS[self.model.info.wrapper]
        self.earlier.append(exchange(self.model.tokenizer, fitted.ids, result.ids, wrapper))

    def _write(self, ids: np.ndarray) -> Result:
        written = Written(self.model.tokenizer)
        key = keys.record_keys(self.seed, "chat", [f"{self.number:016x}"])[0]
        request = Request(str(self.number), ids, key, self.max_new)
        [result] = self.engine.generate([request], self.sampler, frozenset([self.model.tokenizer.eos_id]), on_token=written.show)
        written.rest()
        return result


@dataclass
class Written:
    """A text that grows on the terminal, whole characters at a time and without any that would control it."""

    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    shown: int = 0  # characters

    def show(self, _: str, token: int) -> None:
        """Takes the next token."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids)
        if not text.endswith("\ufffd"):  # the first bytes of a character that is not whole yet
            self._print(text)

    def rest(self) -> None:
        """Shows what was held back for bytes that never came."""
        self._print(self.tokenizer.decode(self.ids))

    def _print(self, text: str) -> None:
        print(printable(text[self.shown :]), end="", flush=True)
        self.shown = max(self.shown, len(text))


def _latest(turns: list[list[int]], room: int, most: int | None) -> list[list[int]]:
    """The last turns, at most `most`, that fit into `room` ids together."""
    kept: list[list[int]] = []
    for turn in reversed(turns if most is None else turns[len(turns) - min(most, len(turns)) :]):
        room -= len(turn)
        if room < 0:
            break
        kept.insert(0, turn)
    return kept


def _lines(interactive: bool) -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is not UTF-8 is told with its line
    while True:
        try:
            line = input("> " if interactive else "")
        except (EOFError, KeyboardInterrupt):
            return
        if interactive and line.strip() in ("exit", "quit"):
            return
        yield line
