"""Packages that only an extra brings, imported where they are needed."""

import importlib
from typing import Any

from humpback.errors import UserError


def load(module: str, extra: str, who: str) -> Any:
    """A module of another package. UserError where that is not installed: `who` needs it, of the extra, and how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        way_out = f"pip install -c launch/constraints.txt -e '.[{extra}]'"
        raise UserError(f"{who} needs {module.partition('.')[0]}, of the extra `{extra}` ({error}): {way_out}") from error
