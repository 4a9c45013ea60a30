"""What every reader of weights gives: a model that is opened and checked, and whose tensors are read when they are asked for."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from humpback.convert import tensor_ops
from humpback.convert.names import Path, outside_name
from humpback.errors import UserError
from humpback.model.weights import LlamaConfig, Params, make_tree
from humpback.tokens.tokenizer import Tokenizer

SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")  # one file of a GGUF model that comes in several


@dataclasses.dataclass(frozen=True, kw_only=True)
class LazyModel:
    """A model whose tensors are read when they are asked for; their names, shapes and types are checked, their numbers are not.

    read(path): one weight in our layout and in the type dtype(path) names, e.g. of path ("layers", "0", "q"); it may be a view of a
    mapped file.
    notes: what a user should know, such as rows that are left away. chat_template: the source's own, "" without one. end_ids: the tokens
    that end its texts, of which the tokenizer names one. generation: the source's own generation_config.json.
    """

    config: LlamaConfig
    tokenizer: Tokenizer
    read: Callable[[Path], np.ndarray]
    dtype: Callable[[Path], str]
    notes: tuple[str, ...] = ()
    chat_template: str = ""
    end_ids: tuple[int, ...] = ()
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def params(self) -> Params:
        """All weights as the unstacked tree of model/weights.py, in memory."""
        return make_tree(self.config, lambda path, _: self.read(path))


class LazyParams(Mapping[str, Any]):
    """The unstacked tree of a model whose weights, or a layer's, are read each time that they are asked for. Nothing is kept."""

    def __init__(self, model: LazyModel, paths: Mapping[str, Any] | None = None) -> None:
        self._model = model
        self._paths = make_tree(model.config, lambda path, _: path) if paths is None else paths

    def __getitem__(self, name: str) -> Any:
        paths = self._paths[name]
        if name == "layers":
            return LazyParams(self._model, paths)
        return {leaf: self._model.read(path) for leaf, path in paths.items()} if isinstance(paths, dict) else self._model.read(paths)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def number(values: Mapping[str, Any], key: str, where: str, default: float | None = None) -> Any:
    """A number of a JSON object. `default` (None: there is none) stands for one that is absent or null. UserError naming the field."""
    value = values.get(key)
    value = default if value is None else value
    if value is None:
        raise UserError(f"{where}: {key} is missing")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{where}: {key} is {value!r}, must be a number")
    return value


def checked(model: LazyModel, where: str, family: str | None, dtype: str | None = None) -> LazyModel:
    """The same model whose numbers are looked at as they are read, and cast to `dtype` (None: kept).

    UserError naming the tensor, as `family` of names.py calls it, when a number is not finite, or too large for the type.
    """

    def read(path: Path) -> np.ndarray:
        name = outside_name(path, family) if family else "/".join(path)
        array = model.read(path)
        tensor_ops.check_finite(array, name, where)
        return tensor_ops.cast(array, dtype, name, where) if dtype else array

    return dataclasses.replace(model, read=read, dtype=(lambda path: dtype) if dtype else model.dtype)
