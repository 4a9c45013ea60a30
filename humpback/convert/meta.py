"""Meta's original folders in: params.json and consolidated.00.pth to .07.pth, the parts of a model that 1 to 8 devices shared."""

import dataclasses
import glob
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from humpback import storage
from humpback.convert import lazy_model, names, tensorfiles, vocabulary
from humpback.convert.lazy_model import LazyModel
from humpback.convert.recognition import PARAMS, foreign
from humpback.convert.tensor_ops import DTYPES, same_numbers
from humpback.convert.tensorfiles import AGAIN
from humpback.errors import UserError
from humpback.model.sizes import SIZES
from humpback.model.weights import LlamaConfig, RopeScaling, leaves
from humpback.tokens.tokenizer import MODEL_FILE, Tokenizer

MOST_SHARDS = 8
# What params.json may hold: what is read here, and what decides nothing.
_READ = ("dim", "n_layers", "n_heads", "n_kv_heads", "norm_eps", "rope_theta", "use_scaled_rope", "vocab_size", "max_seq_len")
_IGNORED = ("multiple_of", "ffn_dim_multiplier", "max_batch_size")  # the first two give the feed-forward width, which the tensors have
# Llama 3.1 to 3.3 scale their positions by 8, but 3.2's two small models by 32, which params.json does not say.
_SCALED_BY_32 = {(2048, 16), (3072, 28)}  # (D, L)


def list_files(path: str) -> list[str]:
    """The names of the files that `read_folder` reads; the tokenizer may be in the folder above."""
    above = [name for name in (MODEL_FILE, f"../{MODEL_FILE}") if os.path.exists(os.path.join(path, name))]
    return [PARAMS, *sorted(glob.glob("consolidated.*.pth", root_dir=path)), *above[:1]]


def read_folder(path: str) -> LazyModel:
    """Opens a folder. Needs PyTorch. UserError naming the file and the field or tensor."""
    where = os.path.join(path, PARAMS)
    params = storage.read_json(where)
    shards = _Shards(path)
    cfg = _config(params, shards, where)
    # Llama 3.2 says nowhere that its head is the embedding; it stores it twice.
    cfg = dataclasses.replace(cfg, tied=same_numbers(shards.read("tok_embeddings.weight"), shards.read("output.weight")))
    wanted = {names.outside_name(leaf, "meta"): leaf for leaf, _ in leaves(cfg)}
    # Rotary frequencies, which the config gives as well: of the whole model, or in LLaMA 1 of each layer.
    dropped = {name for name in shards.shapes if name.endswith("rope.freqs")} | ({"output.weight"} if cfg.tied else set())
    names.check_names(wanted, [name for name in shards.shapes if name not in dropped], path, AGAIN)
    notes = []
    for name, leaf in wanted.items():
        if filling := names.check_shape(name, shards.shapes[name], leaf, cfg, path):
            notes.append(names.padding_note(name, filling, cfg))
    tokenizer, more = names.fit_tokenizer(_tokenizer(path, newer=cfg.rope_scaling is not None), cfg, path)
    notes += more

    def read(leaf: names.Path) -> np.ndarray:
        return names.from_interleaved(leaf, shards.read(names.outside_name(leaf, "meta")), cfg)

    def dtype(leaf: names.Path) -> str:
        return shards.dtypes[names.outside_name(leaf, "meta")]

    return LazyModel(config=cfg, tokenizer=tokenizer, read=read, dtype=dtype, notes=tuple(notes), end_ids=(tokenizer.eos_id,))


