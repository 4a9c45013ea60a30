"""A model's weights on disk, one array per layer and name, written and read a few at a time: memory does not grow with the model.

With folders.py and training/checkpoint.py the only user of Orbax, which writes them. TensorStore, on which Orbax stands, reads them:
Orbax asks 40 things of a folder and one or more of each of its arrays whenever something is read, one after the other.
"""

import concurrent.futures
import contextlib
import copy
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath
from orbax.checkpoint import v1 as ocp

from humpback import storage
from humpback.errors import UserError
from humpback.model import sharding as model_sharding
from humpback.model import weights as model_weights
from humpback.model.weights import LlamaConfig
from humpback.models import checksums

Leaf = tuple[str, ...]  # a weight's path: ("embedding",) or ("layers", "0", "q")
TEMPORARY = ".orbax-checkpoint-tmp"  # what Orbax appends to a folder that it has not finished
# What is read of an array is whole chunks, so a process that needs a part of one reads little more than its own bytes.
_CHUNK_BYTES = 1 << 21
_UPLOADS_AT_ONCE = 4
_INDEX_BYTES = 1 << 24
_COMMITTED = "commit_success.txt"
_PARTIAL = ".partial_save"  # what Orbax appends to a folder that it saves in parts


def saving_context(path: epath.Path) -> ocp.Context:
    """For saving at a path."""
    context = ocp.Context()
    # On gs:// each array has files of its own. In one database for all, OCDBT, TensorStore takes a write of its own whose answer was
    # lost for somebody else's, and the save fails (ALREADY_EXISTS; github.com/google/tensorstore/issues/290).
    context.array_options.saving.use_ocdbt = storage.is_local(path)
    context.array_options.saving.use_compression = False  # float weights hardly shrink: 4.1 s against 0.6 s for 400 MB
    # In the background, a folder that cannot be made would leave threads behind that let no process end for five minutes.
    context.async_options.create_directories_asynchronously = False
    return context


def start_saving(path: epath.Path, tree: Any) -> Any:
    """Begins to write a tree; the `.result()` of what it returns waits for the end and raises what went wrong."""
    with saving_context(path):
        return ocp.save_async(absolute(path), tree)


def write(
    path: epath.Path,
    cfg: LlamaConfig,
    read: Callable[[Leaf], np.ndarray],
    dtype: Callable[[Leaf], Any],
    look: Callable[[Leaf, np.ndarray], None],
) -> dict[str, dict[str, Any]]:
    """Writes the weights that `read` gives, each asked for once and in the order of `leaves`. `path` appears when all are there.

    Every process calls it, because Orbax meets, but only the first one writes and reads. In its memory are what is being written
    and what is being read meanwhile, each of about the size of the largest weight. On gs://, where Orbax does not save in parts, a
    single process writes to a local folder first (TMPDIR says where; it takes the model's size), and of several the first holds the
    whole model. dtype: a weight's type. look: is shown each weight.
    Returns what checksums.json says of files that arrays are in, by their names without folders, measured while they were in memory.
    """
    measured: dict[str, dict[str, Any]] = {}
    if not storage.is_local(path) and jax.process_count() == 1:
        with _beside(path) as folder:
            measured = write(folder / path.name, cfg, read, dtype, look)
            _upload(folder / path.name, path)
        return measured
    context = saving_context(path)
    context.array_options.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
    in_parts = storage.is_local(path)
    writing: Any = None
    tree: dict[str, Any] = {}
    with context, told_when_full(path), concurrent.futures.ThreadPoolExecutor(1) as thread:
        for group in _groups(cfg):
            for leaf in group:
                if jax.process_index() == 0:
                    array = np.ascontiguousarray(read(leaf))
                    look(leaf, array)
                else:  # of no memory of its own; nobody writes it
                    array = np.broadcast_to(np.zeros((), dtype(leaf)), model_weights.WEIGHTS[leaf[-1]].sizes(cfg))
                _put(tree, leaf, array)
                del array
            if in_parts:
                if writing is not None:
                    writing.result()
                    thread.submit(_measure, path, measured)
                writing, tree = ocp.partial.save_async(absolute(path), tree), {}
        if in_parts:
            writing.result()
            thread.submit(_measure, path, measured).result()
            ocp.partial.finalize(absolute(path))
        else:
            ocp.save(absolute(path), tree)
    return measured


