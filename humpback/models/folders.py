"""Model folders: weights and what travels with them, written, read and verified. With weight_files.py all that a model is on disk.

Orbax keeps no checksum and, on local disks, does not look at its own commit marker: a flipped bit or a half-written save
loads without a word. So each folder gets a checksums.json (checksums.py), and counts only when all of it matches.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding

from humpback import distributed, storage
from humpback.errors import UserError
from humpback.model import adapters
from humpback.model import sharding as model_sharding
from humpback.model import weights as model_weights
from humpback.model.weights import LlamaConfig
from humpback.models import checksums, weight_files
from humpback.models.adapter_folders import Adapter, MergedParams, base_path
from humpback.models.checksums import CHECKSUMS
from humpback.tokens.tokenizer import Tokenizer
from humpback.watchdog import Limit, storing_seconds

FORMAT_VERSION = 2  # 1 had sha256 in checksums.json
_HASHED_AT_ONCE = 4  # arrays, of which each may be a copy on the host
DIRECTIONS = ("forward", "backward", "base")


@dataclass(frozen=True)
class ModelInfo:
    """What travels with weights: the architecture, what they were trained for, the chat wrapper they were trained with."""

    config: LlamaConfig
    direction: str  # of DIRECTIONS
    wrapper: str  # a name of prompts.WRAPPERS
    adapter: Adapter | None = None  # of a folder that holds adapters alone

    def to_dict(self) -> dict[str, Any]:
        """As model.json holds it."""
        adapter = {} if self.adapter is None else {"adapter": self.adapter.to_dict()}
        return adapter | {
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
    """Writes a model folder: weights/, the tokenizer's files, model.json, and last checksums.json. params: with info.adapter, these alone.

    What an earlier, killed or finished, call left there is removed first; other files in the folder are left alone.
    Every process calls it. Raises ValueError for weights that do not fit the architecture.
    """
    if info.adapter is None:
        model_weights.check_params(info.config, params)
    else:
        adapters.check(info.config, info.adapter.names, info.adapter.rank, params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    limit = Limit(f"the save of {path}", storing_seconds(size))
    with limit, _model_folder(path, info, tokenizer) as (folder, _), weight_files.told_when_full(folder):
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
        adapter = Adapter.from_dict(values["adapter"]) if "adapter" in values else None
        info = ModelInfo(LlamaConfig.from_dict(values["architecture"]), values["direction"], values["wrapper"], adapter)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not the description of a model ({error})") from error
    if info.direction not in DIRECTIONS:
        raise UserError(f"{file}: direction {info.direction!r} is not one of {', '.join(DIRECTIONS)}")
    return info


def load_model(
    path: storage.PathLike,
    *,
    shardings: Any = None,
    directions: Collection[str] | None = None,
    whole: bool = True,
    base: storage.PathLike | None = None,
    exact: bool = False,
) -> Model:
    """Reads and verifies a model folder. One that holds adapters alone is read with its base, as plain weights.

    base: where that is, if not where the folder says. exact: adapters are merged without rounding, to float32.

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
    if base is not None and info.adapter is None:
        raise UserError(f"{folder}: holds all weights, so it takes no --base={os.fspath(base)}")
    verify(folder)
    try:
        if info.adapter is None:
            params = weight_files.StoredParams(folder / "weights", shardings)
        else:
            below = _find_base(folder, info.adapter, info.config, base)
            verify(below)
            stored = weight_files.StoredParams(below / "weights", shardings)
            params = MergedParams(folder / "weights", info.adapter, info.config, stored, shardings, exact)
        model_weights.check_params(info.config, params.arrays)
    except ValueError as error:
        raise UserError(f"{folder / 'weights'}: the weights are not those that model.json describes: {error}") from error
    return Model(info, params.whole() if whole else params, Tokenizer.load(folder))


def adapter_beside(folder: storage.PathLike, base: storage.PathLike, lora: adapters.Lora, weights: str) -> Adapter:
    """What a model folder is to say of adapters beside the base in another one, whose weights have the digest `weights`."""
    relative = os.path.relpath(os.fspath(base), os.fspath(folder))
    return Adapter(lora.rank, lora.alpha, lora.names, lora.base, relative, weights, checksums.digest_of(epath.Path(base)))


