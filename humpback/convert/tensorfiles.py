"""Files of named tensors: safetensors, read and written by byte range, and PyTorch's, mapped into memory.

Both readers give `tensors`, name → `TensorEntry`, and `read(name)`. Nothing is held but the tensor that is asked for.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from humpback import extras
from humpback.convert.tensor_ops import DTYPES
from humpback.errors import UserError

AGAIN = "copy or download the folder again"
_CODES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # as safetensors calls them
_HEADER_LIMIT = 100_000_000  # of the format


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """A tensor of a file. dtype: a name of tensor_ops.DTYPES, or what the file calls a type that no weight here has."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0  # of its first byte in the file


class Tensors(Protocol):
    """What both kinds of files give."""

    tensors: dict[str, TensorEntry]

    def open(self, file: str) -> dict[str, TensorEntry]:
        """Looks at one file and gives its tensors. UserError when it is missing or broken."""

    def read(self, name: str) -> np.ndarray:
        """The whole tensor in the file's own type; it may be a view of a mapped file."""


def open_files(files: list[str], index: Mapping[str, str] | None, index_file: str) -> Tensors:
    """The tensors of several files of one kind. index: tensor → file name, of the index file.

    UserError for a file that is missing or cut off, a tensor that is in two files, or is not where the index puts it.
    """
    reader: Tensors = Safetensors() if files[0].endswith(".safetensors") else Torch()
    for file in files:
        for name, entry in reader.open(file).items():
            if name in reader.tensors:
                raise UserError(f"tensor {name} is in {reader.tensors[name].file} and again in {file}; {AGAIN}")
            reader.tensors[name] = entry
    for name, file in (index or {}).items():
        if name not in reader.tensors or os.path.basename(reader.tensors[name].file) != file:
            raise UserError(f"{index_file}: tensor {name} is not in {file}, where the index puts it; {AGAIN}")
    return reader


class Safetensors:
    """safetensors files: eight bytes that say how long the header is, the header in JSON, the tensors' bytes one after the other."""

    def __init__(self) -> None:
        self.tensors: dict[str, TensorEntry] = {}

    def open(self, file: str) -> dict[str, TensorEntry]:
        """The tensors of one file. UserError when it is missing, or shorter or longer than its header says."""
        try:
            return _read_header(file)
        except OSError as error:
            raise UserError(f"{file}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}; {AGAIN}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: not a whole safetensors file ({error}); {AGAIN}") from error

    def read(self, name: str) -> np.ndarray:
        """A fresh array, read from its range of bytes alone."""
        entry = self.tensors[name]
        array = np.empty(entry.shape, DTYPES[entry.dtype])
        with open(entry.file, "rb", buffering=0) as file:
            file.seek(entry.offset)
            rest = array.reshape(-1).view(np.uint8).data
            while rest and (count := file.readinto(rest)):
                rest = rest[count:]
        if rest:
            raise UserError(f"{entry.file}: was cut off while it was read; {AGAIN}")
        return array


def _read_header(file: str) -> dict[str, TensorEntry]:
    size = os.path.getsize(file)
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _HEADER_LIMIT):
            raise ValueError(f"{size} bytes, of which the header would be {length}")
        header = json.loads(stream.read(length), object_pairs_hook=_unique)
    start, end, tensors = 8 + length, 0, {}
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    for name, entry in sorted(entries, key=lambda item: item[1]["data_offsets"]):
        (begin, stop), shape = entry["data_offsets"], tuple(entry["shape"])
        dtype = _CODES.get(entry["dtype"], entry["dtype"])
        if begin != end or (dtype in DTYPES and stop - begin != math.prod(shape) * DTYPES[dtype].itemsize):
            raise ValueError(f"the header's offsets of tensor {name} do not fit")
        tensors[name] = TensorEntry(file, dtype, shape, start + begin)
        end = stop
    if start + end != size:
        raise ValueError(f"{size} bytes, the header says {start + end}")
    return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return values


def safetensors_bytes(
    tensors: Mapping[str, tuple[tuple[int, ...], str]], arrays: Iterator[np.ndarray]
) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces: name → (shape, dtype), and the arrays in the same order, asked for one after the other."""
    codes = {dtype: code for code, dtype in _CODES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in tensors.items():
        size = math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for (name, (shape, dtype)), array in zip(tensors.items(), arrays, strict=True):
        if array.shape != shape or str(array.dtype) != dtype:
            raise ValueError(f"tensor {name} is {array.dtype} {array.shape}, must be {dtype} {shape}")
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class Torch:
    """PyTorch's files (.bin, .pth), mapped, of which nothing but tensors is unpickled."""

    def __init__(self) -> None:
        self.tensors: dict[str, TensorEntry] = {}
        self._values: dict[str, Any] = {}

    def open(self, file: str) -> dict[str, TensorEntry]:
        """The tensors of one file. UserError when PyTorch is not installed, or cannot read or map it."""
        values = load_torch(file)
        tensors = {}
        for name, value in values.items():
            if not hasattr(value, "untyped_storage"):
                raise UserError(f"{file}: {name} is a {type(value).__name__}, not a tensor; this is not a file of weights alone")
            self._values[name] = value
            tensors[name] = TensorEntry(file, str(value.dtype).removeprefix("torch."), tuple(value.shape))
        return tensors

    def read(self, name: str) -> np.ndarray:
        """A view of the mapped file."""
        return torch_array(self._values[name])


def load_torch(file: str) -> dict[str, Any]:
    """A PyTorch file's dict of tensors, mapped. UserError without PyTorch, and for a file that is broken or holds other things."""
    torch = extras.load("torch", "convert", f"{file}: reading PyTorch's files")
    if not os.path.exists(file):
        raise UserError(f"{file}: no such file; {AGAIN}")
    with open(file, "rb") as stream:
        begin = stream.read(2)
    if begin == b"\x80\x02":  # a pickle of its own, and not the archive that came with PyTorch 1.6
        again = "torch.save(torch.load(OLD, weights_only=True), NEW)"
        raise UserError(f"{file}: a file of PyTorch before 1.6, which cannot be read a part at a time; save it once more: {again}")
    try:
        values = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # it raises RuntimeError, OSError, ValueError, pickle's, by what is wrong
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        if "WeightsUnpickler" in text or "Weights only load failed" in text:
            what = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:global|class|operand)[: ]+(?:GLOBAL )?([\w.]+)", text)
            named = f" ({what[1] or what[2]})" if what else ""
            raise UserError(
                f"{file}: holds other Python objects than tensors{named}, and to load those would run code; take safetensors, or save "
                "the model's state_dict alone"
            ) from error
        line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise UserError(f"{file}: not a whole PyTorch file of weights ({line}); {AGAIN}") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{file}: holds a {type(values).__name__}, not a dict of tensors")
    return dict(values)


def torch_array(value: Any) -> np.ndarray:
    """A torch tensor's memory as a numpy array, which has no bfloat16 of its own."""
    import torch

    value = value.detach()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(DTYPES["bfloat16"])
    return value.numpy()
