"""Weights in memory as what the converters take."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from humpback.convert.lazy_model import LazyModel
from humpback.convert.names import Path
from humpback.model.weights import LlamaConfig, check_params
from humpback.tokens.tokenizer import Tokenizer


def from_params(cfg: LlamaConfig, params: Mapping[str, Any], tokenizer: Tokenizer) -> LazyModel:
    """Weights in memory. ValueError when they do not fit the config."""
    check_params(cfg, params)

    def leaf(path: Path) -> Any:
        return functools.reduce(lambda tree, part: tree[part], path, params)

    return LazyModel(config=cfg, tokenizer=tokenizer, read=lambda path: np.asarray(leaf(path)), dtype=lambda path: str(leaf(path).dtype))
