"""Parquet files to pages: a record a row, of HTML or of text; a few rows at a time of one row group after another."""

import io
import os
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from humpback import extras, storage
from humpback.corpus.charset import MAX_PAGE_BYTES, no_page
from humpback.corpus.fields import Keys
from humpback.records import Page

MAGIC = (b"PAR1", b"PARE")  # at either end of a file; the second where its footer is encrypted
_BATCH_BYTES = 1 << 25  # of the rows that are held at once, if they are like the others of their row group …
_BATCH_ROWS = 1024  # … and their most
_BUFFER_BYTES = 1 << 20  # of a column that are read at a time

OnDrop = Callable[[str, str], None]
Warn = Callable[[str], None]


def require() -> Any:
    """The package that reads Parquet. UserError where it is not installed."""
    extras.load("pyarrow.parquet", "corpus", "Parquet")
    pyarrow = extras.load("pyarrow", "corpus", "Parquet")
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # others reserve more than a worker may have
    return pyarrow


def read_pages(source: str, path: storage.PathLike, keys: Keys, on_drop: OnDrop, warn: Warn) -> Iterator[Page]:
    """Yields the page of each row that holds one; the others go to `on_drop(source:row, reason)`, rows counted from 0.

    What is damaged costs the rest of its row group. OSError when the file cannot be opened, or a bucket fails while it is read.
    """
    pyarrow = require()
    with _File(path) as file:
        opened = _opened(file)
        if isinstance(opened, str):
            on_drop(source, opened)
            return
        names, every = _names(opened.schema_arrow)
        pages, urls = keys.candidates(names)
        if not pages:
            on_drop(source, keys.reason(names))
            warn(f"{source}: {opened.metadata.num_rows} rows: {keys.complaint(every)}")
            return
        if not opened.metadata.num_rows:
            on_drop(source, "empty")
        columns = list(dict.fromkeys([*(key for _, key in pages), *urls]))
        row = 0
        for group in range(opened.metadata.num_row_groups):
            begun, reason = row, ""
            rows = opened.metadata.row_group(group).num_rows
            size = _batch_rows(opened.metadata.row_group(group).total_byte_size, rows)
            try:
                for batch in opened.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
                    held = {name: _column(pyarrow, batch, name) for name in columns}
                    for place in range(batch.num_rows):
                        page = _page(source, row, held, place, pages, urls)
                        if isinstance(page, str):
                            on_drop(f"{source}:{row}", page)
                        else:
                            yield page
                        row += 1
            except MemoryError:
                reason = "too much memory"
            except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
                file.raise_failure()
                reason = "encrypted" if "crypt" in str(error) else "damaged"
            end = begun + rows
            if reason or row != end:
                on_drop(source, reason or "damaged")
                warn(f"{source}: {reason or 'damaged'} at row {row}; {max(end - row, 0)} rows to the end of their row group are lost")
                row = end


def column_names(path: storage.PathLike) -> tuple[list[str], list[str]] | str:
    """The names of a file's columns that can hold a text, and of all, those of inner records behind a dot; or why it cannot be read."""
    require()
    with _File(path) as file:
        opened = _opened(file)
        return opened if isinstance(opened, str) else _names(opened.schema_arrow)


class _File(io.RawIOBase):
    """A file that remembers whether it failed, and not what is in it. OSError when it cannot be opened."""

    def __init__(self, path: storage.PathLike) -> None:
        self._remote = "://" in os.fspath(path)
        self._file = epath.Path(path).open("rb")
        self._failed: OSError | None = None

    def raise_failure(self) -> None:
        """Raises what the file has raised while it was read, if anything."""
        if self._failed is not None:
            raise self._failed

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            self._failed = error
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def _opened(file: _File) -> Any:
    """The file as pyarrow's `ParquetFile`, or the reason why it is none."""
    pyarrow = require()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(len(MAGIC[0]))
    file.seek(max(size - len(MAGIC[0]), 0))
    tail = file.read()
    file.seek(0)
    if not size:
        return "empty"
    if b"PARE" in (head, tail):
        return "encrypted"
    try:
        return pyarrow.parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
    except MemoryError:
        return "too much memory"
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        file.raise_failure()
        if head in MAGIC and tail not in MAGIC:
            return "truncated"
        return "encrypted" if "crypt" in str(error) else "damaged"


def _names(schema: Any, before: str = "") -> tuple[list[str], list[str]]:
    """The columns that can hold a text, and all."""
    types = require().types
    found: list[str] = []
    every: list[str] = []
    for field in schema:
        kind, name = field.type, f"{before}{field.name}"
        while types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_struct(kind):
            inner, below = _names(kind, f"{name}.")
            found, every = found + inner, every + below
        else:
            found, every = found + [name] * _holds_text(types, kind), [*every, name]
    return found, every


def _holds_text(types: Any, kind: Any) -> bool:
    strings = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_such(kind) for is_such in (*strings, types.is_binary, types.is_large_binary, types.is_binary_view))


def _batch_rows(size: int, rows: int) -> int:
    """How many rows are read at a time of a row group of so many bytes and rows."""
    each = max(size // max(rows, 1), 1)  # a column's own size cannot be asked for: of an encrypted one that ends the process
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // each))


def _column(pyarrow: Any, batch: Any, name: str) -> tuple[Any, bool] | None:
    """(values of a column as bytes, whether it is of text); None if the batch has none such."""
    names = batch.schema.names
    path = [name] if name in names else name.split(".")
    if path[0] not in names:
        return None
    values = batch.column(names.index(path[0]))
    for inner in path[1:]:
        if not pyarrow.types.is_struct(values.type) or values.type.get_field_index(inner) < 0:
            return None
        values = pyarrow.compute.struct_field(values, inner)
    if pyarrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not _holds_text(pyarrow.types, values.type):
        return None
    is_text = not any(map(str(values.type).startswith, ("binary", "large_binary")))
    return values.cast(pyarrow.large_binary()), is_text


def _page(
    source: str, row: int, held: dict[str, tuple[Any, bool] | None], place: int, pages: tuple[tuple[str, str], ...], urls: tuple[str, ...]
) -> Page | str:
    """The page of a row, or the reason why it has none."""
    for kind, key in pages:
        found = held[key]
        cell = found[0][place] if found is not None else None
        if found is None or cell is None or not cell.is_valid:
            continue
        if (buffer := cell.as_buffer()).size > MAX_PAGE_BYTES:
            return "too large"
        data = buffer.to_pybytes()
        url = next((text for key in urls if (text := _text(held[key], place))), source)
        return no_page(data, kind) or Page(source, url, row, row + 1, data, "utf-8" if found[1] else "", kind=kind)
    return "empty"


def _text(found: tuple[Any, bool] | None, place: int) -> str:
    """The text of a cell; "" if it has none."""
    cell = found[0][place] if found is not None else None
    return cell.as_buffer().to_pybytes().decode("utf-8", "replace").strip() if cell is not None and cell.is_valid else ""
