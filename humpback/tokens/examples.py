"""A prompt and a target as token ids, with the place where the target begins: the loss is on the target only."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from humpback.prompts import Prompt, Wrapper

if TYPE_CHECKING:  # plans are made where no tokenizer is installed
    from humpback.tokens.tokenizer import Tokenizer

PROMPTS_CUT = "prompts cut"  # the name of their number in a manifest


class Encoder(Protocol):
    """What this module needs of `tokenizer.Tokenizer`."""

    eos_id: int

    def encode(self, text: str) -> list[int]: ...

    def encode_wrapped(self, prefix: str, content: str, suffix: str) -> list[int]: ...


class Drop(enum.StrEnum):
    """Why a pair makes no training example; the caller counts them."""

    EMPTY_TARGET = "empty_target"
    TOO_LONG = "too_long"  # head, tail, wrapper and target leave no room even for an empty body


@dataclass(frozen=True, eq=False)
class TokenExample:
    """One example. `ids` (int32, [T]) are condition + target, the target ending with eos; ids[target_start:] carry loss."""

    id: str
    ids: np.ndarray
    target_start: int
    cut: bool = False  # the prompt lost the end of its body

    def __post_init__(self) -> None:
        if not 0 < self.target_start < len(self.ids):
            raise ValueError(
                f"example {self.id}: target_start {self.target_start} leaves no condition or no target in {len(self.ids)} ids"
            )

    @property
    def target_tokens(self) -> int:
        """How many tokens carry loss, eos among them."""
        return len(self.ids) - self.target_start


def build_example(
    tokenizer: Encoder, id: str, prompt: Prompt, target: str, wrapper: Wrapper, length: int
) -> TokenExample | Drop:
    """Encodes one pair into at most `length` ids, or says why it cannot.

    Condition and target are encoded apart and their id lists concatenated, so the border is exact. When they are too long
    the condition loses the end of `prompt.body`, as few characters as will do; head, tail and wrapper stay, and the target
    is never cut: a target cut off would leave a row without loss.
    """
    if not target.strip():
        return Drop.EMPTY_TARGET
    target_ids = [*tokenizer.encode(target), tokenizer.eos_id]
    condition = fit_condition(tokenizer, prompt, wrapper, length - len(target_ids))
    if condition is None:
        return Drop.TOO_LONG
    return TokenExample(id, np.array(condition.ids + target_ids, np.int32), len(condition.ids), condition.cut)


class Condition(NamedTuple):
    """The ids of a wrapped prompt, and whether its body lost its end for them."""

    ids: list[int]
    cut: bool


def exchange(tokenizer: "Tokenizer", prompt_ids: Iterable[int], answer_ids: Iterable[int], wrapper: Wrapper) -> list[int]:
    """The ids of an earlier turn and its answer, for before the next prompt: as in training, then what the wrapper has behind an end.

    prompt_ids: wrapped like the one turn that training had, with the tags, and bos where the tokenizer adds it. Exported chat templates
    write the same.
    """
    after = cut_suffix(wrapper.suffix, tokenizer)[2]
    return [*map(int, prompt_ids), *answer_ids, tokenizer.eos_id, *(tokenizer.encode(after) if after else ())]


def cut_suffix(suffix: str, tokenizer: "Tokenizer") -> tuple[str, str, str]:
    """(what closes the user's turn, what opens the answer, what follows an answer's eos before the next turn)."""
    pieces = [piece if isinstance(piece, str) else piece.text for piece in tokenizer.split(suffix)]
    eos = tokenizer.settings["eos_token"]
    if eos not in pieces:
        return suffix, "", ""
    end = pieces.index(eos) + 1
    after = pieces[end] if end + 1 < len(pieces) and pieces[end] not in tokenizer.specials else ""
    closing = "".join(pieces[:end]) + after
    return closing, suffix[len(closing) :], after


def fit_condition(tokenizer: Encoder, prompt: Prompt, wrapper: Wrapper, room: int) -> Condition | None:
    """The wrapped prompt in at most `room` ids, its body cut at the end where needed; None when an empty body does not fit.

    Decoding uses it too, so that a prompt is truncated alike in both. The cut is made in the text and encoded anew, because a
    cut list of ids may not be what the tokenizer makes of any text.
    """

    def encode(characters: int) -> list[int]:
        content = prompt.head + prompt.body[:characters] + prompt.tail
        return tokenizer.encode_wrapped(wrapper.prefix, content, wrapper.suffix)

    ids = encode(len(prompt.body))
    if len(ids) <= room:
        return Condition(ids, cut=False)
    ids = encode(0)
    if len(ids) > room:
        return None
    # `fits` always fits, `too_many` never does; the number of ids need not grow with every character for that.
    fits, too_many = 0, len(prompt.body)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        candidate = encode(middle)
        if len(candidate) <= room:
            fits, ids = middle, candidate
        else:
            too_many = middle
    return Condition(ids, cut=True)
