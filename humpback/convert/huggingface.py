"""Hugging Face folders in and out: config.json, safetensors, tokenizer files, chat template.

What is written, transformers 4 and 5, vLLM and lm-eval load untouched.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

from humpback import prompts, storage
from humpback.convert import names
from humpback.convert.chat_template import chat_template, json_bytes, surrounding, tokenizer_files
from humpback.errors import UserError
from humpback.model.weights import LlamaConfig, RopeScaling, check_params, leaves
from humpback.tokens.tokenizer import Tokenizer

CONFIG = "config.json"
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_AGAIN = "copy or download the folder again"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_REQUIRED: Any = object()
# config.json's field -> the only values the LLaMA of this project computes with.
_FIXED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", "swish", None),
    "sliding_window": (None,),
    "rope_interleaved": (False, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}


def read_folder(path: str) -> tuple[LlamaConfig, Callable[[names.Path], np.ndarray], Tokenizer]:
    """(config, reader of one weight by its path, tokenizer) of a folder with a LlamaForCausalLM.

    The reader returns numpy arrays in our layout and in the dtype of the file, read when asked, so one tensor is in
    memory at a time. Names and shapes of all tensors are checked before. Raises UserError naming the file and the field
    or tensor.
    """
    where = os.path.join(path, CONFIG)
    values = storage.read_json(where)
    files = _files(path)
    cfg = _read_config(values, where)
    wanted = {names.outside_name(leaf, "huggingface"): leaf for leaf, _ in leaves(cfg)}
    has_head = "lm_head.weight" in files.tensors
    if cfg.tied and has_head:
        files.check_tied(where)
    if not cfg.tied and not has_head:
        raise UserError(
            f"{where}: tie_word_embeddings is false or absent, but there is no tensor lm_head.weight; "
            "set it to true if the head is the embedding, otherwise the weights are incomplete"
        )
    # Files of the first LLaMA carry the rotary frequencies, which the config gives as well.
    found = [name for name in files.tensors if not name.endswith(".rotary_emb.inv_freq")]
    names.check_names(wanted, [name for name in found if not (cfg.tied and name == "lm_head.weight")], path, _AGAIN)
    for name, leaf in wanted.items():
        files.check(name, leaf, cfg)
    tokenizer = Tokenizer.load(path)
    names.check_vocabulary(tokenizer.vocab_size, cfg, path)

    def read(leaf: names.Path) -> np.ndarray:
        return names.from_huggingface(leaf, files.read(names.outside_name(leaf, "huggingface")), cfg)

    return cfg, read, tokenizer


def read_purpose(path: str) -> tuple[str, str | None]:
    """(direction, wrapper) that `write_folder` left in config.json; ("base", None) for other people's models."""
    note = storage.read_json(os.path.join(path, CONFIG)).get("humpback") or {}
    return note.get("direction", "base"), note.get("wrapper")


class _Files:
    """The safetensors files of a folder, opened lazily: tensor name -> file."""

    def __init__(self, tensors: Mapping[str, str]) -> None:
        self.tensors = dict(tensors)

    def read(self, name: str) -> np.ndarray:
        with _open(self.tensors[name]) as file:
            return file.get_tensor(name)

    def check(self, name: str, leaf: names.Path, cfg: LlamaConfig) -> None:
        with _open(self.tensors[name]) as file:
            part = file.get_slice(name)
            found, dtype = tuple(part.get_shape()), part.get_dtype()
        names.check_shape(name, found, leaf, cfg, self.tensors[name])
        if dtype not in _DTYPES.values():
            raise UserError(
                f"{self.tensors[name]}: tensor {name} has type {dtype}; readable are {', '.join(_DTYPES.values())}"
            )

    def check_tied(self, where: str) -> None:
        embedding, head = self.read("model.embed_tokens.weight"), self.read("lm_head.weight")
        if embedding.shape != head.shape or embedding.tobytes() != head.tobytes():
            raise UserError(
                f"{where}: tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight; "
                "set it to false if the head is to count, or remove the tensor"
            )


