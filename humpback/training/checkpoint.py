"""Weights on disk: finished model folders, and the checkpoints of a training in progress. The only user of Orbax.

Orbax keeps no checksum and, on local disks, does not look at its own commit marker: a flipped bit or a half-written save
loads without a word. So each folder gets a checksums.json with the size and sha256 of every file, written last; a folder
counts only when all of it matches.
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
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

FORMAT_VERSION = 1
DIRECTIONS = ("forward", "backward", "base")
CHECKSUMS = "checksums.json"
_TEMPORARY = ".orbax-checkpoint-tmp"  # what Orbax appends to a folder that it has not finished
_KEEP = 2  # one more than needed, so that there is a step before a damaged one


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
    if info.direction not in DIRECTIONS:
        raise ValueError(f"direction {info.direction!r} is not one of {', '.join(DIRECTIONS)}")
    folder = epath.Path(path)
    tokenizer_files = tokenizer.files()
    if jax.process_index() == 0:
        # checksums.json goes first: from here on the folder is unfinished, whenever the process dies.
        for name in (CHECKSUMS, "model.json", "weights", f"weights{_TEMPORARY}", *_tokenizer_names(folder)):
            _remove(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
    distributed.barrier(f"save_model clear {folder}")
    _save_tree(folder / "weights", params)
    if jax.process_index() == 0:
        for name, data in tokenizer_files.items():
            storage.publish(folder / name, data)
        storage.publish_json(folder / "model.json", info.to_dict())
        files = [*(f"weights/{name}" for name in _walk(folder / "weights")), *tokenizer_files, "model.json"]
        _publish_checksums(folder, files)
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
    changed file, by name.
    """
    folder = epath.Path(path)
    info = read_info(folder)
    if directions is not None and info.direction not in directions:
        allowed = " or ".join(name for name in DIRECTIONS if name in directions)
        raise UserError(f"{folder}: is a {info.direction} model; this task needs {allowed}")
    if damage := _find_damage(folder):
        raise UserError(f"{damage}; copy the folder again, or delete it and run what made it again")
    abstract = _abstract_params(folder / "weights", info.config, shardings)
    params = ocp.load(_absolute(folder / "weights"), abstract) if whole else _StoredParams(folder / "weights", abstract)
    return Model(info, params, Tokenizer.load(folder))


def weights_digest(params: Mapping[str, Any]) -> dict[str, str]:
    """{"layers/0/q": sha256 of the array's bytes in row order}: equal exactly when the weights are, bit for bit."""
    flat = {"/".join(str(part.key) for part in path): leaf for path, leaf in jax.tree.leaves_with_path(params)}

    def digest(leaf: Any) -> str:
        return hashlib.sha256(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)).hexdigest()

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(sorted(zip(flat, pool.map(digest, flat.values()), strict=True)))


