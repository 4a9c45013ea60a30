"""Which values a field of the config may have: rules that say so to the code, and to people."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from humpback import languages


class Rule(NamedTuple):
    """Says which values a field may have, to the code and, after "it must be", in an error."""

    allows: Callable[[Any], bool]
    text: str


def at_least(low: float) -> Rule:
    """Allows numbers from `low` on."""
    return Rule(lambda value: value >= low, f"at least {low}")


def within(low: float, high: float) -> Rule:
    """Allows numbers from `low` to `high`, both among them."""
    return Rule(lambda value: low <= value <= high, f"from {low} to {high}")


def below(low: float, high: float) -> Rule:
    """Allows numbers from `low` to `high`, the second not among them."""
    return Rule(lambda value: low <= value < high, f"from {low} to below {high}")


def above(low: float) -> Rule:
    """Allows numbers greater than `low`."""
    return Rule(lambda value: value > low, f"above {low}")


def one_of(*values: str) -> Rule:
    """Allows these names."""
    return Rule(lambda value: value in values, "one of " + ", ".join(values))


def anything(why: str) -> Rule:
    """Allows every value of the field's type; `why` nothing need be forbidden here."""
    return Rule(lambda value: True, f"anything: {why}")


def _names_sources(given: str) -> bool:
    entries = [entry.strip() for entry in given.split(",") if entry.strip()]
    names = [entry.partition("=")[0] for entry in entries]
    return all(re.fullmatch(r"[A-Za-z][\w.-]*=[^=]+", entry) for entry in entries) and len({*names, "held_out"}) == len(names) + 1


SHARE = within(0, 1)
SOME_SHARE = Rule(lambda value: 0 < value <= 1, "above 0, at most 1")
LANGUAGE = Rule(languages.is_code, "a code of ISO 639-1, such as en, or of three letters that CLD2 finds, such as ceb")
OPENED = anything("what cannot be opened is said when it is read")
SETS = Rule(lambda value: _names_sources(value), "NAME=SOURCE,NAME=SOURCE, each name once and none of them held_out")
CHECKED = anything("what differs from the file is said when it is read")
ENDPOINT = Rule(lambda value: not value or re.match(r"https?://[^/]", value) is not None, "empty, or an address, http:// or https://")
