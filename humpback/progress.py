"""What the terminal hears of work that takes a while: lines and bars on standard error, of the first process only."""

import sys

from tqdm import tqdm

from humpback import distributed


def say(text: str) -> None:
    """A line about the state of the run."""
    if distributed.is_first():
        print(text, file=sys.stderr, flush=True)


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
