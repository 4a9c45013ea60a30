"""The only writer besides Orbax and tfds: whole files, written once, local or on gs://.

A file that has its final name is complete: it was written under a temporary name, synced and renamed, or on gs:// uploaded, which
shows a file whole or not at all. Nothing is appended to.
"""

import base64
import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import fsspec
import google_crc32c
from etils import epath

from humpback import machine
from humpback.errors import UserError

TEMPORARY = ".humpback-tmp-"  # what the names of unfinished files begin with
PathLike = str | os.PathLike
Crc32c = google_crc32c.Checksum
_UPLOADS = 3
_SYNC_BYTES = 1 << 27  # of a large file go to the disk while the next ones are made

# Whatever opens gs://, epath and Orbax among it, gets this one; it is imported when somebody does.
for _protocol in ("gs", "gcs"):
    _missing = "gs:// paths need the extra `gs`: pip install -c launch/constraints.txt -e .[gs]"
    fsspec.register_implementation(_protocol, "humpback.gcs.Gcs", clobber=True, errtxt=_missing)
# TensorStore, which moves the arrays, sets no limit by itself: a connection that died would be waited for until the kernel gives it
# up (github.com/google/tensorstore/issues/291). It reads these at its first request.
for _name, _value in {"CONNECT_TIMEOUT_SECONDS": "30", "LOW_SPEED_TIME_SECONDS": "60", "LOW_SPEED_LIMIT_BYTES": "1"}.items():
    os.environ.setdefault(f"TENSORSTORE_CURL_{_name}", _value)