def _measure(path: epath.Path, measured: dict[str, dict[str, Any]]) -> None:
    """Adds the new files of arrays in what Orbax has of `path` so far. They keep their names, which are random; their folders do not."""
    for file in (path.parent / f"{path.name}{_PARTIAL}").glob("*/*/*/d/*") if jax.process_index() == 0 else ():
        if file.name not in measured:
            measured[file.name] = checksums.measure(file)


@contextlib.contextmanager
def _beside(path: epath.Path) -> Iterator[epath.Path]:
    """A local folder for what goes to `path`, always the same one: what a killed process left there is removed by the next."""
    name = hashlib.sha256(os.fspath(path).encode()).hexdigest()[:16]
    folder = epath.Path(tempfile.gettempdir()) / f"humpback-{name}"
    remove(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        remove(folder)


def _upload(source: epath.Path, target: epath.Path) -> None:
    """Copies what Orbax wrote to gs://, last the file without which it opens nothing there."""

    def copy(name: str) -> None:
        storage.publish(target / name, storage.read_chunks(source / name))

    with concurrent.futures.ThreadPoolExecutor(_UPLOADS_AT_ONCE) as threads:
        list(threads.map(copy, (name for name in checksums.walk(source) if name != _COMMITTED)))
    copy(_COMMITTED)


def _groups(cfg: LlamaConfig) -> Iterator[list[Leaf]]:
    """The weights' paths, in groups that are no larger than the largest weight."""
    most = max(math.prod(weight.sizes(cfg)) for _, weight in model_weights.leaves(cfg))
    group: list[Leaf] = []
    filled = 0
    for path, weight in model_weights.leaves(cfg):
        size = math.prod(weight.sizes(cfg))
        if group and filled + size > most:
            yield group
            group, filled = [], 0
        group.append(path)
        filled += size
    yield group


def _put(tree: dict[str, Any], path: Leaf, array: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = array


class StoredParams(Mapping):
    """Weights on disk: an item is read when it is asked for, "layers" gives such a mapping of the layers. Nothing is kept.

    arrays: the tree of what is there, opened. shardings: a tree of the same form, where each process reads its own parts to; None for
    whole arrays on the host.
    """

    def __init__(self, path: epath.Path, shardings: Mapping[str, Any] | None = None) -> None:
        self.arrays, self._shardings = _open(absolute(path) / "state"), shardings

    def placed(self, shardings: Mapping[str, Any]) -> "StoredParams":
        """The same weights, read to other places."""
        other = copy.copy(self)
        other._shardings = shardings
        return other

    def __getitem__(self, name: str) -> Any:
        return _Layers(self) if name == "layers" else self.take([(name,)])[0]

    def take(self, paths: Sequence[Leaf]) -> list[Any]:
        """The weights of several paths from the root, read at once."""
        shardings = [None if self._shardings is None else leaf(self._shardings, path) for path in paths]
        reading = [_start_reading(leaf(self.arrays, path), sharding) for path, sharding in zip(paths, shardings, strict=True)]
        return [finish() for finish in reading]

    def whole(self) -> dict[str, Any]:
        """The tree of all weights."""
        paths = [tuple(part.key for part in path) for path, _ in jax.tree.leaves_with_path(self.arrays)]
        tree: dict[str, Any] = {}
        for path, array in zip(paths, self.take(paths), strict=True):
            _put(tree, path, array)
        return tree

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


class _Layers(Mapping):
    """The layers of StoredParams, each read when it is asked for."""

    def __init__(self, params: StoredParams) -> None:
        self._params = params

    def __getitem__(self, layer: str) -> dict[str, Any]:
        names = list(self._params.arrays["layers"][layer])
        return dict(zip(names, self._params.take([("layers", layer, name) for name in names]), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._params.arrays["layers"])

    def __len__(self) -> int:
        return len(self._params.arrays["layers"])


def _open(folder: epath.Path) -> dict[str, Any]:
    """The arrays that Orbax wrote there, as the tree that they were."""
    about = json.loads((folder / "_METADATA").read_text())
    bucket, _, inside = f"{os.fspath(folder)}/".partition("://")[2].partition("/")
    kvstore: dict[str, Any] = {"driver": "gcs", "bucket": bucket, "path": inside} if bucket else {"driver": "file", "path": f"{folder}/"}
    if about["use_ocdbt"]:  # one database of all arrays, and not a folder for each
        kvstore = {"driver": "ocdbt", "base": kvstore, "path": ""}
    driver = "zarr3" if about["use_zarr3"] else "zarr"
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": _INDEX_BYTES}})  # or the database's index is read again each time
    opening = {}
    for array in about["tree_metadata"].values():
        path = tuple(part["key"] for part in array["key_metadata"])
        where = kvstore | {"path": f"{kvstore['path']}{'.'.join(path)}/"}
        opening[path] = tensorstore.open({"driver": driver, "kvstore": where}, open=True, context=context)
    tree: dict[str, Any] = {}
    for path, array in opening.items():
        _put(tree, path, array.result())
    return tree


def _start_reading(array: tensorstore.TensorStore, sharding: jax.sharding.Sharding | None) -> Callable[[], Any]:
    """Begins to read an array, or the parts of it that this process's devices have; what it returns waits for them."""
    if sharding is None:
        whole = array.read()
        return lambda: np.asarray(whole.result())
    return model_sharding.start_reading(array.shape, sharding, lambda index: array[index].read())


class Reader:
    """Reads stored weights one after the other, in the order of `leaves`: of small ones several at once, which is much faster.

    What was read and not yet asked for is kept, of about the size of the largest weight.
    """

    def __init__(self, params: StoredParams, cfg: LlamaConfig) -> None:
        self._params, self._cfg = params, cfg
        self._groups = {path: group for group in _groups(cfg) for path in group}
        self._kept: dict[Leaf, Any] = {}

    def __call__(self, path: Leaf) -> np.ndarray:
        """The weight at a path."""
        if path not in self._kept:
            self._kept.clear()
            group = self._groups[path]
            self._kept = dict(zip(group, self._params.take(group), strict=True))
        return np.asarray(self._kept.pop(path))

    def dtype(self, path: Leaf) -> str:
        """The name of a weight's type, which takes no reading."""
        return leaf(self._params.arrays, path).dtype.name


def take(params: Mapping[str, Any], paths: Sequence[Leaf]) -> list[Any]:
    """The weights of several paths of an unstacked tree, in memory or on disk."""
    return params.take(paths) if isinstance(params, StoredParams) else [leaf(params, path) for path in paths]


def leaf(params: Any, path: Leaf) -> Any:
    """What is at a path of a tree."""
    for part in path:
        params = params[part]
    return params


@contextlib.contextmanager
def told_when_full(path: epath.Path) -> Iterator[None]:
    """UserError for a full disk, whichever of its layers Orbax passes the error on from."""
    try:
        yield
    except Exception as error:
        if "No space left" in str(error) or "quota exceeded" in str(error).lower():
            raise UserError(
                f"{path}: no room left on the disk; free some space and run the same command again, what is finished stays"
            ) from error
        raise


def remove(path: epath.Path) -> None:
    """Removes a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


def absolute(path: epath.Path) -> epath.Path:
    """Orbax takes no relative path."""
    return path if "://" in os.fspath(path) else epath.Path(os.path.abspath(path))
