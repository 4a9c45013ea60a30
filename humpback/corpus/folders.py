"""The files below folders, local or gs://, each folder once whatever links there are."""

import dataclasses
import heapq
import os
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etils import epath

from humpback.errors import UserError

_GIVEN = "folders are given themselves"


@dataclass
class Below:
    """The paths of a folder's files, below it, and of what is left out, by what that is."""

    names: list[str] = dataclasses.field(default_factory=list)
    skipped: dict[str, list[str]] = dataclasses.field(default_factory=lambda: defaultdict(list))


def list_files(given: Sequence[epath.Path]) -> dict[epath.Path, Below]:
    """What is in the given folders. Each folder is looked into once: one that is given as itself, another one by a link only when all
    that are below a given one were, whatever loops links make. UserError for one that cannot be read."""
    found = {folder: Below() for folder in given}
    for folder in given:
        if "://" in os.fspath(folder):
            try:
                _look_in_bucket(folder, given, found[folder])
            except OSError as error:
                raise _unreadable(folder, error) from error
    _look_on_disk({folder: found[folder] for folder in given if "://" not in os.fspath(folder)})
    return found


def _look_in_bucket(root: epath.Path, given: Sequence[epath.Path], found: Below) -> None:
    prefix = f"{os.fspath(root).rstrip('/')}/"
    others = [f"{path.removeprefix(prefix)}/" for path in (os.fspath(other).rstrip("/") for other in given) if path.startswith(prefix)]
    found.skipped |= {_GIVEN: [other.rstrip("/") for other in others]} if others else {}
    top = ""
    for folder, _, names in root.walk():
        top = top or os.fspath(folder)  # the first is the root; etils leaves out the scheme of gs://
        below = pathlib.PurePosixPath(os.path.relpath(folder, top))
        if not f"{below}/".startswith(tuple(others)):
            found.names += ((below / name).as_posix() for name in names)


def _look_on_disk(found: Mapping[epath.Path, Below]) -> None:
    given = {_identity(root) for root in found}
    seen: set[tuple[int, int]] = set()
    folders, links = [(os.fspath(root), "", root) for root in found], list[tuple[str, str, epath.Path]]()
    while folders or links:
        linked = not folders
        top, here, root = heapq.heappop(links) if linked else folders.pop()
        try:
            identity, skipped = _identity(os.path.join(top, here)), found[root].skipped
            if identity in seen or (here and identity in given):
                own = identity in given and not linked
                skipped[_GIVEN if own else "links lead to folders that are read already"].append(here)
                continue
            seen.add(identity)
            with os.scandir(os.path.join(top, here)) as entries:
                for entry in entries:
                    name, link = f"{here}/{entry.name}" if here else entry.name, entry.is_symlink()
                    if os.path.isdir(entry.path) if link else entry.is_dir():
                        if link:
                            heapq.heappush(links, (top, name, root))
                        else:
                            folders.append((top, name, root))
                    elif (link and not os.path.exists(entry.path)) or os.path.isfile(entry.path):  # one to nowhere is counted
                        found[root].names.append(name)
                    else:
                        skipped["are pipes, sockets or devices"].append(name)
        except OSError as error:
            raise _unreadable(root, error) from error


def _unreadable(root: epath.Path, error: OSError) -> UserError:
    return UserError(f"segments.input: {root}: cannot be read ({error})")


def _identity(path: str | epath.Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
