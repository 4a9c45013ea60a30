"""Model folders that hold adapters alone: what they say of their base, how that is found again, and weights with the adapters added.

Who reads such a folder sees plain weights, each merged when it is asked for: nothing but the merging knows of adapters.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from etils import epath

from humpback.model import adapters
from humpback.model.weights import LlamaConfig, make_tree
from humpback.models import weight_files


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What a model folder says of its adapters, whose weights are to be found in a base's.

    type: in which the base's weights lay while the adapters were trained, and on which they are merged: float32, bfloat16 or int8.
    base: its folder, from this one. weights: folders.digest_of the base's weights. files: the sha256 of its checksums.json; another one
    may still be of the same weights.
    """

    rank: int
    alpha: float
    names: tuple[str, ...]
    type: str
    base: str
    weights: str
    files: str

    @property
    def lora(self) -> adapters.Lora:
        """What the model's code takes."""
        return adapters.Lora(self.rank, self.alpha, self.names, self.type)

    def to_dict(self) -> dict[str, Any]:
        """As model.json holds it."""
        return dataclasses.asdict(self) | {"names": list(self.names)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Adapter":
        """Inverts `to_dict`. TypeError or ValueError for anything else."""
        adapter = cls(**{**values, "names": tuple(values["names"])})
        if not set(adapter.names) <= set(adapters.NAMES) or adapter.type not in adapters.TYPES:
            raise ValueError(f"adapters of {', '.join(adapter.names)} over weights of type {adapter.type!r} are not known")
        return adapter


def base_path(folder: epath.Path, adapter: Adapter) -> epath.Path:
    """Where an adapter's folder says that its base is."""
    scheme, separator, rest = os.fspath(folder).rpartition("://")
    return epath.Path(f"{scheme}{separator}{os.path.normpath(os.path.join(rest, adapter.base))}")


class MergedParams(weight_files.StoredParams):
    """The weights of a base with the adapters added, read and merged when they are asked for.

    arrays: shapes and types of what is given, without reading. exact: nothing is rounded after the adapters are added.
    """

    def __init__(
        self, path: epath.Path, adapter: Adapter, cfg: LlamaConfig, base: weight_files.StoredParams,
        shardings: Mapping[str, Any] | None = None, exact: bool = False,
    ) -> None:  # fmt: skip
        self._adapters, self._base, self._adapter, self._exact = weight_files.StoredParams(path), base, adapter, exact
        self._shardings = shardings
        adapters.check(cfg, adapter.names, adapter.rank, self._adapters.arrays)
        dtype = np.dtype(np.float32) if exact else adapters.result_type(adapter.type)
        self.arrays = make_tree(cfg, lambda _, weight: jax.ShapeDtypeStruct(weight.sizes(cfg), dtype))

    def placed(self, shardings: Mapping[str, Any]) -> "MergedParams":
        """The same weights, the base's, too, read to other places."""
        other = cast(MergedParams, super().placed(shardings))
        other._base = self._base.placed(shardings)
        return other

    def take(self, paths: Sequence[weight_files.Leaf]) -> list[Any]:
        """The weights of several paths from the root, read at once, each on top of its base."""
        adapted = [path for path in paths if path[-1] in self._adapter.names]
        read = iter(self._adapters.take([(*path, part) for path in adapted for part in adapters.PARTS]))
        pairs = {path: {part: next(read) for part in adapters.PARTS} for path in adapted}
        return [self._merge(path, weight, pairs.get(path)) for path, weight in zip(paths, self._base.take(paths), strict=True)]

    def _merge(self, path: weight_files.Leaf, weight: Any, pair: Mapping[str, np.ndarray] | None) -> Any:
        adapter, where = self._adapter, None if self._shardings is None else weight_files.leaf(self._shardings, path)
        merge = _jit_merge(path[-1], adapter.lora.scale, adapter.type, self._exact, where)
        if where is not None:
            return merge(weight, pair)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return np.asarray(merge(weight, pair))


@functools.lru_cache(maxsize=64)
def _jit_merge(name: str, scale: float, base: str, exact: bool, where: Any) -> Any:
    def merge(weight: jax.Array, pair: Mapping[str, jax.Array] | None) -> jax.Array:
        return adapters.merged(name, weight, pair, scale, base, exact)

    return jax.jit(merge, out_shardings=where)