def _files(path: str) -> _Files:
    index, single = os.path.join(path, _INDEX), os.path.join(path, _SINGLE)
    if os.path.exists(index):
        weight_map = storage.read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            raise UserError(f"{index}: no weight_map from tensor names to files; {_AGAIN}")
        wanted = sorted(set(weight_map.values()))
    elif os.path.exists(single):
        weight_map, wanted = None, [_SINGLE]
    else:
        raise UserError(f"{path}: neither {_SINGLE} nor {_INDEX} is there; only safetensors weights can be read")
    tensors: dict[str, str] = {}
    for name in wanted:
        file = os.path.join(path, name)
        with _open(file) as opened:
            for tensor in opened.keys():  # noqa: SIM118, this is no dict
                if tensor in tensors:
                    raise UserError(f"tensor {tensor} is in {tensors[tensor]} and again in {file}; {_AGAIN}")
                tensors[tensor] = file
    for tensor, name in (weight_map or {}).items():
        if tensors.get(tensor) != os.path.join(path, name):
            raise UserError(f"{index}: tensor {tensor} is not in {name}, where the index puts it; {_AGAIN}")
    return _Files(tensors)


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    try:
        file = safetensors.safe_open(path, framework="np")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {_AGAIN}") from error
    except Exception as error:  # SafetensorError for a broken header, OSError for the rest
        raise UserError(f"{path}: not a whole safetensors file ({error}); {_AGAIN}") from error
    with file:
        yield file


