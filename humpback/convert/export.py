"""Hugging Face folders out: config.json, safetensors, tokenizer files with the chat template, a model card.

What is written, transformers 4 and 5, lm-eval and llama.cpp's converter load untouched.
"""

import math
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from humpback import storage
from humpback.convert import families, names, tensorfiles
from humpback.convert.chat_template import PROBES, json_bytes, own_template, rendered_probes, tokenizer_files
from humpback.convert.huggingface import GENERATION
from humpback.convert.lazy_model import LazyModel
from humpback.convert.recognition import CONFIG
from humpback.convert.tensor_ops import DTYPES, ahead
from humpback.errors import UserError
from humpback.model.weights import LlamaConfig, leaves
from humpback.tokens.tokenizer import Tokenizer

CARD = "README.md"
_WRITTEN_FOR = "4.57.0"  # whose spelling the fields have; without it transformers takes the folder for one that its fixes are for
FILE_BYTES = 5_000_000_000  # of a file of weights, at most, if it holds more than one
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class Beside(NamedTuple):
    """What an exported folder says beside its weights: how the model is asked, its card (README.md; none if empty), and the texts of
    licence and notice files."""

    wrapper: str
    direction: str
    card: str = ""
    texts: Mapping[str, bytes] = MappingProxyType({})


def write_folder(
    path: str,
    model: LazyModel,
    beside: Beside,
    *,
    file_bytes: int = FILE_BYTES,
    progress: Callable[[int], None] = lambda size: None,
    say: Callable[[str], None] = lambda note: None,
) -> None:
    """Writes a folder that transformers loads, in the types of `model`, one tensor in memory at a time.

    The chat template wraps the user's turn as the model of `beside.direction` was trained to be asked: with both tags for
    a forward or base model, with the request for an instruction for a backward one. A base model with a template of its own keeps it,
    its ends and its way to be sampled. config.json is written last, so a folder without it is unfinished and the same call completes
    it. progress: told of the bytes of each tensor that has been written. say: told of what was changed.
    Raises UserError when the target is complete or holds another conversion.
    """
    cfg = model.config
    names.check_vocabulary(model.tokenizer.vocab_size, cfg, path)
    config_file = os.path.join(path, CONFIG)
    if os.path.exists(config_file):
        raise UserError(f"{path}: already holds a finished model; give another --target or remove the folder")
    files = folder_files(model, beside.wrapper, beside.direction, say)
    _check_ids(model.tokenizer, files, path)
    files |= beside.texts
    if beside.card:
        files[CARD] = beside.card.encode()
    storage.clean(path)
    try:
        for name, data in files.items():
            storage.publish(os.path.join(path, name), data)
        _write_weights(path, model, file_bytes, progress)
        note = {"direction": beside.direction, "wrapper": beside.wrapper}
        config = _config(cfg, model.dtype(("embedding",)), model.tokenizer, end_ids(model, beside.direction))
        storage.publish(config_file, json_bytes({**config, "humpback": note}))
    except FileExistsError as error:
        begun = f"{path} was begun for another model or with another --file_gb"
        raise UserError(f"{error}; {begun}: remove it or give another --target") from error


def folder_files(model: LazyModel, wrapper: str, direction: str, say: Callable[[str], None] = lambda note: None) -> dict[str, bytes]:
    """All files of a folder but weights, config.json and card. UserError when the tokenizer cannot be exported."""
    template, rendered = template_of(model, wrapper, direction), []
    if template != model.chat_template:
        rendered = rendered_probes(wrapper, direction, model.tokenizer)
    files = tokenizer_files(model.tokenizer, template, model.config.max_positions, rendered, say)
    if template == model.chat_template:
        say("the model's own chat template is kept, with what ends its texts and how it is sampled")
    return {**files, GENERATION: json_bytes(_generation(model, direction))}


def _check_ids(tokenizer: Tokenizer, files: Mapping[str, bytes], path: str) -> None:
    """The exported tokenizer gives the ids of the one that it was made from. UserError otherwise."""
    exported = Tokenizer(files, path)
    for text in PROBES:
        if exported.encode_alone(text) != tokenizer.encode_alone(text) or exported.eos_id != tokenizer.eos_id:
            raise UserError(f"{path}: exported, the tokenizer of {tokenizer.name} gives {text!r} other ids; nothing was written")


