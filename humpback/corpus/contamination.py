"""Segments that hold an evaluation prompt: a model must not be trained on what it will be asked."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from humpback.corpus.grams import gram_hashes, hashes_by_length, normalised
from humpback.errors import UserError
from humpback.records import numbered_lines

REASON = "contamination"
SHORTEST = 8  # words of a prompt that is looked for as a whole; fewer are everybody's words ("What is the capital of France?")

_FIELDS = ("instruction", "prompt", "question", "text", "turns", "conversations", "content", "value")
_EXPECTED = f"expected a string or an object with one of the fields {', '.join(_FIELDS)}"


class Contamination:
    """The word n-grams of prompts. `reason(text)` says whether a text shares one, up to case, whitespace and punctuation.

    paths: files, comma-separated, "" for none: `.jsonl` (each line a string, or an object whose field `instruction`, `prompt`,
    `question`, `text`, `turns` or `conversations` is a string or a list of them), `.json` (one list of such), or any other name for
    plain text with a prompt on each line. ngram: how many words in a row must be the same. A prompt of fewer words is looked for as a
    whole, if it has `SHORTEST`. UserError names the file, and the line, that is none of these, and a file without prompts.
    """

    def __init__(self, paths: str, ngram: int = 13):
        self.ngram, self.prompts, self.whole, self.ignored = ngram, 0, 0, 0  # prompts read; those matched as a whole; those too short
        self._texts: set[str] = set()
        found: dict[int, list[np.ndarray]] = {}  # length in words → hashes of so many words in a row
        for path in filter(None, (path.strip() for path in paths.split(","))):
            before = self.prompts
            for prompt in _read_prompts(epath.Path(path)):
                self._add(prompt, found)
            if self.prompts == before:
                raise UserError(f"{path}: there is no prompt in it")
        self._hashes: dict[int, np.ndarray] = {size: np.unique(np.concatenate(hashes)) for size, hashes in found.items()}

    def _add(self, prompt: str, found: dict[int, list[np.ndarray]]) -> None:
        text = normalised(prompt)
        words = text.split()
        self._texts.add(text)
        self.prompts += 1
        if len(words) >= min(self.ngram, SHORTEST):
            self.whole += len(words) < self.ngram
            found.setdefault(min(self.ngram, len(words)), []).append(gram_hashes(words, self.ngram))
        else:
            self.ignored += 1

    def __str__(self) -> str:
        return (
            f"{self.prompts:,} evaluation prompts: {self.prompts - self.whole - self.ignored:,} by each {self.ngram} words in a row, "
            f"{self.whole:,} shorter ones as a whole, {self.ignored:,} of fewer than {min(self.ngram, SHORTEST)} words not at all"
        )

    def is_prompt(self, text: str) -> bool:
        """Whether the text is one of the prompts, however short, up to case, whitespace and punctuation."""
        return normalised(text) in self._texts

    def reason(self, text: str) -> str:
        """REASON if the text shares an n-gram, or holds a short prompt whole; "" otherwise."""
        if not self._hashes:
            return ""
        for size, grams in hashes_by_length(normalised(text).split(), max(self._hashes)):
            if (hashes := self._hashes.get(size)) is not None:
                places = np.searchsorted(hashes, grams)
                if (hashes[np.minimum(places, len(hashes) - 1)] == grams).any():
                    return REASON
        return ""


def _read_prompts(path: epath.Path) -> Iterator[str]:
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file; evaluation prompts are .jsonl, .json or plain text with one a line")
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not JSON ({error})") from error
        if not isinstance(values, list):
            raise UserError(f"{path}: expected a list of prompts, found {values!r:.60}")
        for number, value in enumerate(values):
            yield from _prompts_of(value, f"{path}: entry {number}")
        return
    for where, line in numbered_lines(path):
        if path.suffix != ".jsonl":
            yield line.strip()
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error}); give plain text another suffix than .jsonl") from error
        yield from _prompts_of(value, where)


def _prompts_of(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _prompts_of(item, where)
    elif isinstance(value, dict) and (names := [name for name in _FIELDS if name in value]):
        yield from _prompts_of(value[names[0]], where)
    else:
        raise UserError(f"{where}: no prompt in {value!r:.60}; {_EXPECTED}")
