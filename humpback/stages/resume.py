"""--resume_from: what another run's directory, which is only read, has of a stage that this run would make just so.

A stage that was made, or begun, from the same is copied: a complete one when all its digests hold, of a half-done one each part, training
checkpoint and file of metrics that is whole. What is torn, or was made from something else, is left and counted. Files are published one
by one, and stage.json comes last, so that a copying that was killed goes on, and a folder with a stage.json is never touched.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from etils import epath

from humpback import locks, storage
from humpback.decoding.parts import MADE_FROM, PartName
from humpback.errors import UserError
from humpback.models import checksums
from humpback.progress import Bar, say
from humpback.stages import identity

_TORN, _FOREIGN = "torn", "made from something else"
_METRICS = "metrics"


def take(source: epath.Path, target: epath.Path, now: identity.Now, own: Collection[str], inputs: Mapping[str, str | None]) -> bool:
    """Copies what the stage's folder `source` has that `target` would make, and says what; whether anything was copied.

    own: the fields that the stage reads; inputs: the digests of the manifests that it is made from. To be called by the holder of the
    lock, for a stage that is not complete.
    """
    if (target / identity.STAGE).exists() or not source.exists():
        return False
    try:
        record = identity.read(source)
        if record is None:
            return False
        found = identity.compare(record, now, own).found
    except (UserError, KeyError, TypeError) as error:
        say(f"{target.name}: not taken from {source}: {error}")
        return False
    if found or record["inputs"] != inputs:
        told = "; ".join(difference.text() for difference in found) or "from other inputs than are here"
        say(f"{target.name}: not taken from {source}, where it was made {told}")
        return False
    left: Counter[str] = Counter()
    complete = (source / identity.MANIFEST).exists()
    if complete and (torn := _find_damage(source, record)):
        say(f"{target.name}: not taken from {source}: {torn}")
        return False
    names = _of_complete(source) if complete else list(_of_half_done(source, record, left))
    names.sort(key=lambda name: (name == identity.STAGE, name == identity.MANIFEST))  # manifest.json, and then stage.json, come last
    size = _copy(source, target, names)
    what = "complete" if complete else "what there was of it"
    told = "".join(f", {count} {why} left" for why, count in sorted(left.items()))
    say(f"{target.name}: {what} taken from {source}: {len(names)} files, {size / 1e6:,.1f} MB{told}")
    return True


def _find_damage(source: epath.Path, manifest: identity.Record) -> str | None:
    """What is wrong with a complete stage's files, of which manifest.json or checksums.json has a digest."""
    for name, digest in manifest["files"].items():
        if not (source / name).exists():
            return f"{source / name}: missing"
        if storage.sha256_file(source / name) != digest:
            return f"{source / name}: damaged (its contents have changed since it was written)"
    return checksums.find_damage(source) if (source / checksums.CHECKSUMS).exists() or "weights_sha256" in manifest else None


def _of_complete(source: epath.Path) -> list[str]:
    """The files of a complete stage."""
    work = tuple(f"{folder}/" for folder in identity.WORK_FOLDERS)
    return [name for name in checksums.walk(source) if not _is_passing(name) and not name.startswith(work)]


def _of_half_done(source: epath.Path, record: identity.Record, left: Counter[str]) -> Iterator[str]:
    """The files of a half-done stage from which it continues; what is not taken is counted in `left`."""
    identities = {identity.of(record, version) for version in identity.codes(source, record)}
    by_folder: dict[str, list[str]] = {}
    for name in checksums.walk(source):
        folder, _, file = name.rpartition("/")
        work = next((work for work in identity.WORK_FOLDERS if name.startswith(f"{work}/")), None)
        if _is_passing(name):
            continue
        if folder == _METRICS or identity.says_from_what(name) or name == identity.TIMING:
            if _whole(source / name):
                yield name
            else:
                left[_TORN] += 1
        elif work == "steps":
            by_folder.setdefault("/".join(name.split("/")[:2]), []).append(name)
        elif work:
            by_folder.setdefault(f"{folder}/{file.partition('.')[0]}", []).append(name)
    for part, files in by_folder.items():
        fault = _fault_of_step(source / part, identities) if part.startswith("steps/") else _fault_of_part(source / part, identities)
        if fault:
            left[fault] += 1
        else:
            yield from files


def _fault_of_part(stem: epath.Path, identities: Collection[str]) -> str:
    """Why a part, whose files are STEM.something, is not taken; "" when it is: of decoding one file, of segments three."""
    lines = _lines(stem.parent / f"{stem.name}.jsonl")
    if lines is None:
        return _TORN
    try:
        if name := PartName.parse(f"{stem.name}.jsonl"):
            made_from, whole = json.loads(lines[0])[MADE_FROM], len(lines) - 1 == name.records
        else:
            made_from = storage.read_json(stem.parent / f"{stem.name}.json")["identity"]
            with (stem.parent / f"{stem.name}.npy").open("rb") as file:
                whole = len(np.load(file, allow_pickle=False)) == len(lines)
    except (UserError, OSError, ValueError, EOFError, KeyError, IndexError, TypeError):
        return _TORN
    return _TORN if not whole else "" if made_from in identities else _FOREIGN


def _fault_of_step(folder: epath.Path, identities: Collection[str]) -> str:
    """Why a training checkpoint is not taken; "" when it is."""
    if checksums.find_damage(folder, complete=True):
        return _TORN
    try:
        [meta] = (name for name in checksums.read(folder) if name.startswith("meta"))
        made_from = storage.read_json(folder / meta)["made_from"]
    except (UserError, ValueError, KeyError, TypeError):
        return _TORN
    return "" if made_from in identities else _FOREIGN


def _is_passing(name: str) -> bool:
    """Whether a file is only there while somebody works, or is a killed writer's."""
    file = name.rpartition("/")[2]
    return file == locks.NAME or file.startswith(storage.TEMPORARY)


def _whole(file: epath.Path) -> bool:
    if file.name.endswith(".jsonl"):
        return _lines(file) is not None
    try:
        storage.read_json(file)
    except UserError:
        return False
    return True


def _lines(file: epath.Path) -> list[bytes] | None:
    """The lines of a file; None when it is not there, or its last line is cut off."""
    if not file.exists():
        return None
    data = file.read_bytes()
    return data.splitlines() if not data or data.endswith(b"\n") else None


def _copy(source: epath.Path, target: epath.Path, names: list[str]) -> int:
    """Publishes files in their order and returns how many bytes they have. UserError for one that is there with other bytes."""
    total = 0
    with Bar(f"{target.name}: copied", "B", sum((source / name).stat().length for name in names), scaled=True, shown=None) as bar:

        def chunks(name: str) -> Iterator[bytes]:
            for chunk in storage.read_chunks(source / name):
                bar.advance(len(chunk))
                yield chunk

        for name in names:
            size = (source / name).stat().length
            total += size
            try:
                storage.publish(target / name, chunks(name), replace=name == identity.TIMING)
            except FileExistsError as error:
                raise UserError(f"{error}; delete {target} to take what --resume_from has, or leave the flag out") from error
    return total
