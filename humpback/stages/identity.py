"""What a stage's folder was made from, as stage.json and manifest.json record it; how that differs from what is asked for now.

A record is {"stage", "config": {field: value}, "contents": {field: content of the files that it names}, "inputs": {stage: sha256 of
its manifest}, "upstream": {"config", "contents"} of all stages before it, "code": [versions that made it]}. A refusal names the fields
that a user has changed, and all folders that hang on them.
"""

import json
import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from etils import epath

from humpback import config as configs
from humpback import digests, locks, storage
from humpback.stages import contents
from humpback.stages.contents import Content, Contents

STAGE, MANIFEST = "stage.json", "manifest.json"
TIMING = "timing.json"
LISTS = "inputs.json"  # beside them: {field: list of its files} of fields that name several
WORK_FOLDERS = ("parts", "steps", "rubric/parts", "likelihood/parts")  # what a stage leaves while it works, for itself to continue from
_UNRECORDED = {"humpback": "of a version that recorded neither itself nor contents"}
_CODE = "code-"  # what the name of a file with a further version begins with
_FOUND = "found-"  # and of one with what was found for the devices at hand; the last one holds
# Fields that follow from another one unless they are given: `humpback generate` has them of the model.
_DERIVED = {"--length": "--model", "--wrap": "--model"}

Record = dict[str, Any]


class Now(NamedTuple):
    """What is asked for: the values of all fields, and the contents of the files that they name."""

    values: Mapping[str, Any]
    contents: Contents


class Difference(NamedTuple):
    """A field, or an input's folder, with what a record says of it and what it is now."""

    name: str
    was: Any
    now: Any

    def text(self, files: str = "") -> str:
        """For a refusal; files: how the files differ, where that is known."""
        if isinstance(self.was, _Manifest):
            return f"from another {self.name}/ than is there now"
        if not isinstance(self.was, dict):
            return f"with {self.name} = {self.was!r}, now it is {self.now!r}"
        if self.was["path"] == self.now["path"]:
            return f"with {self.name} = {self.was['path']!r}, whose contents have changed since" + (f" ({files})" if files else "")
        about = f" ({files})" if files else " of other contents" if self.was["path"] and self.now["path"] else ""
        return f"with {self.name} = {self.was['path']!r}, now it is {self.now['path']!r}{about}"


class _Manifest(str):
    """The sha256 of an input's manifest."""


class Comparison(NamedTuple):
    """How a record differs from what is asked for, and the fields that name files of which that cannot be told."""

    found: list[Difference]
    unproven: list[str]


def read(folder: epath.Path) -> Record | None:
    """What a folder records of itself: its manifest, or what it was begun with; None for neither."""
    for name in (MANIFEST, STAGE):
        if (folder / name).exists():
            return storage.read_json(folder / name)
    return None


def read_all(workdir: epath.Path) -> dict[str, Record]:
    """The records of all folders of a run."""
    if not workdir.exists():
        return {}
    found = {path.name: read(path) for path in sorted(workdir.iterdir()) if path.is_dir()}
    return {name: record for name, record in found.items() if record is not None and "config" in record}


def nothing_made(folder: epath.Path) -> bool:
    """Whether a folder holds nothing but what a stage is to be made from: then it may be made from something else."""
    ours = (locks.NAME, digests.CACHE)  # of a folder that is a place of its own
    return all(item.name in ours or says_from_what(item.name) or item.name.startswith(storage.TEMPORARY) for item in folder.iterdir())


def says_from_what(name: str) -> bool:
    """Whether a file of this name says what a stage is to be made from, by which version of the code, or on what."""
    return name in (STAGE, LISTS) or name.startswith((_CODE, _FOUND))


def manifest_digest(folder: epath.Path) -> str | None:
    """What stages that are made from this one record of it; None when it is not complete."""
    path = folder / MANIFEST
    return storage.sha256_file(path) if path.exists() else None


def upstream_of(inputs: Collection[Record]) -> dict[str, Any]:
    """What a stage that is made from these hands on of them."""
    found: dict[str, dict[str, Any]] = {"config": {}, "contents": {}}
    for record in inputs:
        for part, values in found.items():
            values |= _all_of(record, part)
    return {part: dict(sorted(values.items())) for part, values in found.items()}


def compare(record: Record, now: Now, own: Collection[str] = ()) -> Comparison:
    """The fields whose values are others than a record's. own: those that the stage itself reads.

    A field that a record does not know came later, and then its default did what had been done before. UserError for a path of now
    at which nothing is.
    """
    config, files = _all_of(record, "config"), _all_of(record, "contents")
    defaults = dict(configs.leaves(configs.Config()))
    for name in set(own) - config.keys() - files.keys():
        if name in defaults:
            config[name] = defaults[name]
    found, unproven = [], []
    for name, was in sorted((config | files).items()):
        if name not in now.values:
            continue
        value = json.loads(json.dumps(now.values[name]))
        if name in files:
            other, known = _compare_content(name, was, now)
            found += other
            unproven += [] if known else [name]
        elif name in contents.FIELDS and _paths(was) == _paths(value):  # of a run before contents were recorded
            unproven += [name] if was else []
        elif was != value:
            found.append(Difference(name, was, value))
    changed = {difference.name for difference in found}
    return Comparison([difference for difference in found if _DERIVED.get(difference.name) not in changed], unproven)


