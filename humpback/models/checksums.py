"""checksums.json: the size and crc32c of every file of a folder, written last, so that a folder counts only when all matches.

On gs:// both are what Cloud Storage says of an object, which it has computed itself from what arrived: nothing is read back.
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from etils import epath

from humpback import storage
from humpback.errors import UserError

CHECKSUMS = "checksums.json"
Files = Mapping[str, Mapping[str, Any]]  # {path inside the folder: {"size": bytes, "crc32c": eight hex digits}}


def measure(file: epath.Path) -> dict[str, Any]:
    """What checksums.json says of a file."""
    return {"size": file.stat().length, "crc32c": storage.crc32c_file(file)}


def publish(folder: epath.Path, names: Collection[str], known: Files | None = None) -> None:
    """Writes checksums.json, or replaces it, for the files `names` (paths inside the folder) and `known`, which are not read."""
    if storage.is_local(folder):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            files = {**(known or {}), **dict(zip(names, pool.map(lambda name: measure(folder / name), names), strict=True))}
    else:
        objects = storage.objects_below(folder) if names else {}
        files = {**(known or {}), **{name: objects[name] for name in names}}
    storage.publish_json(folder / CHECKSUMS, {"files": files, "sha256": _digest(files)}, replace=True)


def read(folder: epath.Path) -> Files:
    """What checksums.json lists. UserError when it is missing or damaged."""
    file = folder / CHECKSUMS
    if not file.exists():
        raise UserError(f"{file}: missing, so the folder was never finished")
    content = storage.read_json(file)
    try:
        whole = content["sha256"] == _digest(content["files"])
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{file}: damaged (its contents have changed since it was written)")
    return content["files"]


def digest_of(folder: epath.Path) -> str:
    """The sha256 of the list of files, which stands for the folder; it is not looked whether they match. UserError as `read`."""
    return _digest(read(folder))


def find_damage(folder: epath.Path, complete: bool = False, share: tuple[int, int] = (0, 1)) -> str | None:
    """What is wrong with a folder, naming the file; None when all that checksums.json lists is there and matches.

    complete: files in folders below that it does not list are wrong, too. share: (which, of how many) of the files are read.
    """
    try:
        wanted = read(folder)
    except UserError as error:
        return str(error)
    local = storage.is_local(folder)
    which, count = share
    if not local and which:  # one listing says all
        return None
    there: Files = {name: {} for name in walk(folder)} if local else storage.objects_below(folder)
    if complete and (unlisted := [name for name in sorted(there) if "/" in name and name not in wanted]):
        return f"{folder / unlisted[0]}: not in {CHECKSUMS}"
    for name, entry in wanted.items():
        if name not in there:
            return f"{folder / name}: missing"
        size = (folder / name).stat().length if local else there[name]["size"]
        if size != entry["size"]:
            return f"{folder / name}: damaged ({size} bytes instead of {entry['size']})"

    def compare(name: str) -> str | None:
        try:
            found = storage.crc32c_file(folder / name) if local else there[name]["crc32c"]
        except OSError as error:  # what a disk says of a sector that it has lost
            return f"{folder / name}: cannot be read ({error})"
        same = found == wanted[name]["crc32c"]
        return None if same else f"{folder / name}: damaged (its contents have changed since it was written)"

    largest_first = sorted(wanted, key=lambda name: (-wanted[name]["size"], name))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return next(filter(None, pool.map(compare, largest_first[which::count])), None)


def walk(folder: epath.Path) -> list[str]:
    """Paths of all files below `folder`, relative to it, sorted."""
    if not storage.is_local(folder):
        return sorted(storage.objects_below(folder))

    def names(path: epath.Path, prefix: str) -> Iterator[str]:
        for item in path.iterdir():
            if item.is_dir():
                yield from names(item, f"{prefix}{item.name}/")
            else:
                yield prefix + item.name

    return sorted(names(folder, ""))


def _digest(files: Files) -> str:
    """Of the list itself, so that damage to it is told from damage to the files. A sha256, as it also stands for a model."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
