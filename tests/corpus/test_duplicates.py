"""Exact duplicates up to case, whitespace and punctuation."""

import itertools

from humpback.corpus.duplicates import drop_exact, normalised
from humpback.records import Segment


def segment(key: str, text: str) -> Segment:
    return Segment(key, text, "H", ("H",), "u", "s", 0, 1)


def test_normalised() -> None:
    assert normalised("  Don’t\n\n- STOP, “now”… x_y ﬁn ²") == "don t stop now x y fin 2"
    assert normalised("Straße") == normalised("STRASSE")


def test_the_smallest_id_stays_whatever_the_order() -> None:
    items = [segment("3", "One, two."), segment("1", "one  TWO"), segment("2", "One - two!"), segment("4", "One two three")]
    for order in itertools.permutations(items):
        kept, dropped = drop_exact(order)
        assert [s.id for s in kept] == ["1", "4"]
        assert [s.id for s in dropped] == ["2", "3"]


def test_a_header_does_not_make_a_text_another_one() -> None:
    assert len(drop_exact([segment("1", "same"), Segment("2", "same", "Other", (), "v", "t", 0, 1)])[0]) == 1