def other_kind(record: Record, own: Collection[str]) -> str:
    """Some fields of a record that has none of a stage's own, and so is of another command; "" for one that has."""
    known = {*record.get("config", {}), *record.get("contents", {})}
    return "" if not own or not known or known & set(own) else ", ".join(sorted(known)[:3])


def other_inputs(record: Record, inputs: Mapping[str, str | None]) -> list[Difference]:
    """The inputs that are complete and not those that a record names."""
    return [
        Difference(name, _Manifest(was), now)
        for name, was in sorted(record["inputs"].items())
        if (now := inputs.get(name)) is not None and now != was
    ]


def refusal(folder: epath.Path, found: list[Difference], workdir: epath.Path, now: Now) -> str:
    """What to say of a folder that was made from something else: the differences, the way out, all folders that hang on them."""
    word = "made" if (folder / MANIFEST).exists() else "begun"
    records = read_all(workdir) if workdir != folder else {folder.name: read(folder) or {}}
    fields = {difference.name for difference in found if not isinstance(difference.was, _Manifest)}
    names = {folder.name}
    for name, record in records.items():
        if fields & {other.name for other in compare(record, now).found}:
            names.add(name)
    hanging = _downstream(records, names)
    several = len(hanging) > 1
    what = f"delete the folders that hang on it: {', '.join(hanging)}" if several else f"delete {folder}"
    if fields:
        out = f"put back what it was, use another directory, or {what}"
    else:
        out = f"{what} to make {'them' if several else 'it'} again"
    told = "; ".join(difference.text(_files(difference, records, workdir, now)) for difference in found)
    return f"{folder}: was {word} {told}; {out}" + (f" (in {workdir})" if several else "")


def of(made_from: Record, version: Mapping[str, str]) -> str:
    """16 hex digits that tell what a part was made from, and by which version of the code."""
    return storage.sha256_json({**made_from, "code": version})[:16]


def codes(folder: epath.Path, record: Record) -> list[dict[str, str]]:
    """The versions of the code that have worked at a folder."""
    more = [name for name in storage.list_files(folder) if name.startswith(_CODE)]
    return [*record.get("code", [_UNRECORDED]), *(storage.read_json(folder / name) for name in more)]


def add_code(folder: epath.Path, version: Mapping[str, str]) -> None:
    """Records a further version."""
    storage.publish_json(folder / f"{_CODE}{storage.sha256_json(version)[:16]}.json", version)


def found_before(folder: epath.Path) -> tuple[dict[str, Any], int]:
    """What the last of those who worked at a folder found for their devices, {config field: value}, and how many records there are."""
    names = sorted(name for name in storage.list_files(folder) if name.startswith(_FOUND))
    return (storage.read_json(folder / names[-1]) if names else {}), len(names)


def add_found(folder: epath.Path, number: int, values: Mapping[str, Any]) -> None:
    """Records what was found, as the record of this number."""
    storage.publish_json(folder / f"{_FOUND}{number:05d}.json", values)


def other_code(folder: epath.Path, before: list[dict[str, str]], version: Mapping[str, str]) -> str:
    """What to say of a half-done folder that other versions of the code have begun."""
    said = " and by ".join(map(_versions, before))
    return (
        f"{folder}: was begun by {said}, this is {_versions(version)}; --accept_code continues it and records both, "
        f"or delete {folder} to begin it anew"
    )


def _versions(version: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in version.items())


def _all_of(record: Record, part: str) -> dict[str, Any]:
    return {**record.get("upstream", {}).get(part, {}), **record.get(part, {})}


def _compare_content(name: str, was: Content, now: Now) -> tuple[list[Difference], bool]:
    """The difference, and whether it is known."""
    given = now.values[name]
    if name == "base.source" and not given:
        return [], True  # base/ is enough
    try:
        content = now.contents.of(name)
    except contents.Missing:
        if given and _paths(was["path"]) == _paths(given):
            return [], False
        raise
    return ([] if contents.same(was, content) else [Difference(name, was, content)]), True


def _files(difference: Difference, records: Mapping[str, Record], workdir: epath.Path, now: Now) -> str:
    """How the files of a field differ, "" where it is one or the list is not there."""
    for name, record in records.items():
        folder = workdir / name if len(records) > 1 or (workdir / name).exists() else workdir
        if record.get("contents", {}).get(difference.name) == difference.was and (folder / LISTS).exists():
            before = storage.read_json(folder / LISTS).get(difference.name)
            return contents.changes(before, now.contents.listed(difference.name)) if before is not None else ""
    return ""


def _downstream(records: Mapping[str, Record], names: Collection[str]) -> list[str]:
    """These folders and all that were made from them, each behind those that it was made from."""
    ancestors: dict[str, set[str]] = {}

    def above(name: str) -> set[str]:
        if name not in ancestors:
            inputs = records[name]["inputs"] if name in records else {}
            ancestors[name] = set(inputs)  # a record that were its own ancestor ends here
            ancestors[name] |= {other for each in inputs for other in above(each)}
        return ancestors[name]

    hanging = {name for name in records if above(name) & set(names)} | set(names)
    return sorted(hanging, key=lambda name: (len(above(name)), name))


def _paths(given: str) -> list[str]:
    """Comma-separated paths, in one form for all ways to write them."""
    return [_path(path.strip()) for path in given.split(",") if path.strip()]


def _path(path: str) -> str:
    if path.startswith(("package:", "tfds:")):
        return path
    return path.rstrip("/") if "://" in path else os.path.realpath(os.path.expanduser(path))