def _find_base(folder: epath.Path, adapter: Adapter, cfg: LlamaConfig, base: storage.PathLike | None) -> epath.Path:
    """The folder of an adapter's base. UserError when it is not there, or not of the weights beside which the adapters were trained."""
    path = epath.Path(base) if base else base_path(folder, adapter)

    def problem() -> str:
        if not (path / "model.json").exists():
            return "no model folder is there"
        found = read_info(path)
        if found.config != cfg or found.adapter is not None:
            return "a model of another kind is there"
        same_files = checksums.digest_of(path) == adapter.files
        return "" if same_files or _stored_digest(path, cfg) == adapter.weights else "other weights are there"

    if wrong := distributed.by_first(f"base of {folder}", problem):
        raise UserError(
            f"{folder}: holds adapters alone; their base, whose weights have the digest {adapter.weights[:16]}, was sought at {path}, and "
            f"{wrong}; give its model folder with --base="
        )
    return path


def _stored_digest(folder: epath.Path, cfg: LlamaConfig) -> str:
    """`digest_of` the weights of a folder, read a few at a time."""
    read = weight_files.Reader(weight_files.StoredParams(folder / "weights"), cfg)
    return digest_of({"/".join(path): digest(read(path)) for path, _ in model_weights.leaves(cfg)})


def verify(path: storage.PathLike) -> None:
    """UserError for a missing, truncated or changed file of a folder that has checksums. Every process calls it and reads its share."""
    folder = epath.Path(path)
    damage_here = checksums.find_damage(folder, share=(jax.process_index(), jax.process_count()))
    if damage := "".join(distributed.exchange(f"verify {folder}", damage_here or "")[:1]):
        raise UserError(f"{damage}; copy the folder again, or delete it and run what made it again")


def read_to(model: Model, shardings: Any) -> Model:
    """A model that `load_model` left on disk, whose weights will be read to where `shardings` say. TypeError for one in memory."""
    if not isinstance(model.params, weight_files.StoredParams):
        raise TypeError("the weights of this model are in memory")
    return dataclasses.replace(model, params=model.params.placed(shardings))


def weights_digest(params: Mapping[str, Any]) -> dict[str, str]:
    """{"layers/0/q": sha256 of the array's bytes in row order}: equal exactly when the weights are, bit for bit.

    Every process calls it when the arrays lie on the devices of several; then each copies and hashes its share of them.
    """
    flat = {"/".join(str(part.key) for part in path): leaf for path, leaf in jax.tree.leaves_with_path(params)}

    def is_split(leaf: Any) -> bool:
        return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)

    split = {name: leaf for name, leaf in flat.items() if is_split(leaf)}
    whole = [name for name in flat if name not in split]
    with concurrent.futures.ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        digests = dict(zip(whole, pool.map(lambda name: digest(flat[name]), whole), strict=True))
    if split:
        size = sum(leaf.nbytes for leaf in split.values())
        with Limit("the digests of the weights", storing_seconds(size)):
            digests |= _digests_of_split(split)
    return dict(sorted(digests.items()))


def _digests_of_split(flat: Mapping[str, jax.Array]) -> dict[str, str]:
    """Of arrays that lie on the devices of several processes. They are made whole on the devices one after the other; to the host comes
    every n-th of n processes, where no more than two are at a time."""
    hashed: dict[str, concurrent.futures.Future[str]] = {}
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        for number, (name, leaf) in enumerate(flat.items()):
            whole = _made_whole(cast(NamedSharding, leaf.sharding).mesh)(leaf)
            if number % jax.process_count() == jax.process_index():
                concurrent.futures.wait(hashed.values())
                hashed[name] = thread.submit(digest, np.asarray(whole.addressable_data(0)))
    own = {name: future.result() for name, future in hashed.items()}
    digests: dict[str, str] = {}
    for text in distributed.exchange("weights_digest", json.dumps(own)):
        digests |= json.loads(text)
    return digests


@functools.lru_cache(maxsize=8)
def _made_whole(mesh: Mesh) -> Any:
    return jax.jit(lambda x: x, out_shardings=model_sharding.replicated(mesh))


def digest(array: Any) -> str:
    """sha256 of an array's bytes in row order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest of all weights, from `weights_digest`: the name of a model in records and manifests."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _tokenizer_names(folder: epath.Path) -> list[str]:
    return [name for name in storage.list_files(folder) if name.startswith("tokenizer")]
