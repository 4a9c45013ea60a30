"""Digests of input files: size and crc32c, as checksums.json has them. Contents decide; sizes and times only spare reading again.

Of gs:// an object's own are taken, which need no reading. A local file is read once: what was found is kept in a cache with the file's
size, times and inode, and holds as long as these are the same. No other file covers the cache, and it may be deleted at any time.
"""

import base64
import concurrent.futures
import contextlib
import os
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import fsspec
from etils import epath

from humpback import storage
from humpback.errors import UserError

CACHE = "digests.json"
# A file that was written a moment ago may be written again within the same tick of its file system's clock.
_SETTLED_NS = 3_000_000_000
_LISTED = 8  # of so many objects of a folder a listing is asked for, and not each
_AT_ONCE = 32


class Digest(NamedTuple):
    """Of one file; crc32c is "unreadable" for one that cannot be read. `seen` changes whenever the file may have changed."""

    size: int
    crc32c: str
    seen: str


class Digests:
    """Measures files, and remembers in the file `cache` what it found of local ones."""

    def __init__(self, cache: epath.Path | None = None):
        self._cache, self._changed = cache, False
        self._known: dict[str, list[Any]] | None = None

    def measure(self, paths: Sequence[str], progress: Callable[[int, int], None] = lambda done, of: None) -> list[Digest]:
        """The digests of files, in their order; of what is missing or cannot be read, too.

        progress: hears how many bytes are read, of how many that must be.
        """
        local = [path for path in paths if storage.is_local(path)]
        found = dict(_remote([path for path in paths if not storage.is_local(path)]))
        before = self._before()
        new = []
        for path in local:
            seen = _seen(path)
            key = printable(os.path.abspath(path))
            if seen and before.get(key, [None])[0] == seen:
                found[path] = Digest(before[key][1], before[key][2], seen)
            else:
                new.append((path, seen))
        total, done = sum(int(seen.split()[0]) for _, seen in new if seen), 0
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            for path, digest in zip([path for path, _ in new], threads.map(lambda item: _read(*item), new), strict=True):
                found[path] = digest
                done += max(0, digest.size)
                progress(done, total)
                if digest.seen and _settled(digest.seen):
                    before[printable(os.path.abspath(path))] = [digest.seen, digest.size, digest.crc32c]
                    self._changed = True
        return [found[path] for path in paths]

    def save(self) -> None:
        """Writes what was found since it was written, where that is allowed."""
        if self._changed and self._cache is not None:
            with contextlib.suppress(OSError):
                storage.publish_json(self._cache, self._known, replace=True)
            self._changed = False

    def _before(self) -> dict[str, list[Any]]:
        if self._known is None:
            try:
                self._known = dict(storage.read_json(self._cache)) if self._cache is not None and self._cache.exists() else {}
            except (UserError, ValueError, TypeError):  # it is only a cache
                self._known = {}
        return self._known


def printable(name: str) -> str:
    """A file's name as UTF-8 can hold it: what is none of its bytes is written in hex."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def check_unchanged(before: Mapping[str, Digest]) -> None:
    """To be called when files were read: UserError when the contents of one are others than before. Untouched ones are not read again."""
    touched = [path for path, digest in before.items() if not digest.seen or seen(path) != digest.seen]
    for path, now in zip(touched, Digests().measure(touched), strict=True):
        if (now.size, now.crc32c) != (before[path].size, before[path].crc32c):
            raise UserError(
                f"{path}: was changed while it was read; put back what it held and run the same command again, or delete what was begun"
            )


def seen(path: str) -> str:
    """What changes whenever a file may have changed: size, times and inode, or an object's generation; "" when it is not there."""
    if storage.is_local(path):
        return _seen(path)
    try:
        return _of_object(fsspec.filesystem("gs").info(path)).seen
    except FileNotFoundError:
        return ""


def _seen(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its other end
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _settled(seen: str) -> bool:
    return time.time_ns() - max(map(int, seen.split()[1:3])) > _SETTLED_NS


def _read(path: str, seen: str) -> Digest:
    try:
        if not seen:
            raise OSError
        size = 0
        checksum = storage.Crc32c()
        for chunk in storage.read_chunks(path):
            checksum.update(chunk)
            size += len(chunk)
    except OSError:
        return Digest(-1, "unreadable", "")
    return Digest(size, checksum.hexdigest().decode(), seen if _seen(path) == seen else "")


def _remote(paths: Sequence[str]) -> Iterator[tuple[str, Digest]]:
    """(path, digest) of objects."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folders[os.path.dirname(path)].append(path)
    if not folders:
        return
    files = fsspec.filesystem("gs")
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
        single = [path for found in folders.values() if len(found) < _LISTED for path in found]
        yield from zip(single, threads.map(lambda path: _of(files, path), single), strict=True)
        many = [folder for folder, found in folders.items() if len(found) >= _LISTED]
        for folder, listed in zip(many, threads.map(lambda folder: _listing(files, folder), many), strict=True):
            yield from ((path, listed.get(os.path.basename(path), Digest(-1, "unreadable", ""))) for path in folders[folder])


def _of(files: Any, path: str) -> Digest:
    try:
        return _of_object(files.info(path))
    except (FileNotFoundError, PermissionError):
        return Digest(-1, "unreadable", "")


def _listing(files: Any, folder: str) -> dict[str, Digest]:
    try:
        listed = files.ls(folder, detail=True)
    except FileNotFoundError:
        return {}
    return {os.path.basename(entry["name"]): _of_object(entry) for entry in listed if entry["type"] == "file"}


def _of_object(entry: dict[str, Any]) -> Digest:
    if "crc32c" not in entry:  # a folder
        return Digest(-1, "unreadable", "")
    return Digest(int(entry["size"]), base64.b64decode(entry["crc32c"]).hex(), str(entry["generation"]))