def template_of(model: LazyModel, wrapper: str, direction: str) -> str:
    """The chat template of an exported folder."""
    return (model.chat_template if direction == "base" else "") or own_template(wrapper, direction, model.tokenizer)


def end_ids(model: LazyModel, direction: str) -> list[int]:
    """What ends the texts of an exported model: of one that was trained here the eos alone."""
    return list(model.end_ids) if direction == "base" and model.chat_template and model.end_ids else [model.tokenizer.eos_id]


def _write_weights(path: str, model: LazyModel, file_bytes: int, progress: Callable[[int], None]) -> None:
    tensors = {}
    for leaf, _ in leaves(model.config):
        tensors[names.outside_name(leaf, "huggingface")] = (leaf, names.outside_shape(leaf, model.config), model.dtype(leaf))
    sizes = {name: math.prod(shape) * DTYPES[dtype].itemsize for name, (_, shape, dtype) in tensors.items()}
    parts = _parts(sizes, file_bytes)
    files = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))] if len(parts) > 1 else [_SINGLE]
    weight_map: dict[str, str] = {}
    for name in storage.list_files(path):
        if (name.endswith(".safetensors") and name not in files) or (name == _INDEX and len(files) == 1):
            raise FileExistsError(f"{os.path.join(path, name)}: is none of the {len(files)} files of weights that are to be written")

    def arrays(part: list[str]):
        for name in part:
            leaf = tensors[name][0]
            yield names.to_huggingface(leaf, model.read(leaf), model.config)
            progress(sizes[name])

    for file, part in zip(files, parts, strict=True):
        header = {name: tensors[name][1:] for name in part}
        storage.publish(os.path.join(path, file), tensorfiles.safetensors_bytes(header, ahead(arrays(part))))
        weight_map |= dict.fromkeys(part, file)
    if len(parts) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        storage.publish(os.path.join(path, _INDEX), json_bytes(index))


def _parts(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """The tensors of each file, in order, so that none but a file of one tensor is larger than the limit."""
    parts: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if parts[-1] and filled + size > limit:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def _config(cfg: LlamaConfig, dtype: str, tokenizer: Tokenizer, ends: list[int]) -> dict[str, Any]:
    """config.json in the spelling of transformers 4, which 5 reads as well."""
    return {
        **families.FAMILIES[families.name_of(cfg)].written,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.d_ff,
        "hidden_act": "silu",
        "max_position_embeddings": cfg.max_positions,
        "rms_norm_eps": cfg.rms_eps,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": _rope_scaling(cfg),
        "tie_word_embeddings": cfg.tied,
        "attention_bias": False,
        "mlp_bias": False,
        **families.extra_fields(cfg),
        "torch_dtype": dtype,
        "transformers_version": _WRITTEN_FOR,
        **_special_ids(tokenizer, ends),
    }


def _rope_scaling(cfg: LlamaConfig) -> dict[str, Any] | None:
    if cfg.rope_factor != 1:
        return {"rope_type": "linear", "factor": cfg.rope_factor}
    if cfg.rope_scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": cfg.rope_scaling.factor,
        "low_freq_factor": cfg.rope_scaling.low_freq_factor,
        "high_freq_factor": cfg.rope_scaling.high_freq_factor,
        "original_max_position_embeddings": cfg.rope_scaling.original_max_position,
    }


def _special_ids(tokenizer: Tokenizer, ends: list[int]) -> dict[str, Any]:
    bos = tokenizer.settings.get("bos_token")
    return {
        "bos_token_id": None if bos is None else tokenizer.specials[bos],
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": tokenizer.pad_id,
    }


def _generation(model: LazyModel, direction: str) -> dict[str, Any]:
    ids = {**_special_ids(model.tokenizer, end_ids(model, direction)), "transformers_version": _WRITTEN_FOR}
    if direction == "base" and model.chat_template and model.generation:
        return {**model.generation, **ids}
    # The paper samples its answers with T = 0.7, p = 0.9.
    return {**ids, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
