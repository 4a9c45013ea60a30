"""What somebody gives as a path, looked at before a command begins: a store that is not known here, a pipe that would be waited for."""

import importlib.util
import os
import re
import stat
from collections.abc import Mapping
from typing import Any

from humpback.errors import UserError

FLAGS = ("workdir", "resume_from", "input", "out", "model", "source", "target")  # of all commands
STORES = {"gs": "gcsfs"}  # scheme → the package that opens it
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://")
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check(values: Mapping[str, Any]) -> None:
    """UserError for one of these paths, comma-separated or alone, by the names that a user knows, that no command can read or write."""
    for name, value in values.items():
        if value == "" and name.startswith("--"):  # a config's field may be
            raise UserError(f"{name} is empty; name a path (of a variable, is it set?)")
        for path in {value, *value.split(",")} if isinstance(value, str) else ():
            if match := _SCHEME.match(path):
                _check_store(name, path.strip(), match[1])
            elif kind := _KINDS.get(_mode(path.strip())):
                raise UserError(f"{name}: {path.strip()} is {kind}; what is read is read more than once: write it to a file first")


def _check_store(name: str, path: str, scheme: str) -> None:
    if scheme not in STORES:
        known = " and ".join(f"{store}://" for store in STORES)
        raise UserError(f"{name}: {path}: {scheme}:// is not known; paths are local or begin with {known}; copy it there first")
    if name.startswith("--") and importlib.util.find_spec(STORES[scheme]) is None:  # of a stage that is done a field may name what is gone
        missing = f"{scheme}:// needs the extra `{scheme}`, which is not installed: pip install -c launch/constraints.txt -e .[{scheme}]"
        raise UserError(f"{name}: {path}: {missing}")


def _mode(path: str) -> int:
    """What kind of file it is; 0 when there is none."""
    try:
        return stat.S_IFMT(os.stat(os.path.expanduser(path)).st_mode)
    except (OSError, ValueError):
        return 0
