"""A model's weights on disk, one array per layer and name, written and read a few at a time: memory does not grow with the model.

With folders.py and training/checkpoint.py the only user of Orbax.
"""

import concurrent.futures
import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from humpback import storage
from humpback.errors import UserError
from humpback.model import weights as model_weights
from humpback.model.weights import LlamaConfig
from humpback.models import checksums

Leaf = tuple[str, ...]  # a weight's path: ("embedding",) or ("layers", "0", "q")
TEMPORARY = ".orbax-checkpoint-tmp"  # what Orbax appends to a folder that it has not finished
# What is read of an array is whole chunks, so a process that needs a part of one reads little more than its own bytes.
_CHUNK_BYTES = 1 << 21
_UPLOADS_AT_ONCE = 4
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
    attend: Callable[[Leaf], None],
    look: Callable[[Leaf, np.ndarray], None],
) -> dict[str, dict[str, Any]]:
    """Writes the weights that `read` gives, each asked for once and in the order of `leaves`. `path` appears when all are there.

    Every process calls it, because Orbax meets, but only the first one writes and reads. In its memory are what is being written
    and what is being read meanwhile, each of about the size of the largest weight. On gs://, where Orbax does not save in parts, a
    single process writes to a local folder first (TMPDIR says where; it takes the model's size), and of several the first holds the
    whole model. dtype: a weight's type. attend: called where the others do not read. look: is shown each weight.
    Returns what checksums.json says of files that arrays are in, by their names without folders, measured while they were in memory.
    """
    measured: dict[str, dict[str, Any]] = {}
    if not storage.is_local(path) and jax.process_count() == 1:
        with _beside(path) as folder:
            measured = write(folder / path.name, cfg, read, dtype, attend, look)
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
                    attend(leaf)
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


def _alone(context: ocp.Context) -> ocp.Context:
    """For this process, which waits for no other."""
    context.multiprocessing_options.primary_host = jax.process_index()
    context.multiprocessing_options.active_processes = {jax.process_index()}
    context.multiprocessing_options.barrier_sync_key_prefix = f"process {jax.process_index()}"
    return context


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

    abstract: the tree of what Orbax is to read, whole, and where to.
    """

    def __init__(self, path: epath.Path, abstract: Mapping[str, Any], inside: str = "") -> None:
        self._path, self.abstract, self._inside = path, abstract, inside

    def __getitem__(self, name: str) -> Any:
        if name == "layers":
            return StoredParams(self._path, self.abstract[name], name)
        wanted = {name: self.abstract[name]}
        read = self._load({self._inside: wanted} if self._inside else wanted)
        return read[self._inside][name] if self._inside else read[name]

    def take(self, paths: Sequence[Leaf]) -> list[Any]:
        """The weights of several paths from the root, read at once."""
        wanted: dict[str, Any] = {}
        for path in paths:
            _put(wanted, path, leaf(self.abstract, path))
        read = self._load(wanted)
        return [leaf(read, path) for path in paths]

    def _load(self, wanted: Mapping[str, Any]) -> Any:
        # Arrays on a host are read by one process, those on a mesh by all of the mesh.
        context = _alone(ocp.Context()) if all(isinstance(value, np.ndarray) for value in jax.tree.leaves(wanted)) else ocp.Context()
        context.pytree_options.loading.partial_load = True
        with context:
            return ocp.load(absolute(self._path), wanted)

    def __iter__(self) -> Iterator[str]:
        return iter(self.abstract)

    def __len__(self) -> int:
        return len(self.abstract)


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
        return str(leaf(self._params.abstract, path).dtype)

    def attend(self, path: Leaf) -> None:
        """To be called by the other processes where one reads a path: Orbax counts what it does, and they must count alike."""
        group = self._groups[path]
        if path == group[0]:
            self._params.take([min(group, key=lambda at: math.prod(model_weights.WEIGHTS[at[-1]].sizes(self._cfg)))])


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
