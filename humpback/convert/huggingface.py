"""Hugging Face folders in: config.json, safetensors or PyTorch's files, tokenizer."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from humpback import storage
from humpback.convert import families, lazy_model, names, tensorfiles
from humpback.convert.lazy_model import LazyModel
from humpback.convert.recognition import CONFIG, choose_weights, foreign
from humpback.convert.tensor_ops import DTYPES, same_numbers
from humpback.convert.tensorfiles import AGAIN
from humpback.errors import UserError
from humpback.model.weights import LlamaConfig, RopeScaling, leaves
from humpback.tokens import tokenizer as tokenizers
from humpback.tokens.tokenizer import Tokenizer

GENERATION = "generation_config.json"
_TEMPLATE = "chat_template.jinja"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def read_folder(path: str) -> LazyModel:
    """Opens a folder with a model of convert/families.py. UserError naming the file and the field or tensor."""
    where = os.path.join(path, CONFIG)
    values = storage.read_json(where)
    cfg = _read_config(values, where)
    chosen = choose_weights(path)
    files = tensorfiles.open_files(chosen.files, chosen.weight_map, os.path.join(path, chosen.index_file))
    if how := foreign(files.tensors):
        raise UserError(f"{path}: {how}")
    if not cfg.tied and _HEAD not in files.tensors:
        raise UserError(
            f"{where}: tie_word_embeddings is false or absent, but there is no tensor {_HEAD}: the weights are not whole; {AGAIN}"
        )
    wanted = {names.outside_name(leaf, "huggingface"): leaf for leaf, _ in leaves(cfg)}
    # Files of the first LLaMA carry the rotary frequencies, which the config gives as well.
    present = [name for name in files.tensors if not name.endswith(".rotary_emb.inv_freq")]
    names.check_names(wanted, [name for name in present if not (cfg.tied and name == _HEAD)], path, AGAIN)
    notes = [*chosen.notes]
    if cfg.max_positions < lazy_model.number(values, "max_position_embeddings", where, cfg.max_positions):
        why = "attention sees a window, or positions are scaled anew"
        notes.append(f"beyond {cfg.max_positions} tokens {why}; up to there all is exact, so more positions are not taken")
    for name, leaf in wanted.items():
        entry = files.tensors[name]
        if filling := names.check_shape(name, entry.shape, leaf, cfg, entry.file):
            notes.append(names.padding_note(name, filling, cfg))
        if entry.dtype not in DTYPES:
            raise UserError(f"{entry.file}: tensor {name} has type {entry.dtype}; readable are {', '.join(DTYPES)}")
    if cfg.tied and _HEAD in files.tensors and not _is_embedding(files, _HEAD):
        raise UserError(
            f"{where}: tie_word_embeddings is true, but {_HEAD} differs from {_EMBEDDING}; "
            "the folder contradicts itself, and only its maker knows which of them the model was trained with"
        )
    tokenizer, more = names.fit_tokenizer(Tokenizer.load(path), cfg, path)
    notes += more

    def read(leaf: names.Path) -> np.ndarray:
        return names.from_huggingface(leaf, files.read(names.outside_name(leaf, "huggingface")), cfg)

    def dtype(leaf: names.Path) -> str:
        return files.tensors[names.outside_name(leaf, "huggingface")].dtype

    generation = read_generation(path)
    return LazyModel(
        config=cfg, tokenizer=tokenizer, read=read, dtype=dtype, notes=tuple(notes), chat_template=_read_template(path),
        end_ids=_end_ids(generation, values, tokenizer), generation=generation,
    )  # fmt: skip


def list_files(path: str) -> list[str]:
    """The names of the files that `read_folder` reads."""
    chosen = choose_weights(path)
    weights = [os.path.basename(file) for file in chosen.files]
    index = [chosen.index_file] if chosen.weight_map else []
    return _existing(path, [CONFIG, GENERATION, _TEMPLATE, *tokenizers.FILES, *index, *weights])


def _existing(path: str, names: list[str]) -> list[str]:
    return [name for name in names if os.path.exists(os.path.join(path, name))]


def read_purpose(path: str) -> tuple[str, str | None]:
    """(direction, wrapper) that an export left in config.json; ("base", None) for other people's models."""
    note = storage.read_json(os.path.join(path, CONFIG)).get("humpback") or {}
    return note.get("direction", "base"), note.get("wrapper")


