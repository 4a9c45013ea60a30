"""What a stage's folder was made from, as stage.json and manifest.json record it; how that differs from what is asked for now.

A record is {"stage", "config": {field: value}, "inputs": {stage: sha256 of its manifest}, "upstream": {"config": …} of all stages before
it}. A refusal names the fields that a user has changed, and all folders that hang on them.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from etils import epath

from humpback import config as configs
from humpback import storage

STAGE, MANIFEST = "stage.json", "manifest.json"
# Fields that name files.
FILES = ("base.source", "segments.input", "segments.contamination", "seed_pairs.source", "seed_pairs.held_out_source",
         "seed_pairs.dev_source", "curate.rubric_file")  # fmt: skip
# Fields that follow from another one unless they are given: `humpback generate` has them of the model.
_DERIVED = {"--length": "--model", "--wrap": "--model"}
_MISSING = object()

Record = dict[str, Any]


class Difference(NamedTuple):
    """A field, or an input's folder, with what a record says of it and what it is now."""

    name: str
    was: Any
    now: Any
    is_input: bool = False

    def __str__(self) -> str:
        if self.is_input:
            return f"from another {self.name}/ than is there now"
        return f"with {self.name} = {self.was!r}, now it is {self.now!r}"


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


def manifest_digest(folder: epath.Path) -> str | None:
    """What stages that are made from this one record of it; None when it is not complete."""
    path = folder / MANIFEST
    return storage.sha256_file(path) if path.exists() else None


def fields_of(record: Record) -> dict[str, Any]:
    """All fields that decided a folder: the stage's own, and those of the stages before it."""
    return {**record.get("upstream", {}).get("config", {}), **record["config"]}


def upstream_of(inputs: Collection[Record]) -> dict[str, Any]:
    """What a stage that is made from these hands on of them."""
    fields: dict[str, Any] = {}
    for record in inputs:
        fields |= fields_of(record)
    return {"config": dict(sorted(fields.items()))}


def differences(record: Record, values: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> list[Difference]:
    """The fields whose values are others than a record's. values: all that there are now; own: those that the stage itself reads.

    A field that a record does not know came later, and then its default did what had been done before.
    """
    recorded, defaults = fields_of(record), dict(configs.leaves(configs.Config()))
    for name in (own or {}).keys() - recorded.keys():
        recorded[name] = defaults.get(name, _MISSING)
    found = []
    for name, was in sorted(recorded.items()):
        if name in values and not _same(name, was, values[name]):
            found.append(Difference(name, None if was is _MISSING else was, values[name]))
    changed = {difference.name for difference in found}
    return [difference for difference in found if _DERIVED.get(difference.name) not in changed]


def other_inputs(record: Record, inputs: Mapping[str, str | None]) -> list[Difference]:
    """The inputs that are complete and not those that a record names."""
    return [
        Difference(name, was, now, is_input=True)
        for name, was in sorted(record["inputs"].items())
        if (now := inputs.get(name)) is not None and now != was
    ]


def refusal(folder: epath.Path, found: list[Difference], workdir: epath.Path | None, values: Mapping[str, Any]) -> str:
    """What to say of a folder that was made from something else: the differences, the way out, all folders that hang on them."""
    word = "made" if (folder / MANIFEST).exists() else "begun"
    records = read_all(workdir) if workdir is not None else {}
    names = {folder.name} | {
        name for name, record in records.items() if any(d in differences(record, values) for d in found if not d.is_input)
    }
    hanging = _downstream(records, names)
    what = "delete the folders that hang on it: " + ", ".join(map(str, hanging)) if len(hanging) > 1 else f"delete {folder}"
    if any(difference.is_input for difference in found):
        out = f"{what} to make {'them' if len(hanging) > 1 else 'it'} again"
    else:
        out = f"put the old value back, use another directory, or {what}"
    place = f" (in {workdir})" if len(hanging) > 1 else ""
    return f"{folder}: was {word} {'; '.join(map(str, found))}; {out}{place}"


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


def _same(name: str, was: Any, now: Any) -> bool:
    if name in FILES and isinstance(was, str) and isinstance(now, str):
        return _paths(was) == _paths(now)
    return was == json.loads(json.dumps(now))


def _paths(given: str) -> list[str]:
    """Comma-separated paths, in one form for all ways to write them."""
    return [_path(path.strip()) for path in given.split(",") if path.strip()]


def _path(path: str) -> str:
    if path.startswith(("package:", "tfds:")):
        return path
    return path.rstrip("/") if "://" in path else os.path.realpath(os.path.expanduser(path))


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