def _read_config(values: Mapping[str, Any], where: str) -> LlamaConfig:
    architectures = values.get("architectures") or ["LlamaForCausalLM"]
    if architectures != ["LlamaForCausalLM"] or values.get("model_type", "llama") != "llama":
        raise UserError(
            f"{where}: architectures {architectures}, model_type {values.get('model_type')!r}; "
            "only LlamaForCausalLM (LLaMA 1 to 3, TinyLlama, SmolLM2) can be read"
        )
    for key, allowed in _FIXED.items():
        if values.get(key) not in allowed:
            raise UserError(f"{where}: {key} is {values[key]!r}; only {allowed[0]!r} is supported")

    def number(key: str, default: Any = _REQUIRED) -> Any:
        value = values.get(key)
        value = default if value is None else value
        if value is _REQUIRED:
            raise UserError(f"{where}: {key} is missing")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"{where}: {key} is {value!r}, must be a number")
        return value

    heads, width = number("num_attention_heads"), number("hidden_size")
    theta, scaling = _read_rope(values, number("rope_theta", 10000.0), where)
    try:
        return LlamaConfig(
            vocab_size=number("vocab_size"),
            d_model=width,
            num_layers=number("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=number("num_key_value_heads", heads),
            head_dim=number("head_dim", width // heads if heads else 0),
            d_ff=number("intermediate_size"),
            rope_theta=theta,
            rope_scaling=scaling,
            rms_eps=float(number("rms_norm_eps", 1e-6)),
            tied=bool(values.get("tie_word_embeddings", False)),
            max_positions=number("max_position_embeddings", 2048),
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _read_rope(values: Mapping[str, Any], theta: float, where: str) -> tuple[float, RopeScaling | None]:
    """theta and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    key = "rope_parameters" if values.get("rope_parameters") else "rope_scaling"
    rope = values.get(key) or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"{where}: {key} is {rope!r}, must be an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = float(rope.get("rope_theta", theta))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        value = rope["partial_rotary_factor"]
        raise UserError(f"{where}: {key}.partial_rotary_factor is {value!r}; only 1.0 is supported")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UserError(f'{where}: {key} has the type {kind!r}; only "default" and "llama3" are supported')
    fields = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    for field in fields:
        if not isinstance(rope.get(field), int | float):
            raise UserError(f"{where}: {key}.{field} is {rope.get(field)!r}, must be a number")
    return theta, RopeScaling(*(float(rope[field]) for field in fields[:3]), int(rope[fields[3]]))


def write_folder(
    path: str,
    cfg: LlamaConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    wrapper: str,
    direction: str,
    max_file_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers loads, in the dtype of `params` (unstacked tree), copying one tensor at a time.

    The chat template wraps the user's turn as the model of this `direction` was trained to be asked: with both tags for
    a forward or base model, with the request for an instruction for a backward one. config.json is written last, so a
    folder without it is unfinished and the same call completes it. Raises UserError when the target is complete or
    holds another conversion, ValueError for weights that do not fit `cfg`.
    """
    check_params(cfg, params)
    names.check_vocabulary(tokenizer.vocab_size, cfg, path)
    config_file = os.path.join(path, CONFIG)
    if os.path.exists(config_file):
        raise UserError(f"{path}: already holds a finished model; give another --target or remove the folder")
    template = chat_template(prompts.WRAPPERS[wrapper], surrounding(direction), tokenizer)
    files = tokenizer_files(tokenizer, template, cfg.max_positions)
    files["generation_config.json"] = json_bytes(_generation(tokenizer))
    try:
        for name, data in files.items():
            storage.publish(os.path.join(path, name), data)
        _write_weights(path, cfg, params, max_file_bytes)
        note = {"direction": direction, "wrapper": wrapper}
        storage.publish(config_file, json_bytes({**_config(cfg, params, tokenizer), "humpback": note}))
    except FileExistsError as error:
        raise UserError(f"{error}; {path} was begun for another model: remove it or give another --target") from error


def _write_weights(path: str, cfg: LlamaConfig, params: Mapping[str, Any], max_file_bytes: int) -> None:
    arrays = {names.outside_name(leaf, "huggingface"): (leaf, _leaf(params, leaf)) for leaf, _ in leaves(cfg)}
    parts: list[list[str]] = [[]]
    size = 0
    for name, (_, array) in arrays.items():
        if parts[-1] and size + array.nbytes > max_file_bytes:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += array.nbytes
    weight_map: dict[str, str] = {}
    for i, part in enumerate(parts):
        file = _SINGLE if len(parts) == 1 else f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
        storage.publish(os.path.join(path, file), _safetensors({name: arrays[name] for name in part}, cfg))
        weight_map |= dict.fromkeys(part, file)
    if len(parts) > 1:
        total = sum(array.nbytes for _, array in arrays.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        storage.publish(os.path.join(path, _INDEX), json_bytes(index))


def _safetensors(arrays: Mapping[str, tuple[names.Path, Any]], cfg: LlamaConfig) -> Iterator[bytes]:
    """A safetensors file in pieces; the library's own writer would need all tensors in memory at once."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (leaf, array) in arrays.items():
        header[name] = {
            "dtype": _DTYPES[str(array.dtype)],
            "shape": list(names.outside_shape(leaf, cfg)),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for leaf, array in arrays.values():
        yield names.to_huggingface(leaf, np.asarray(array), cfg).tobytes()


def _config(cfg: LlamaConfig, params: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json in the spelling of transformers 4, which 5 reads as well."""
    scaling = cfg.rope_scaling and {
        "rope_type": "llama3",
        "factor": cfg.rope_scaling.factor,
        "low_freq_factor": cfg.rope_scaling.low_freq_factor,
        "high_freq_factor": cfg.rope_scaling.high_freq_factor,
        "original_max_position_embeddings": cfg.rope_scaling.original_max_position,
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
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
        "rope_scaling": scaling,
        "tie_word_embeddings": cfg.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": str(_leaf(params, ("embedding",)).dtype),
        **_special_ids(tokenizer),
    }


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    bos = tokenizer.settings.get("bos_token")
    return {
        "bos_token_id": None if bos is None else tokenizer.specials[bos],
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def _generation(tokenizer: Tokenizer) -> dict[str, Any]:
    # The paper samples its answers with T = 0.7, p = 0.9.
    return {**_special_ids(tokenizer), "do_sample": True, "temperature": 0.7, "top_p": 0.9}


def _leaf(params: Mapping[str, Any], path: names.Path) -> Any:
    for part in path:
        params = params[part]
    return params

