"""Weights on disk: finished model folders, and the checkpoints of a training in progress. With stored.py the only user of Orbax.

Orbax keeps no checksum and, on local disks, does not look at its own commit marker: a flipped bit or a half-written save
loads without a word. So each folder gets a checksums.json (checksums.py), and counts only when all of it matches.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from humpback import distributed, storage
from humpback.errors import UserError
from humpback.model import weights as model_weights
from humpback.model.weights import LlamaConfig
from humpback.tokens.tokenizer import Tokenizer
from humpback.training import checksums, stored
from humpback.training.checksums import CHECKSUMS

FORMAT_VERSION = 2  # 1 had sha256 in checksums.json
DIRECTIONS = ("forward", "backward", "base")
_META = ("meta.json", "meta-again.json")  # checksums.json says which of the two counts


@dataclass(frozen=True)
class ModelInfo:
    """What travels with weights: the architecture, what they were trained for, the chat wrapper they were trained with."""

    config: LlamaConfig
    direction: str  # of DIRECTIONS
    wrapper: str  # a name of prompts.WRAPPERS

    def to_dict(self) -> dict[str, Any]:
        """As model.json holds it."""
        return {
            "architecture": self.config.to_dict(),
            "direction": self.direction,
            "wrapper": self.wrapper,
            "format_version": FORMAT_VERSION,
        }


@dataclass(frozen=True)
class Model:
    """A model in memory. `params` is the unstacked tree of model/weights.py, of numpy or jax arrays."""

    info: ModelInfo
    params: Mapping[str, Any]
    tokenizer: Tokenizer


def save_model(path: storage.PathLike, info: ModelInfo, params: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Writes a model folder: weights/, the tokenizer's files, model.json, and last checksums.json.

    What an earlier, killed or finished, call left there is removed first; other files in the folder are left alone.
    Every process calls it. Raises ValueError for weights that do not fit the architecture.
    """
    model_weights.check_params(info.config, params)
    with _model_folder(path, info, tokenizer) as (folder, _), stored.told_when_full(folder):
        _start_saving(folder / "weights", params).result()


def save_streamed(
    path: storage.PathLike,
    info: ModelInfo,
    read: Callable[[stored.Leaf], np.ndarray],
    dtype: Callable[[stored.Leaf], Any],
    tokenizer: Tokenizer,
    attend: Callable[[stored.Leaf], None] = lambda path: None,
    look: Callable[[stored.Leaf, np.ndarray], None] = lambda path, array: None,
) -> None:
    """`save_model` of weights that `read` gives one after the other, each when it is written. look: is shown each weight then.

    dtype: a weight's type, before it is read. Every process calls it; the first one reads and writes, the others `attend`.
    """
    with _model_folder(path, info, tokenizer) as (folder, measured):
        measured |= stored.write(folder / "weights", info.config, read, dtype, attend, look)


@contextlib.contextmanager
def _model_folder(path: storage.PathLike, info: ModelInfo, tokenizer: Tokenizer) -> Iterator[tuple[epath.Path, dict[str, Any]]]:
    """A folder without a model; when the weights have been written there, adds what else it takes to be one.

    And a dict for what `stored.write` returns, so that these files need not be read.
    """
    if info.direction not in DIRECTIONS:
        raise ValueError(f"direction {info.direction!r} is not one of {', '.join(DIRECTIONS)}")
    folder = epath.Path(path)
    tokenizer_files = tokenizer.files()
    if jax.process_index() == 0:
        # checksums.json goes first: from here on the folder is unfinished, whenever the process dies.
        folder.mkdir(parents=True, exist_ok=True)
        found = [item.name for item in folder.iterdir()] if folder.exists() else []  # on gs:// no folder comes by mkdir
        begun = [name for name in found if name == "weights" or name.startswith("weights.")]  # Orbax adds to it
        for name in (CHECKSUMS, "model.json", *begun, *_tokenizer_names(folder)):
            stored.remove(folder / name)
        storage.clean(folder)
    distributed.barrier(f"save_model clear {folder}")
    measured: dict[str, dict[str, Any]] = {}
    yield folder, measured
    if jax.process_index() == 0:
        for name, data in tokenizer_files.items():
            storage.publish(folder / name, data)
        storage.publish_json(folder / "model.json", info.to_dict())
        weights = {f"weights/{name}": measured.get(os.path.basename(name)) for name in checksums.walk(folder / "weights")}
        known = {name: entry for name, entry in weights.items() if entry}
        checksums.publish(folder, [*(weights.keys() - known.keys()), *tokenizer_files, "model.json"], known)
    distributed.barrier(f"save_model done {folder}")