class _Shards:
    """The mapped files. Each holds a part of every matrix, cut along rows or columns, and the norms whole."""

    def __init__(self, path: str) -> None:
        present = sorted(glob.glob(os.path.join(glob.escape(path), "consolidated.*.pth")))
        files = [os.path.join(path, f"consolidated.{number:02d}.pth") for number in range(len(present))]
        if missing := sorted(set(files) - set(present)):
            raise UserError(f"{missing[0]}: is missing between {len(present)} files of this model; {AGAIN}")
        if len(files) > MOST_SHARDS:
            raise UserError(f"{path}: has {len(files)} files; at most {MOST_SHARDS} can be put together (take a Hugging Face folder)")
        self._files = files
        self._readers = [tensorfiles.Torch() for _ in files]
        self._parts = [reader.open(file) for reader, file in zip(self._readers, files)]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._axes: dict[str, int] = {}
        for file, part in zip(files[1:], self._parts[1:]):
            names.check_names(self._parts[0], part, file, AGAIN)
        if how := foreign(self._parts[0]):
            raise UserError(f"{files[0]}: {how}")
        for name in self._parts[0]:
            self._look_at(name)

    def _look_at(self, name: str) -> None:
        kinds = {(part[name].shape, part[name].dtype) for part in self._parts}
        if len(kinds) != 1:
            raise UserError(f"{self._files[0]}: tensor {name} is not of one shape and type in the model's files: {sorted(kinds)}; {AGAIN}")
        (shape, self.dtypes[name]), count = kinds.pop(), len(self._parts)
        if self.dtypes[name] not in DTYPES:
            raise UserError(f"{self._files[0]}: tensor {name} has type {self.dtypes[name]}; readable are {', '.join(DTYPES)}")
        weight = names.weight_of(name, "meta")
        axis = self._axis(name, shape) if weight is not None and weight.matrix and count > 1 else -1
        self._axes[name] = axis
        self.shapes[name] = tuple(size * count if i == axis else size for i, size in enumerate(shape))

    def _axis(self, name: str, shape: tuple[int, ...]) -> int:
        """Along which axis a matrix is cut. Of those that read the model's width D it is rows, of those that write it columns."""
        if name == "tok_embeddings.weight":  # LLaMA 1 and 2 cut D, Llama 3 the vocabulary
            width = self._parts[0]["norm.weight"].shape[0] if "norm.weight" in self._parts[0] else 0
            return 0 if shape[1:] == (width,) else 1
        return 1 if name.endswith((".wo.weight", ".w2.weight")) else 0

    def read(self, name: str) -> np.ndarray:
        """A whole tensor; a view of the mapped file when there is one file, or when all hold the same."""
        parts = [reader.read(name) for reader in self._readers]
        if self._axes[name] >= 0:
            return np.concatenate(parts, axis=self._axes[name])
        for file, part in zip(self._files[1:], parts[1:]):
            if not same_numbers(parts[0], part):
                raise UserError(f"{file}: tensor {name} is not the same as in {self._files[0]}, as it must be; {AGAIN}")
        return parts[0]


def _config(params: Mapping[str, Any], shards: _Shards, where: str) -> LlamaConfig:
    for key, value in params.items():
        if key not in (*_READ, *_IGNORED) and value is not None:
            raise UserError(f"{where}: {key} is {value!r}; nothing here computes with it, so this is not a plain LLaMA model")

    def number(key: str, default: float | None = None) -> Any:
        return lazy_model.number(params, key, where, default)

    for name in ("tok_embeddings.weight", "output.weight", "layers.0.feed_forward.w1.weight"):
        if len(shards.shapes.get(name, ())) != 2:
            raise UserError(f"{os.path.dirname(where)}: tensor {name} is missing or no matrix; {AGAIN}")
    heads, width, layers = number("n_heads"), number("dim"), number("n_layers")
    vocabulary_size = number("vocab_size", -1)
    scaled = params.get("use_scaled_rope", False)
    factor = 32.0 if (width, layers) in _SCALED_BY_32 else 8.0
    try:
        cfg = LlamaConfig(
            vocab_size=vocabulary_size if vocabulary_size > 0 else shards.shapes["tok_embeddings.weight"][0],
            d_model=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=number("n_kv_heads", heads),
            head_dim=width // heads,
            d_ff=shards.shapes["layers.0.feed_forward.w1.weight"][0],
            rope_theta=float(number("rope_theta", 10000.0)),
            rope_scaling=RopeScaling(factor, 1.0, 4.0, 8192) if scaled else None,
            rms_eps=float(number("norm_eps")),
        )
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"{where}: {error}") from error
    return dataclasses.replace(cfg, max_positions=number("max_seq_len", _positions(cfg)))


def _positions(cfg: LlamaConfig) -> int:
    """The longest sequence, which params.json does not name: that of the published size, else of the family."""
    if cfg.rope_scaling is not None:
        return 131072
    known = [size for size in SIZES.values() if dataclasses.replace(size, max_positions=cfg.max_positions) == cfg]
    if known:
        return known[0].max_positions
    return {10000.0: 2048, 500000.0: 8192, 1000000.0: 16384}.get(cfg.rope_theta, 2048)


def _tokenizer(path: str, newer: bool) -> Tokenizer:
    """tokenizer.model in the folder, or beside it as LLaMA 1 and 2 come: sentencepiece, or from Llama 3 on tiktoken.

    newer: of Llama 3.1 or later, which gave names to some of the reserved tokens.
    """
    for folder in (path, os.path.dirname(os.path.abspath(path))):
        file = os.path.join(folder, MODEL_FILE)
        if os.path.isfile(file):
            with open(file, "rb") as model:
                data = model.read()
            if vocabulary.is_tiktoken(data):
                return vocabulary.from_tiktoken(data, file, newer)
            return Tokenizer({MODEL_FILE: data}, folder)
    raise UserError(f"{path}: no {MODEL_FILE}, neither in the folder nor in the one above; copy it from where the weights came from")
