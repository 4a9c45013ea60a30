"""Model folders: weights and what travels with them, written, read and verified. With weight_files.py all that a model is on disk.

Orbax keeps no checksum and, on local disks, does not look at its own commit marker: a flipped bit or a half-written save
loads without a word. So each folder gets a checksums.json (checksums.py), and counts only when all of it matches.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from humpback import distributed, storage
from humpback.errors import UserError
from humpback.model import weights as model_weights
from humpback.model.weights import LlamaConfig
from humpback.models import checksums, weight_files
from humpback.models.checksums import CHECKSUMS
from humpback.tokens.tokenizer import Tokenizer

FORMAT_VERSION = 2  # 1 had sha256 in checksums.json
DIRECTIONS = ("forward", "backward", "base")


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

    def check_length(self, field: str, length: int) -> None:
        """UserError when a config field asks for more positions than the model was made for."""
        if length > self.config.max_positions:
            raise UserError(f"config field {field}: {length} tokens are more than the model's {self.config.max_positions}")


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
    with _model_folder(path, info, tokenizer) as (folder, _), weight_files.told_when_full(folder):
        weight_files.start_saving(folder / "weights", params).result()


def save_streamed(
    path: storage.PathLike,
    info: ModelInfo,
    read: Callable[[weight_files.Leaf], np.ndarray],
    dtype: Callable[[weight_files.Leaf], Any],
    tokenizer: Tokenizer,
    look: Callable[[weight_files.Leaf, np.ndarray], None] = lambda path, array: None,
) -> None:
    """`save_model` of weights that `read` gives one after the other, each when it is written. look: is shown each weight then.

    dtype: a weight's type, before it is read. Every process calls it; the first one reads and writes.
    """
    with _model_folder(path, info, tokenizer) as (folder, measured):
        measured |= weight_files.write(folder / "weights", info.config, read, dtype, look)


@contextlib.contextmanager
def _model_folder(path: storage.PathLike, info: ModelInfo, tokenizer: Tokenizer) -> Iterator[tuple[epath.Path, dict[str, Any]]]:
    """A folder without a model; when the weights have been written there, adds what else it takes to be one.

    And a dict for what `weight_files.write` returns, so that these files need not be read.
    """
    if info.direction not in DIRECTIONS:
        raise ValueError(f"direction {info.direction!r} is not one of {', '.join(DIRECTIONS)}")
    folder = epath.Path(path)
    tokenizer_files = tokenizer.files()
    if jax.process_index() == 0:
        # checksums.json goes first: from here on the folder is unfinished, whenever the process dies.
        folder.mkdir(parents=True, exist_ok=True)
        names = [item.name for item in folder.iterdir()] if folder.exists() else []  # on gs:// no folder comes by mkdir
        begun = [name for name in names if name == "weights" or name.startswith("weights.")]  # Orbax adds to it
        for name in (CHECKSUMS, "model.json", *begun, *_tokenizer_names(folder)):
            weight_files.remove(folder / name)
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
    damage_here = checksums.find_damage(folder, share=(jax.process_index(), jax.process_count()))
    if damage := "".join(distributed.exchange(f"load_model {folder}", damage_here or "")[:1]):
        raise UserError(f"{damage}; copy the folder again, or delete it and run what made it again")
    params = weight_files.StoredParams(folder / "weights", shardings)
    try:
        model_weights.check_params(info.config, params.arrays)
    except ValueError as error:
        raise UserError(f"{folder / 'weights'}: the weights are not those that model.json describes: {error}") from error
    return Model(info, params.whole() if whole else params, Tokenizer.load(folder))


def read_to(model: Model, shardings: Any) -> Model:
    """A model that `load_model` left on disk, whose weights will be read to where `shardings` say. TypeError for one in memory."""
    if not isinstance(model.params, weight_files.StoredParams):
        raise TypeError("the weights of this model are in memory")
    return dataclasses.replace(model, params=model.params.placed(shardings))


def weights_digest(params: Mapping[str, Any]) -> dict[str, str]:
    """{"layers/0/q": sha256 of the array's bytes in row order}: equal exactly when the weights are, bit for bit.

    Every process calls it when the arrays lie on the devices of several.
    """
    flat = {"/".join(str(part.key) for part in path): leaf for path, leaf in jax.tree.leaves_with_path(params)}

    def on_host(leaf: Any) -> Any:
        split = isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)
        return multihost_utils.process_allgather(leaf, tiled=True) if split else leaf

    digests: dict[str, str] = {}
    names, at_once = list(flat), os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for start in range(0, len(names), at_once):  # no more gathered weights in memory than are being hashed
            some = names[start : start + at_once]
            digests |= zip(some, pool.map(digest, [on_host(flat[name]) for name in some]), strict=True)
    return dict(sorted(digests.items()))


def digest(array: Any) -> str:
    """sha256 of an array's bytes in row order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest of all weights, from `weights_digest`: the name of a model in records and manifests."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _tokenizer_names(folder: epath.Path) -> list[str]:
    return [name for name in storage.list_files(folder) if name.startswith("tokenizer")]
