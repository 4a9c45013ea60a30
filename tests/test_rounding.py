"""Rounding up, which stands in one place."""

import pathlib
import re

from humpback import rounding


def test_ceil_div():
    assert [rounding.ceil_div(number, 4) for number in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert rounding.ceil_div(2**62 + 1, 2) == 2**61 + 1  # where a float would be rounded


def test_round_up():
    assert [rounding.round_up(number, 4) for number in (0, 1, 4, 5)] == [0, 4, 4, 8]


def test_nothing_else_rounds_up():
    package = pathlib.Path(rounding.__file__).parent
    assert [path.name for path in package.rglob("*.py") if re.search(r"-\(-.*//", path.read_text())] == ["rounding.py"]