def read_info(path: storage.PathLike) -> ModelInfo:
    """What a model folder's model.json says. UserError when there is none or it cannot be read."""
    folder = epath.Path(path)
    if not folder.exists():
        raise UserError(f"{folder}: no such model folder")
    file = folder / "model.json"
    values = storage.read_json(file)
    try:
        if values["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{file}: format_version is {values['format_version']!r}, this program reads {FORMAT_VERSION}; "
                "use the program that wrote it, or write the model again"
            )
        info = ModelInfo(LlamaConfig.from_dict(values["architecture"]), values["direction"], values["wrapper"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not the description of a model ({error})") from error
    if info.direction not in DIRECTIONS:
        raise UserError(f"{file}: direction {info.direction!r} is not one of {', '.join(DIRECTIONS)}")
    return info


def load_model(
    path: storage.PathLike, *, shardings: Any = None, directions: Collection[str] | None = None, whole: bool = True
) -> Model:
    """Reads and verifies a model folder.

    shardings: an unstacked tree as `model.sharding.param_shardings` makes it; None gives numpy arrays on the host.
    whole: False leaves the weights on disk: `params` reads one, or a layer's, each time that it is asked for.
    directions: what the task allows; None allows all. UserError for another direction, and for a missing, truncated or
    changed file, by name. Every process calls it; each verifies its share of the files.
    """
    folder = epath.Path(path)
    info = read_info(folder)
    if directions is not None and info.direction not in directions:
        allowed = " or ".join(name for name in DIRECTIONS if name in directions)
        raise UserError(f"{folder}: is a {info.direction} model; this task needs {allowed}")
    found = checksums.find_damage(folder, share=(jax.process_index(), jax.process_count()))
    if damage := "".join(distributed.exchange(f"load_model {folder}", found or "")[:1]):
        raise UserError(f"{damage}; copy the folder again, or delete it and run what made it again")
    abstract = _abstract_params(folder / "weights", info.config, shardings)
    params = ocp.load(stored.absolute(folder / "weights"), abstract) if whole else stored.StoredParams(folder / "weights", abstract)
    return Model(info, params, Tokenizer.load(folder))


def weights_digest(params: Mapping[str, Any]) -> dict[str, str]:
    """{"layers/0/q": sha256 of the array's bytes in row order}: equal exactly when the weights are, bit for bit.

    Every process calls it when the arrays lie on the devices of several.
    """
    flat = {"/".join(str(part.key) for part in path): leaf for path, leaf in jax.tree.leaves_with_path(params)}

    def on_host(leaf: Any) -> Any:
        split = isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)
        return multihost_utils.process_allgather(leaf, tiled=True) if split else leaf

    found: dict[str, str] = {}
    names, at_once = list(flat), os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for start in range(0, len(names), at_once):  # no more gathered weights in memory than are being hashed
            some = names[start : start + at_once]
            found |= zip(some, pool.map(digest, [on_host(flat[name]) for name in some]), strict=True)
    return dict(sorted(found.items()))


def digest(array: Any) -> str:
    """sha256 of an array's bytes in row order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).hexdigest()


class TrainingCheckpoints:
    """The checkpoints of one training in progress, in a folder of its own: PATH/00000100/{state/, meta.json, checksums.json}.

    The number is that of the steps done. Every process makes one and calls the same methods in the same order. Making one
    removes what killed saves left half-written under a temporary name.

    keep_last: how many of the newest whole steps stay; two, so that there is a step before a damaged one.
    keep_every: steps that are a multiple of it stay, too; 0 for none. So does the newest step that was saved as the best.
    """

    def __init__(self, path: storage.PathLike, keep_last: int = 2, keep_every: int = 0) -> None:
        if keep_last < 1 or keep_every < 0:
            raise ValueError(f"keep_last = {keep_last}, keep_every = {keep_every}: at least 1 and at least 0 are needed")
        self.path = epath.Path(path)
        self._keep_last, self._keep_every = keep_last, keep_every
        self._damage: dict[int, str | None] = {}  # of the steps that were saved or looked at; None for a whole one
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: concurrent.futures.Future[None] | None = None
        if jax.process_index() == 0:
            for step in self._steps():
                folder = self._folder(step)
                stored.remove(folder / f"state{stored.TEMPORARY}")
                storage.clean(folder)

    def save(self, step: int, state: Any, meta: Mapping[str, Any], best: bool = False) -> None:
        """Begins to save a tree of arrays and a JSON-able `meta`; returns when the arrays may be donated or overwritten.

        The rest is done in the background: writing, checksums, and then the deletion of older steps. Before it begins, the save
        before is waited for, and what went wrong there is raised. Of a step that this object has saved or found, the state is
        there already; then only `meta` and `best` are written anew.
        best: whether this is the step with the lowest loss so far.
        """
        self.wait()
        folder, description = self._folder(step), {"meta": dict(meta), "best": best}
        if _word_of_the_first(step in self._damage and self._damage[step] is None):
            self._saving = self._thread.submit(self._describe_anew, step, description)
            return
        self._damage.pop(step, None)
        if jax.process_index() == 0:
            self._delete_step(step)
        distributed.barrier(f"training save clear {folder}")
        with stored.told_when_full(folder):
            # On a CPU, Orbax writes from views of the arrays; JAX never reuses a donated array's memory while there is a view.
            written = _start_saving(folder / "state", state)
        self._saving = self._thread.submit(self._finish, step, written, description)

    def wait(self) -> None:
        """Returns when the last save is whole on disk; raises what went wrong in it, once. Then the older steps are all there.

        A process that ends without it loses a save that is not done yet. UserError when the disk was full.
        """
        if self._saving is not None:
            concurrent.futures.wait([self._saving])
            saved, self._saving = self._saving, None
            saved.result()

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, meta) of the newest step that is whole; None without one. Newer ones that are not are named in a warning."""
        return self._newest()

    def best(self) -> tuple[int, dict[str, Any]] | None:
        """(step, meta) of the newest whole step that was saved as the best, like `latest`."""
        return self._newest(best=True)

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, laid out as `abstract_state` (ShapeDtypeStructs with shardings) says, whatever it was saved on.

        A vocabulary is cut off or filled up with zeros to the size asked for, since its padding depends on the mesh.
        UserError when the step is damaged, or when other sizes differ.
        """
        self.wait()
        if damage := self._find_damage(step):
            raise UserError(f"training checkpoint of step {step}: {damage}")
        path = stored.absolute(self._folder(step) / "state")
        _check_sizes(path, abstract_state)
        context = ocp.Context()
        context.array_options.loading.enable_padding_and_truncation = True
        with context:
            return ocp.load(path, abstract_state)

    def _finish(self, step: int, written: Any, description: dict[str, Any]) -> None:
        """The part of a save that runs in a thread. Of the barriers no device takes part in, so training goes on meanwhile."""
        folder = self._folder(step)
        with stored.told_when_full(folder):
            written.result()
            if jax.process_index() == 0:
                storage.publish_json(folder / _META[0], description)
                checksums.publish(folder, checksums.walk(folder))
        self._damage[step] = None
        if jax.process_index() == 0:
            self._delete_old_steps()
        distributed.barrier(f"training save done {folder}")

    def _describe_anew(self, step: int, description: dict[str, Any]) -> None:
        """Another meta.json for a whole step. It gets another name, so that the step is whole at every moment."""
        folder = self._folder(step)
        if jax.process_index() == 0:
            files = dict(checksums.read(folder))
            old, new = _META if _META[0] in files else _META[::-1]
            storage.publish_json(folder / new, description, replace=True)
            del files[old]
            checksums.publish(folder, [new], files)
            stored.remove(folder / old)
            self._delete_old_steps()
        distributed.barrier(f"training save done {folder}")

    def _delete_old_steps(self) -> None:
        steps = self._steps()[::-1]
        keep = set(itertools.islice((step for step in steps if not self._find_damage(step)), self._keep_last))
        if self._keep_every:  # not read again for this: after months there may be many
            finished = (step for step in steps if not self._damage.get(step) and (self._folder(step) / CHECKSUMS).exists())
            keep.update(step for step in finished if step % self._keep_every == 0)
        best = (step for step in steps if self._may_be_best(step) and not self._find_damage(step))
        keep.update(itertools.islice(best, 1))
        for step in steps:
            if step not in keep:
                self._delete_step(step)

    def _newest(self, best: bool = False) -> tuple[int, dict[str, Any]] | None:
        self.wait()
        found = -1
        if jax.process_index() == 0:
            for step in reversed(self._steps()):
                if best and not self._may_be_best(step):
                    continue
                self._damage.pop(step, None)  # it may have been a while ago
                damage = self._find_damage(step)
                if damage is None:
                    found = step
                    break
                logging.warning("training checkpoint of step %d is not used: %s", step, damage)
        found = _word_of_the_first(found)  # so that all continue from the same step
        if found < 0:
            return None
        self._damage[found] = None
        return found, self._description(found)["meta"]

    def _description(self, step: int) -> dict[str, Any]:
        folder = self._folder(step)
        listed = checksums.read(folder)
        return storage.read_json(folder / next(name for name in _META if name in listed))

    def _may_be_best(self, step: int) -> bool:
        """Whether a step was saved as the best; True for one too damaged to tell, so that it is looked at and named."""
        try:
            return bool(self._description(step)["best"])
        except (UserError, KeyError, TypeError, StopIteration):
            return True

    def _find_damage(self, step: int) -> str | None:
        """What is wrong with a step; None for a whole one. It is read only when this object has not done that or saved it."""
        if step not in self._damage:
            self._damage[step] = checksums.find_damage(self._folder(step), complete=True)
        return self._damage[step]

    def _folder(self, step: int) -> epath.Path:
        return self.path / f"{step:08d}"

    def _steps(self) -> list[int]:
        if not self.path.exists():
            return []
        return sorted(int(item.name) for item in self.path.iterdir() if item.name.isdecimal())

    def _delete_step(self, step: int) -> None:
        stored.remove(self._folder(step) / CHECKSUMS)  # first, so that a half-deleted step is an unfinished one
        stored.remove(self._folder(step))


def _check_sizes(path: epath.Path, abstract_state: Any) -> None:
    def sizes(tree: Any) -> dict[str, tuple[int, ...]]:
        return {jax.tree_util.keystr(at, simple=True, separator="/"): leaf.shape for at, leaf in jax.tree.leaves_with_path(tree)}

    on_disk = sizes(ocp.metadata(path).metadata)
    for name, size in sizes(abstract_state).items():
        weight = model_weights.WEIGHTS.get(name.rpartition("/")[2])
        loose = weight.shape.find("V") if weight else -1  # the axis that may differ
        found = on_disk.get(name, size)  # what is missing, Orbax says
        if len(found) != len(size) or any(a != b for axis, (a, b) in enumerate(zip(found, size)) if axis != loose):
            raise UserError(f"{path}: {name} has the shape {found}, this training's has {size}; it is of another model")


def _word_of_the_first(value: int) -> int:
    """What process 0 has, in all processes."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if jax.process_count() > 1 else value


def _start_saving(path: epath.Path, tree: Any) -> Any:
    """Begins to write a tree; the `.result()` of what it returns waits for the end and raises what went wrong."""
    with stored.context(path):
        return ocp.save_async(stored.absolute(path), tree)


def _abstract_params(path: epath.Path, config: LlamaConfig, shardings: Any) -> dict[str, Any]:
    """What Orbax is to read, and where to."""
    found = ocp.metadata(stored.absolute(path)).metadata
    try:
        model_weights.check_params(config, found)
    except ValueError as error:
        raise UserError(f"{path}: the weights are not those that model.json describes: {error}") from error
    if shardings is None:
        # Orbax gives back what it is shown: a numpy array of no memory of its own stands for one on the host.
        return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), found)
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), found, shardings)


def _tokenizer_names(folder: epath.Path) -> list[str]:
    return [name for name in storage.list_files(folder) if name.startswith("tokenizer")]
