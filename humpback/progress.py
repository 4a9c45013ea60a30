"""What the terminal hears of work that takes a while: lines and bars on standard error, of the first process only."""

import sys
import unicodedata

from tqdm import tqdm

from humpback import distributed

_TURNS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))  # classes of characters that turn a line's direction


def say(text: str) -> None:
    """A line about the state of the run."""
    if distributed.is_first():
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A line about what changes the meaning of a result."""
    say(f"WARNING: {text}")


def warn_of_many(stage: str, part: int, whole: int, what: str) -> None:
    """Warns of `what` happened in a stage to `part` of `whole`, when that is more than a tenth."""
    if part * 10 > whole:
        warn(f"{stage}: {part} of {whole} {what}")


def printable(text: str) -> str:
    """A model's or a page's text for a terminal: characters that would control it, or turn a line's direction, become U+FFFD."""
    return "".join("\ufffd" if _controls(character) else character for character in text)


def _controls(character: str) -> bool:
    return character not in "\n\t" and (unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in _TURNS)


class Bar:
    """How far something is, and how long the rest takes.

    total: None where it is not known yet; done: what was there before; scaled: counts with k, M, G; shown: None draws it where
    standard error is a terminal.
    """

    def __init__(
        self, label: str, unit: str, total: float | None = None, *, done: float = 0, scaled: bool = False, shown: bool | None = True
    ) -> None:
        hidden = None if shown is None else not shown
        if not distributed.is_first():
            hidden = True
        self._bar = tqdm(total=total, initial=done, desc=label, unit=unit, unit_scale=scaled, file=sys.stderr, disable=hidden)

    def advance(self, count: float = 1) -> None:
        """Adds to what is done."""
        self._bar.update(count)

    def reach(self, done: float, total: float | None = None) -> None:
        """Says what is done, less than before counting as nothing new, and what there is where that is known only now."""
        if total is not None:
            self._bar.total = total
        self._bar.update(max(0, done - self._bar.n))

    def note(self, text: str) -> None:
        """What stands behind the bar when it is drawn next."""
        self._bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