class TrainingCheckpoints:
    """The checkpoints of one training in progress, in a folder of its own: PATH/00000100/{state/, meta.json, checksums.json}.

    The number is that of the steps done. Every process makes one and calls the same methods. Making one removes what killed
    saves left half-written under a temporary name.
    """

    def __init__(self, path: storage.PathLike) -> None:
        self.path = epath.Path(path)
        self._verified: set[int] = set()
        if jax.process_index() == 0:
            for step in self._steps():
                folder = self._folder(step)
                _remove(folder / f"state{_TEMPORARY}")
                storage.clean(folder)

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Saves a tree of arrays and a JSON-able `meta`; returns when it is whole on disk.

        Only then are older steps deleted: all but the newest two that are known to be whole. UserError when the disk is full.
        """
        folder = self._folder(step)
        self._verified.discard(step)
        if jax.process_index() == 0:
            self._delete_step(step)
        distributed.barrier(f"training save clear {folder}")
        _save_tree(folder / "state", state)
        if jax.process_index() == 0:
            storage.publish_json(folder / "meta.json", dict(meta))
            _publish_checksums(folder, _walk(folder))
        self._verified.add(step)
        keep = sorted(self._verified)[-_KEEP:]
        self._verified = set(keep)
        if jax.process_index() == 0:
            for old in self._steps():
                if old not in keep:
                    self._delete_step(old)
        distributed.barrier(f"training save done {folder}")

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, meta) of the newest step that is whole; None without one. Newer ones that are not are named in a warning."""
        found = -1
        if jax.process_index() == 0:
            for step in reversed(self._steps()):
                damage = _find_damage(self._folder(step), complete=True)
                if damage is None:
                    found = step
                    break
                logging.warning("training checkpoint of step %d is not used: %s", step, damage)
        if jax.process_count() > 1:  # the others take the first one's word, so that all continue from the same step
            found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
        if found < 0:
            return None
        self._verified.add(found)
        return found, storage.read_json(self._folder(found) / "meta.json")

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, laid out as `abstract_state` (ShapeDtypeStructs with shardings) says, whatever it was saved on.

        UserError when the step is damaged.
        """
        if step not in self._verified and (damage := _find_damage(self._folder(step), complete=True)):
            raise UserError(f"training checkpoint of step {step}: {damage}")
        return ocp.load(_absolute(self._folder(step) / "state"), abstract_state)

    def _folder(self, step: int) -> epath.Path:
        return self.path / f"{step:08d}"

    def _steps(self) -> list[int]:
        if not self.path.exists():
            return []
        return sorted(int(item.name) for item in self.path.iterdir() if item.name.isdecimal())

    def _delete_step(self, step: int) -> None:
        _remove(self._folder(step) / CHECKSUMS)  # first, so that a half-deleted step is an unfinished one
        _remove(self._folder(step))


def _save_tree(path: epath.Path, tree: Any) -> None:
    context = ocp.Context()
    context.array_options.saving.use_compression = False  # float weights hardly shrink: 4.1 s against 0.6 s for 400 MB
    try:
        with context:
            ocp.save(_absolute(path), tree)
    except Exception as error:
        if "No space left" in str(error) or "quota exceeded" in str(error).lower():
            raise UserError(
                f"{path}: no room left on the disk; free some space and run the same command again, what is finished stays"
            ) from error
        raise


class _StoredParams(Mapping):
    """Weights on disk: an item is read when it is asked for, "layers" gives such a mapping of the layers. Nothing is kept."""

    def __init__(self, path: epath.Path, abstract: Mapping[str, Any], inside: str = "") -> None:
        self._path, self._abstract, self._inside = path, abstract, inside

    def __getitem__(self, name: str) -> Any:
        if name == "layers":
            return _StoredParams(self._path, self._abstract[name], name)
        asked = {name: self._abstract[name]}
        context = ocp.Context()
        context.pytree_options.loading.partial_load = True
        with context:
            read = ocp.load(_absolute(self._path), {self._inside: asked} if self._inside else asked)
        return read[self._inside][name] if self._inside else read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._abstract)

    def __len__(self) -> int:
        return len(self._abstract)


def _abstract_params(path: epath.Path, config: LlamaConfig, shardings: Any) -> dict[str, Any]:
    """What Orbax is to read, and where to."""
    stored = ocp.metadata(_absolute(path)).metadata
    try:
        model_weights.check_params(config, stored)
    except ValueError as error:
        raise UserError(f"{path}: the weights are not those that model.json describes: {error}") from error
    if shardings is None:
        # Orbax gives back what it is shown: a numpy array of no memory of its own stands for one on the host.
        return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), stored)
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), stored, shardings)


def _publish_checksums(folder: epath.Path, names: Collection[str]) -> None:
    paths = [folder / name for name in names]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(storage.sha256_file, paths))
    files = {
        name: {"size": path.stat().length, "sha256": digest}
        for name, path, digest in zip(names, paths, digests, strict=True)
    }
    storage.publish_json(folder / CHECKSUMS, {"files": files, "sha256": _digest_of_list(files)})


def _digest_of_list(files: dict[str, Any]) -> str:
    """Of the list itself, so that damage to it is told from damage to the files that it names."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _find_damage(folder: epath.Path, complete: bool = False) -> str | None:
    """What is wrong with a folder, naming the file; None when all that checksums.json lists is there and matches.

    complete: files that it does not list are wrong, too.
    """
    if not (folder / CHECKSUMS).exists():
        return f"{folder / CHECKSUMS}: missing, so the folder was never finished"
    try:
        read = storage.read_json(folder / CHECKSUMS)
        if read["sha256"] != _digest_of_list(read["files"]):
            return f"{folder / CHECKSUMS}: damaged (its contents have changed since it was written)"
        wanted = {name: (entry["size"], entry["sha256"]) for name, entry in read["files"].items()}
    except (UserError, KeyError, TypeError, AttributeError) as error:
        return f"{folder / CHECKSUMS}: damaged ({error!r})"
    if complete and (unlisted := sorted(set(_walk(folder)) - {*wanted, CHECKSUMS})):
        return f"{folder / unlisted[0]}: not in {CHECKSUMS}"
    for name, (size, _) in wanted.items():
        if not (folder / name).exists():
            return f"{folder / name}: missing"
        if (found := (folder / name).stat().length) != size:
            return f"{folder / name}: damaged ({found} bytes instead of {size})"
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(storage.sha256_file, [folder / name for name in wanted])
        for (name, (_, sha256)), found in zip(wanted.items(), digests, strict=True):
            if found != sha256:
                return f"{folder / name}: damaged (its contents have changed since it was written)"
    return None


def _walk(folder: epath.Path, prefix: str = "") -> list[str]:
    """Paths of all files below `folder`, relative to it, sorted."""

    def names(path: epath.Path, prefix: str) -> Iterator[str]:
        for item in path.iterdir():
            if item.is_dir():
                yield from names(item, f"{prefix}{item.name}/")
            else:
                yield prefix + item.name

    return sorted(names(folder, prefix))


def _tokenizer_names(folder: epath.Path) -> list[str]:
    return [name for name in storage.list_files(folder) if name.startswith("tokenizer")]


def _remove(path: epath.Path) -> None:
    if path.is_dir():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


def _absolute(path: epath.Path) -> epath.Path:
    """Orbax takes no relative path."""
    return path if "://" in os.fspath(path) else epath.Path(os.path.abspath(path))