def publish(path: PathLike, data: bytes | str | Iterable[bytes | memoryview], *, replace: bool = False) -> str:
    """Writes a whole file once and returns the sha256 of its bytes as hex digits.

    A file that is already there with the same bytes counts as done. One with other bytes raises FileExistsError unless `replace`,
    which is only for what derives from everything else (summary.json, timing.json, report.md, report.html), config.json and caches.
    """
    chunks = _chunks(data)
    target = epath.Path(path)
    if not is_local(target):
        return _publish_remote(target, chunks, replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}"  # process ids are not unique where several hosts write
    digest = hashlib.sha256()
    try:
        with open(temporary, "xb") as file, concurrent.futures.ThreadPoolExecutor(1) as thread:
            syncing, begun = None, 0
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
                if file.tell() - begun >= _SYNC_BYTES and (syncing is None or syncing.done()):
                    if syncing is not None:
                        syncing.result()  # an error is told once
                    syncing, begun = thread.submit(machine.sync_data, file.fileno()), file.tell()
            if syncing is not None:
                syncing.result()
            file.flush()
            os.fsync(file.fileno())
        if not replace and target.exists():
            if sha256_file(target) != digest.hexdigest():
                raise FileExistsError(f"{target}: already there with other contents; a published file is never rewritten")
            return digest.hexdigest()
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{target}: no room left on the disk; free some space and run the same command again, what is finished stays"
            ) from error
        raise
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def publish_json(path: PathLike, value: Any, *, replace: bool = False) -> str:
    """`publish` for a JSON value in one canonical form (sorted keys, two spaces, UTF-8), so equal values are equal bytes."""
    return publish(path, json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n", replace=replace)


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for json.loads(…, object_pairs_hook=…). ValueError for a name that is there twice, of which JSON does not say which
    counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the field {name!r:.80} is there twice; leave out one")
    return found


def read_json(path: PathLike) -> Any:
    """Reads a JSON file; UserError names the file, and the line where it is malformed."""
    try:
        return json.loads(epath.Path(path).read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def read_bytes(path: PathLike) -> bytes:
    """A whole file; on gs:// by one request."""
    if is_local(path):
        return epath.Path(path).read_bytes()
    return fsspec.filesystem("gs").cat_file(os.fspath(path))


def read_chunks(path: PathLike, size: int = 1 << 20) -> Iterator[bytes]:
    """Yields a file's bytes in pieces of at most `size` bytes."""
    with epath.Path(path).open("rb") as file:
        while chunk := file.read(size):
            yield chunk


def sha256_file(path: PathLike) -> str:
    """sha256 of a file's bytes as hex digits, read in pieces."""
    digest = hashlib.sha256()
    for chunk in read_chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def crc32c_file(path: PathLike) -> str:
    """crc32c of a file's bytes as eight hex digits, read in pieces; against damage by chance, at six times sha256's speed."""
    checksum = Crc32c()
    for chunk in read_chunks(path):
        checksum.update(chunk)
    return checksum.hexdigest().decode()


def crc32c(data: bytes) -> str:
    """`crc32c_file` of bytes."""
    checksum = Crc32c()
    checksum.update(data)
    return checksum.hexdigest().decode()


def read_generation(path: PathLike) -> tuple[bytes | None, str]:
    """The bytes of an object of gs:// and its generation; (None, "0") when there is none."""
    return fsspec.filesystem("gs").read_generation(os.fspath(path))


def replace_generation(path: PathLike, data: bytes, generation: str) -> str | None:
    """Writes a small object of gs:// where that of a generation still is ("0": none); the new generation, None where it is not."""
    return fsspec.filesystem("gs").replace_generation(os.fspath(path), data, generation)


def clean(folder: PathLike) -> None:
    """Removes what killed writers left in `folder` (not below it)."""
    path = epath.Path(folder)
    if is_local(path) and path.exists():
        for file in path.iterdir():
            if file.name.startswith(TEMPORARY):
                file.unlink(missing_ok=True)


def list_files(folder: PathLike) -> list[str]:
    """Names of the published files right in `folder`, sorted; [] when there is no such folder."""
    path = epath.Path(folder)
    if not is_local(path):  # in one listing; epath would ask for each file whether it is a folder
        with contextlib.suppress(FileNotFoundError):
            found = fsspec.filesystem("gs").ls(os.fspath(path), detail=True)
            return sorted(os.path.basename(entry["name"]) for entry in found if entry["type"] == "file")
        return []
    if not path.exists():
        return []
    return sorted(p.name for p in path.iterdir() if not p.is_dir() and not p.name.startswith(TEMPORARY))


def objects_below(folder: PathLike) -> dict[str, dict[str, Any]]:
    """{path inside the folder: {"size": bytes, "crc32c": eight hex digits}} of all objects of a folder of gs://, from one listing."""
    inside = f"{os.fspath(folder).partition('://')[2].rstrip('/')}/"
    listed = fsspec.filesystem("gs").find(os.fspath(folder), detail=True)
    return {
        name.removeprefix(inside): {"size": int(entry["size"]), "crc32c": base64.b64decode(entry["crc32c"]).hex()}
        for name, entry in listed.items()
    }


def _chunks(data: bytes | str | Iterable[bytes | memoryview]) -> Iterable[bytes | memoryview]:
    if isinstance(data, str):  # a file's name that is not UTF-8 is, in JSON, written as JSON has it
        return (data.encode("utf-8", "backslashreplace"),)
    return (data,) if isinstance(data, bytes) else data


def is_local(path: PathLike) -> bool:
    """Whether a path is on this machine's disks; otherwise it is one of gs://."""
    return "://" not in os.fspath(path)


def _publish_remote(target: epath.Path, chunks: Iterable[bytes | memoryview], replace: bool) -> str:
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(prefix=TEMPORARY) as spool:  # a request that is repeated needs the bytes again
        for chunk in chunks:
            digest.update(chunk)
            spool.write(chunk)
        spool.flush()
        try:
            _upload(spool.name, target, replace)
        except FileExistsError:  # also of an upload of ours whose answer was lost
            if sha256_file(target) != digest.hexdigest():
                raise FileExistsError(f"{target}: already there with other contents; a published file is never rewritten") from None
    return digest.hexdigest()


def _upload(source: str, target: epath.Path, replace: bool) -> None:
    """One object from a local file, with if-generation-match 0 unless `replace`: FileExistsError when there is one."""
    path = os.fspath(target)
    files = fsspec.filesystem("gs")
    try:
        for attempt in range(_UPLOADS):
            try:
                return files.put_file(source, path, mode="overwrite" if replace else "create")
            except FileNotFoundError:  # of an upload in pieces whose last answer was lost, or there is no such bucket
                if attempt + 1 == _UPLOADS:
                    raise
    except FileNotFoundError as error:
        raise UserError(f"{target}: there is no such bucket; make it: gcloud storage buckets create gs://{path.split('/')[2]}") from error
    except OSError as error:
        if not str(error).startswith("Forbidden"):  # gcsfs' word for 403
            raise
        raise UserError(
            f"{target}: not allowed to write there; give the account that this machine uses the role roles/storage.objectUser ({error})"
        ) from error


def _sync_folder(folder: epath.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