def read_generation(path: str) -> dict[str, Any]:
    """generation_config.json; {} without one."""
    file = os.path.join(path, GENERATION)
    return storage.read_json(file) if os.path.exists(file) else {}


def _end_ids(generation: Mapping[str, Any], values: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    """What ends a text: the list of generation_config.json, else config.json's, and the tokenizer's own."""
    listed = generation.get("eos_token_id", values.get("eos_token_id"))
    ids = listed if isinstance(listed, list) else [] if listed is None else [listed]
    return tuple(dict.fromkeys([tokenizer.eos_id, *(i for i in ids if isinstance(i, int) and 0 <= i < tokenizer.vocab_size)]))


def _read_template(path: str) -> str:
    """The chat template, in the file that transformers 5 writes or the field of before; "" without one, or with several."""
    file = os.path.join(path, _TEMPLATE)
    if os.path.exists(file):
        try:
            with open(file, encoding="utf-8") as template_file:
                return template_file.read()
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: is not UTF-8 ({error}); save it as UTF-8, or copy it again") from error
    config = os.path.join(path, "tokenizer_config.json")
    template = storage.read_json(config).get("chat_template") if os.path.exists(config) else None
    return template if isinstance(template, str) else ""


def _is_embedding(files: tensorfiles.Tensors, name: str) -> bool:
    """Whether a tensor is the embedding once more, which is there and can be read; of another type it is not."""
    same_type = files.tensors[name].dtype == files.tensors[_EMBEDDING].dtype
    return same_type and same_numbers(files.read(_EMBEDDING), files.read(name))


def _read_config(values: Mapping[str, Any], where: str) -> LlamaConfig:
    family = families.of_config(values, where)
    values = {**family.absent, **values}

    def number(key: str, default: float | None = None) -> Any:
        return lazy_model.number(values, key, where, family.absent.get(key, default))

    heads, width, layers = number("num_attention_heads"), number("hidden_size"), number("num_hidden_layers")
    theta, scaling, factor, original = _read_rope(values, number("rope_theta", 10000.0), where)
    positions, window = number("max_position_embeddings", 2048), families.window(values, family)
    try:
        return LlamaConfig(
            vocab_size=number("vocab_size"),
            d_model=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=number("num_key_value_heads", heads),
            head_dim=number("head_dim", width // heads if heads else 0),
            d_ff=number("intermediate_size"),
            rope_theta=theta,
            rope_scaling=scaling,
            rope_factor=factor,
            rms_eps=float(number("rms_norm_eps", 1e-6)),
            tied=bool(values.get("tie_word_embeddings", False)),
            max_positions=min(limit for limit in (positions, window, original) if limit is not None),
            no_rope_every=families.no_rope_every(values, family, layers, where),
            family=family.name,
            **family.traits,
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _read_rope(values: Mapping[str, Any], theta: float, where: str) -> tuple[float, RopeScaling | None, float, int | None]:
    """theta, Llama 3's scaling, what positions are divided by, and how many positions are exact where not all are (None: all).

    From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before). Dynamic scaling changes nothing up to where it
    begins.
    """
    key = "rope_parameters" if values.get("rope_parameters") else "rope_scaling"
    rope = values.get(key) or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"{where}: {key} is {rope!r}, must be an object")
    kind = rope.get("rope_type", rope.get("type"))
    if kind is None and "factor" in rope:
        raise UserError(f"{where}: {key} has a factor, {rope['factor']!r}, and no type; how positions are scaled cannot be known")
    kind = kind or "default"
    theta = float(lazy_model.number(rope, "rope_theta", f"{where}: {key}", theta))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        value = rope["partial_rotary_factor"]
        raise UserError(f"{where}: {key}.partial_rotary_factor is {value!r}; only 1.0 is supported")
    if kind == "default":
        return theta, None, 1.0, None
    if kind == "dynamic":
        begins = "original_max_position_embeddings"
        given = next((holder for holder in (rope, values) if holder.get(begins)), None)
        return theta, None, 1.0, None if given is None else int(lazy_model.number(given, begins, f"{where}: {key}"))
    if kind == "linear":
        return theta, None, float(lazy_model.number(rope, "factor", f"{where}: {key}")), None
    if kind != "llama3":
        raise UserError(f'{where}: {key} has the type {kind!r}; supported are "default", "llama3", "linear" and "dynamic"')
    fields = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, original = (lazy_model.number(rope, field, f"{where}: {key}") for field in fields)
    return theta, RopeScaling(float(factor), float(low), float(high), int(original)), 1.0, None
