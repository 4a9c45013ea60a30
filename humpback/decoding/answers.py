"""Prompts as lines and answers as lines: what `humpback generate` and the stage `answers` have in common, so that both write one form."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from humpback import prompts, records, storage
from humpback.decoding import offline
from humpback.decoding.engine import Result
from humpback.models import folders
from humpback.tokens.examples import exchange
from humpback.tokens.tokenizer import Tokenizer

NAME = "generated"  # of the shards of answers


class Message(msgspec.Struct, frozen=True):
    """A turn of a conversation; `role` is user or assistant, in turns."""

    role: str
    content: str


@dataclass(frozen=True)
class PromptLine:
    """A line of the input: one of its fields, beside `id`, is there."""

    id: str
    prompt: str | None
    ids: tuple[int, ...] | None
    instruction: str | None = None
    messages: tuple[Message, ...] | None = None

    @property
    def turns(self) -> tuple[str, ...]:
        """The texts, the user's first and last; none for ids."""
        if self.messages is not None:
            return tuple(message.content for message in self.messages)
        text = self.instruction if self.prompt is None else self.prompt
        return () if text is None else (text,)


class Generated(records.Record, frozen=True, omit_defaults=True):
    """A line of the output: for each sample the text, why it ended (`stop` or `length`), and the sum of the log-probabilities of its
    tokens, the one that ended it included, and their number. `output` is the first text, beside `instruction` as AlpacaEval reads it."""

    prompt: str | None
    ids: tuple[int, ...] | None
    texts: tuple[str, ...]
    finish: tuple[str, ...]
    log_probs: tuple[float, ...]
    prompt_tokens: int
    output_tokens: tuple[int, ...]
    output: str
    instruction: str | None = None
    messages: tuple[Message, ...] | None = None


class Writer:
    """Prompts to ids, and answers to lines of the output."""

    def __init__(self, model: folders.Model, template: Any, stops: tuple[str, ...]):
        self._model, self._template, self._stops = model, template, stops

    def encode(self, line: PromptLine) -> np.ndarray:
        """Ids int32 of a prompt, never cut. A text's special tokens are ordinary text; who wants others gives ids."""
        if line.ids is not None:
            ids: Sequence[int] = line.ids
            if any(not 0 <= token < self._model.info.config.vocab_size for token in ids):
                raise offline.Unservable("ids outside the vocabulary")
        elif not all(turn.strip() for turn in line.turns):
            raise offline.Unservable("empty")
        elif any(map(records.half_surrogate, line.turns)):
            raise offline.Unservable("half of a surrogate pair")
        elif len(line.turns) > 1 and (self._template is None or self._model.info.direction == "backward"):
            raise offline.Unservable("several turns, which take --wrap and a model that answers")
        else:
            ids = self._encode_turns(line.turns)
        return np.array(ids, np.int32)

    def _encode_turns(self, turns: Sequence[str]) -> list[int]:
        tokenizer = self._model.tokenizer
        if self._template is None:
            return tokenizer.encode_wrapped("", turns[0], "")
        wrapper = prompts.WRAPPERS[self._model.info.wrapper]
        asked = [tokenizer.encode_wrapped(wrapper.prefix, self._template(turn).content, wrapper.suffix) for turn in turns[::2]]
        before = [exchange(tokenizer, ids, tokenizer.encode(answer), wrapper) for ids, answer in zip(asked, turns[1::2], strict=False)]
        return [token for ids in (*before, asked[-1]) for token in ids]

    def make(self, line: PromptLine, answers: list[Result]) -> Generated:
        """The line of the output."""
        ends = [cut(self._model.tokenizer, answer, self._stops) for answer in answers]
        texts, finish, log_probs, tokens = zip(*ends, strict=True)
        return Generated(
            line.id, line.prompt, line.ids, texts, finish, log_probs, len(self.encode(line)), tokens, texts[0], line.instruction,
            line.messages,
        )  # fmt: skip


def cut(tokenizer: Tokenizer, answer: Result, stops: tuple[str, ...]) -> tuple[str, str, float, int]:
    """(text, finish, sum of log-probabilities, tokens) of an answer up to the first of the stop strings, which takes as many tokens as
    are needed until it is there."""
    text = tokenizer.decode(answer.ids)
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    if not places:
        return text, answer.finish, math.fsum(answer.log_probs), len(answer.log_probs)
    needed = range(1, len(answer.ids) + 1)
    count = next(n for n in needed if any(stop in tokenizer.decode(answer.ids[:n]) for stop in stops))
    return text[: min(places)], "stop", math.fsum(answer.log_probs[:count]), count


def count_answers(folder: storage.PathLike) -> tuple[int, int]:
    """How many answers there are, and how many did not end by themselves."""
    ends = Counter(end for made in records.read_shards(folder, NAME, Generated) for end in made.finish)
    return ends.total(), ends["length"]
