"""Files and folders of records: JSON lines, a JSON array, CSV, Parquet, Arrow, a saved dataset of Hugging Face, a folder of Parquet."""

import contextlib
import csv
import gzip
import io
import json
import os
import re
import types
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
from etils import epath

from humpback import extras, storage
from humpback.errors import UserError
from humpback.records import half_surrogate

JSON_LINES = "JSON lines"
_TAKES = "JSON lines, a JSON array, CSV, Parquet, a saved dataset of Hugging Face or a folder of data/*.parquet is read"
_HEAD = 4_096  # bytes that tell what a file is
_BOM = b"\xef\xbb\xbf"
# The first bytes of files that are no text: of those that are read, and of others.
_TABLES = ((b"PAR1", "Parquet"), (b"ARROW1", "Arrow"), (b"\xff\xff\xff\xff", "Arrow"))
_FOREIGN = (
    (b"\xff\xfe", "text in UTF-16", "save it in UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it in UTF-8"),
    (b"\x1f\x8b", "compressed with gzip", "let its name end with .gz"),
    (b"BZh", "compressed with bzip2", "unpack it"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet", "unpack it, or save it as CSV"),
)
_SEPARATORS = (",", "\t", ";")
_CSV_NAME = re.compile(r"\.(?:csv|tsv)(?:\.gz)?", re.IGNORECASE)
# A split, the file's number, of how many, and a hash of the contents, as the hub's converters and Spark name files.
_SPLIT = re.compile(r"(.*?)(?:(?:^|[-_.])(\d+)(?:-of-(\d+))?(?:-[0-9a-f]{16})?)?\.parquet")
_CELL = 1 << 30  # characters


class Row(NamedTuple):
    """A record: its value; or in `error` what is wrong with it, and then its value may be a text that was not understood.

    number: the line where it begins, or its place from 1 in an array or a table. start, end: its bytes in (uncompressed) JSON lines,
    elsewhere number - 1 and number.
    """

    file: epath.Path
    number: int
    start: int
    end: int
    value: Any
    error: str = ""

    @property
    def where(self) -> str:
        """As file:number."""
        return f"{self.file}:{self.number}"


class Container(NamedTuple):
    """What a path holds: the files with records, in their order, those that say which they are, and what is to be said of it."""

    kind: str
    files: list[epath.Path]
    described_by: list[epath.Path]
    notes: list[str]

    def rows(self) -> Iterator[Row]:
        """All records. UserError for a file that is damaged, or when pyarrow is missing."""
        for file in self.files:
            yield from _READERS[self.kind](file)


def open_container(path: epath.Path) -> Container:
    """Looks at what is there. UserError for what is not there or is none of this."""
    if not path.exists():
        raise UserError(f"{path}: no such file; {_TAKES}")
    if path.is_dir():
        return _folder(path)
    with opened(path) as file:
        head = file.read(_HEAD)
    for magic, name in _TABLES:
        if head.startswith(magic):
            return Container(name, [path], [], [])
    for magic, name, way_out in _FOREIGN:
        if head.startswith(magic):
            raise UserError(f"{path}: this is {name}; {way_out}. {_TAKES}")
    notes = ["begins with a byte order mark, which is passed over"] if head.startswith(_BOM) else []
    text = head.removeprefix(_BOM).lstrip()
    kind = "JSON array" if text.startswith(b"[") else "CSV" if _separator(path, text) else JSON_LINES
    return Container(kind, [path], [], notes)


def list_files(path: str) -> list[tuple[str, str]]:
    """(name, path) of the files that decide what is read from a path."""
    if not epath.Path(path).is_dir():
        return [(epath.Path(path).name, path)]
    found = open_container(epath.Path(path))
    return [(file.name, os.fspath(file)) for file in [*found.described_by, *found.files]]


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[Any]:
    """The file, unpacked where its name ends with .gz. UserError when it is damaged."""
    with path.open("rb") as raw:
        try:
            yield gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: not a whole gzip file ({error}); fetch it again") from error


def _folder(path: epath.Path) -> Container:
    """A dataset saved with save_to_disk, or Parquet files right in it or in its data/. Of several splits it is `train`."""
    names = {child.name for child in path.iterdir()}
    if "dataset_dict.json" in names:
        file = path / "dataset_dict.json"
        split, notes = _train(path, _saved(file, _Splits).splits)
        if not (path / split / "state.json").exists():
            raise UserError(f"{path / split}: no saved dataset is there, which {file.name} names; the folder is not whole")
        return _dataset(path / split, notes)
    if "state.json" in names:
        return _dataset(path, [])
    folder = next((place for place in (path, path / "data") if any(n.endswith(".parquet") for n in storage.list_files(place))), None)
    if folder is None:
        raise UserError(f"{path}: a folder without Parquet files and no saved dataset; name a file. {_TAKES}")
    parts = {name: match for name in storage.list_files(folder) if (match := _SPLIT.fullmatch(name))}
    split, notes = _train(path, sorted({match[1] for match in parts.values()}))
    own = {name: match for name, match in parts.items() if match[1] == split}
    for total in {int(match[3]) for match in own.values() if match[3]}:
        numbers = {int(match[2]) for match in own.values() if match[3] and int(match[3]) == total}
        if len(numbers) < total:  # which some count from 1
            lost = min(set(range(total)) - numbers)
            raise UserError(f"{folder}: of {total} files of {split!r} number {lost} is missing; fetch the folder again")
    return Container("Parquet", [folder / name for name in own], [], notes)


def _dataset(path: epath.Path, notes: list[str]) -> Container:
    """One split, saved with save_to_disk."""
    state = _saved(path / "state.json", _State)
    if state.indices:
        raise UserError(f"{path}: was saved with an index of its rows; save it again with `flatten_indices()`")
    return Container("Arrow", [path / file.filename for file in state.data], [path / "state.json"], notes)


class _Splits(msgspec.Struct):
    splits: list[str] = []


class _File(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    data: list[_File] = msgspec.field(name="_data_files")
    indices: list[_File] | None = msgspec.field(name="_indices_data_files", default=None)


def _saved(file: epath.Path, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(storage.read_json(file), kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{file}: not of a dataset saved with save_to_disk ({error})") from error


def _train(path: epath.Path, splits: list[str]) -> tuple[str, list[str]]:
    """The only split, or `train`, and a note of those that are passed over. UserError when neither is there."""
    split = splits[0] if len(splits) == 1 else "train"
    if split not in splits:
        raise UserError(f"{path}: its splits are {', '.join(splits) or 'none'}, and none of them is train; name one's file or folder")
    others = [name for name in splits if name != split]
    return split, [f"only the split {split} is read, not {', '.join(others)}"] if others else []


def _json_lines(path: epath.Path) -> Iterator[Row]:
    position = 0
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            content = line.rstrip(b"\r\n")
            start, end = position, position + len(content)
            position += len(line)
            value: Any
            error = ""
            try:
                text = content.decode("utf-8-sig" if start == 0 else "utf-8")
                if not text.strip():
                    continue
                value = json.loads(text, object_pairs_hook=storage.object_of)
            except UnicodeDecodeError as wrong:
                error, value = f"not UTF-8 ({wrong.reason} at byte {wrong.start} of the line)", content.decode(errors="replace")
            except json.JSONDecodeError as wrong:
                what = "a comma follows the object" if text.rstrip().endswith("},") else f"{wrong.msg} at character {wrong.pos + 1}"
                error, value = f"not JSON ({what}); every line must be one JSON object", text
            except (ValueError, RecursionError) as wrong:
                error, value = str(wrong), text
            yield Row(path, number, start, end, value, error)


def _json_array(path: epath.Path) -> Iterator[Row]:
    with opened(path) as file:
        data = file.read()
    try:
        values = json.loads(data.decode("utf-8-sig"), object_pairs_hook=storage.object_of)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not a whole JSON array ({error.msg} at character {error.colno} of the line)") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON array in UTF-8 ({error})") from error
    for number, value in enumerate(values, 1):
        yield Row(path, number, number - 1, number, value)


def _csv(path: epath.Path) -> Iterator[Row]:
    with opened(path) as file:
        separator = _separator(path, file.read(_HEAD).removeprefix(_BOM).lstrip()) or ","
    csv.field_size_limit(_CELL)
    with opened(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter=separator, strict=True)
        columns: list[str] = []
        line = 0
        try:
            for number, cells in enumerate(filter(None, reader)):
                begins, line = line + 1, reader.line_num
                if not columns:
                    columns = [cell.strip() for cell in cells]
                    if twice := [name for name, count in Counter(filter(None, columns)).items() if count > 1]:
                        raise UserError(f"{path}:1: several columns are named {twice[0]!r}; rename or remove all but one")
                    continue
                error = "" if len(cells) == len(columns) else f"{len(cells)} cells for the {len(columns)} columns {', '.join(columns)}"
                if any(map(half_surrogate, cells)):
                    error = "not UTF-8"
                yield Row(path, begins, number - 1, number, dict(zip(columns, cells, strict=False)), error)
        except csv.Error as error:
            raise UserError(f"{path}:{line + 1}: not CSV ({error}); is a quotation mark missing from here on?") from error


def _separator(path: epath.Path, head: bytes) -> str:
    """What stands between the columns that a first line names; "" where it names none. A file of that name has always columns."""
    first = head.split(b"\n", 1)[0].decode(errors="replace").strip()
    columns = {separator: [column.strip(" \"'") for column in first.split(separator)] for separator in _SEPARATORS}
    named = [separator for separator, names in columns.items() if len(names) > 1 and all(name.isidentifier() for name in names)]
    if named:
        return named[0]
    return max(_SEPARATORS, key=lambda separator: len(columns[separator])) if _CSV_NAME.search(path.name) and first else ""


def _parquet(path: epath.Path) -> Iterator[Row]:
    parquet = extras.load("pyarrow.parquet", "corpus", f"{path}: Parquet")
    return _batches(path, "Parquet", lambda arrow, file: parquet.ParquetFile(file).iter_batches())


def _arrow(path: epath.Path) -> Iterator[Row]:
    def batches(arrow: types.ModuleType, file: Any) -> Iterator[Any]:
        ipc = extras.load("pyarrow.ipc", "corpus", f"{path}: Arrow")
        if file.read(6) == b"ARROW1":
            whole = ipc.open_file(file)
            return (whole.get_batch(number) for number in range(whole.num_record_batches))
        file.seek(0)
        return iter(ipc.open_stream(file))

    return _batches(path, "Arrow", batches)


def _batches(path: epath.Path, kind: str, read: Callable[[types.ModuleType, Any], Iterator[Any]]) -> Iterator[Row]:
    arrow = extras.load("pyarrow", "corpus", f"{path}: {kind}")
    number = 0
    try:
        with path.open("rb") as file:
            for batch in read(arrow, file):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(path, number, number - 1, number, value)
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; the folder is not whole") from error
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a whole {kind} file ({' '.join(str(error).split())[:200]}); fetch it again") from error


_READERS = {JSON_LINES: _json_lines, "JSON array": _json_array, "CSV": _csv, "Parquet": _parquet, "Arrow": _arrow}
