"""The contents of the files that a config names: what decides, with the other fields, what a stage is made from.

A content is {"path": as given, "size", "crc32c"} of one file, {"path", "files": how many, "sha256": of their list} of several, and
{"path": ""} of none. The list, [[name, size, crc32c], …], is kept apart, so that a refusal can name the files.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from humpback import digests, prompts, storage
from humpback.errors import UserError
from humpback.progress import Bar

Content = dict[str, Any]
Listed = list[list[Any]]

# Which files a field means. Their modules are named, not imported: how inputs are listed is no part of every stage's code, and
# what lists them decides nothing but whether they are the same.
_LISTS = {
    "base.source": "humpback.convert.sources:list_files",
    "segments.input": "humpback.corpus.readers:list_files",
    "segments.contamination": "humpback.stages.contents:comma_separated",
    "seed_pairs.source": "humpback.datasets.seed_pairs:list_files",
    "seed_pairs.held_out_source": "humpback.datasets.seed_pairs:list_files",
    "seed_pairs.dev_source": "humpback.datasets.seed_pairs:list_files",
    "seed_pairs.contamination": "humpback.stages.contents:comma_separated",
    "evaluation.sets": "humpback.stages.contents:named",
    "curate.rubric_file": "",  # is read
}
FIELDS = tuple(_LISTS)
_SHOWN_BYTES = 2_000_000_000  # to read more is worth a bar
_PAGES = "segments.input"  # of a single file, too, the name is part of each segment
RUBRIC = "curate.rubric_file"  # without a file this project's own, which is contents, too


class Missing(UserError):
    """What a field names is not there, or is none of what it may be."""


class Contents:
    """The contents that fields name now, each looked at once: all that this object says is of one moment."""

    def __init__(self, values: Mapping[str, Any], measured: digests.Digests):
        self._values, self._digests = values, measured
        self._found: dict[str, tuple[Content, list[tuple[str, str]], list[digests.Digest]]] = {}
        self._rubric = ""

    def of(self, field: str) -> Content:
        """The content that a field names. Missing when something is not there, UserError for what cannot be told apart or read."""
        return self._look(field)[0]

    def listed(self, field: str) -> Listed:
        """The files of a field that may name several; [] for one file or none."""
        _, files, found = self._look(field)
        return _listed(files, found) if len(files) > 1 or field == _PAGES else []

    def seen(self, field: str) -> dict[str, digests.Digest]:
        """The digest of each path of a field, as this object found it."""
        _, files, found = self._look(field)
        return {path: digest for (_, path), digest in zip(files, found, strict=True)}

    def rubric(self) -> str:
        """The text of curate.rubric_file, of the bytes that its content is of."""
        self._look(RUBRIC)
        return self._rubric

    def _look(self, field: str) -> tuple[Content, list[tuple[str, str]], list[digests.Digest]]:
        if field not in self._found:
            given = self._values[field]
            if field == RUBRIC:
                data = _rubric(given)
                self._rubric = _text(data, given)
                self._found[field] = {"path": given, "size": len(data), "crc32c": storage.crc32c(data)}, [], []
            elif not given:
                self._found[field] = {"path": given}, [], []
            else:
                try:
                    files = _function(_LISTS[field])(_resolved(field, given))
                except (UserError, ImportError) as error:  # the latter: a package that reads them is not installed here
                    raise Missing(str(error) if str(error).startswith(field) else f"config field {field}: {error}") from error
                with _Progress(field) as progress:
                    found = self._digests.measure([path for _, path in files], progress)
                self._found[field] = _content(field, given, files, found), files, found
        return self._found[field]


def read_rubric(path: str) -> str:
    """The text of curate.rubric_file, or this project's own. Missing without such a file, UserError when it is no text."""
    return _text(_rubric(path), path)


def _rubric(path: str) -> bytes:
    try:
        return epath.Path(os.path.expanduser(path)).read_bytes() if path else prompts.RUBRIC.encode()
    except FileNotFoundError as error:
        raise Missing(f"config field {RUBRIC}: {path!r}: no such file") from error
    except OSError as error:
        raise UserError(f"config field {RUBRIC}: {path!r} cannot be read ({error})") from error


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"config field {RUBRIC}: {path!r} cannot be read ({error})") from error


def same(one: Content, other: Content) -> bool:
    """Whether two contents are equal, wherever they lie."""
    return {**one, "path": ""} == {**other, "path": ""}


def changes(before: Listed, now: Listed, most: int = 3) -> str:
    """How two lists of files differ: "a.html is new, b.html is gone, c.html has changed"."""
    was, are = ({name: rest for name, *rest in files} for files in (before, now))
    found = [f"{name} is new" for name in are if name not in was]
    found += [f"{name} is gone" for name in was if name not in are]
    found += [f"{name} has changed" for name in are if name in was and are[name] != was[name]]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most] or ["the order of the files is another"]) + more


def comma_separated(given: str) -> list[tuple[str, str]]:
    """(name, path) of files, for a field that names them so."""
    paths = [os.path.expanduser(path.strip()) for path in given.split(",") if path.strip()]
    return [(os.path.basename(path), path) for path in paths]


def named(given: str) -> list[tuple[str, str]]:
    """("NAME/file's name", path) of the files of NAME=SOURCE, comma-separated."""
    listed = _function("humpback.datasets.seed_pairs:list_files")
    return [(f"{name}/{file}", path) for name, source in named_sources(given) for file, path in listed(source)]


def named_sources(given: str) -> list[tuple[str, str]]:
    """(NAME, SOURCE) of a field that names sources so, with the files behind `package:`."""
    resolve = _function("humpback.convert.sources:resolve")
    entries = (entry.partition("=") for entry in given.split(",") if entry.strip())
    return [(name.strip(), resolve(source.strip())) for name, _, source in entries]


def _content(field: str, given: str, files: Sequence[tuple[str, str]], found: Sequence[digests.Digest]) -> Content:
    if len(files) == 1 and field != _PAGES:
        (_, path), digest = files[0], found[0]
        if digest.size < 0:
            raise Missing(f"{field}: {path}: no such file, or it cannot be read")
        return {"path": given, "size": digest.size, "crc32c": digest.crc32c}
    listed = _listed(files, found)
    return {"path": given, "files": len(listed), "sha256": storage.sha256_json(listed)}


def _listed(files: Sequence[tuple[str, str]], found: Sequence[digests.Digest]) -> Listed:
    return [[digests.printable(name), digest.size, digest.crc32c] for (name, _), digest in zip(files, found, strict=True)]


class _Progress:
    """A bar of the bytes that are read, where they are many."""

    def __init__(self, field: str):
        self._field = field
        self._bar: Bar | None = None

    def __enter__(self) -> "_Progress":
        return self

    def __call__(self, done: int, of: int) -> None:
        if of > _SHOWN_BYTES and self._bar is None:
            self._bar = Bar(f"{self._field}: digests", "B", of, scaled=True, shown=None)
        if self._bar is not None:
            self._bar.reach(done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _resolved(field: str, given: str) -> str:
    """What a field names, with the files behind `package:`."""
    if field == "evaluation.sets":
        return given  # `named` looks behind each name
    resolve = _function("humpback.convert.sources:resolve")
    return ",".join(resolve(path.strip()) for path in given.split(",")) if field.startswith("segments.") else resolve(given)


def _function(place: str) -> Callable[[str], Any]:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
