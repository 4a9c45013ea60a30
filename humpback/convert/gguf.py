"""GGUF files of the families in families.py in: weights of every type that the gguf package can dequantise, config, tokenizer."""

import functools
import math
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np

from humpback.convert import families, names, vocabulary
from humpback.convert.lazy_model import SPLIT, LazyModel
from humpback.errors import UserError
from humpback.model.weights import LlamaConfig, RopeScaling, leaves

_STRIP = 1 << 20  # numbers that are dequantised at once
_ROPE_FREQS = "rope_freqs.weight"
_REQUIRED: Any = object()
_AGAIN = "the file is broken or was cut off, download it again"

Field = Callable[..., Any]


class _Reader(gguf.GGUFReader):
    """The library's reader on a plain view of its memory map: slicing np.memmap itself takes four times as long."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)


def read_file(path: str) -> LazyModel:
    """Opens a GGUF file, or all files of a model that is split into several, of which `path` is one.

    Its weights are float32, dequantised when they are asked for. UserError naming the file and the tensor or metadata field.
    """
    readers = _readers(path)
    path = next(iter(readers))
    field = _fields(readers[path], path)
    tensors: dict[str, Any] = {}
    for file, reader in readers.items():
        for tensor in reader.tensors:
            if tensor.name in tensors:
                raise UserError(f"{file}: tensor {tensor.name} is in another file of this model, too; {_AGAIN}")
            tensors[tensor.name] = tensor
    count = field("split.tensors.count", len(tensors))
    if count != len(tensors):
        raise UserError(f"{path}: split.tensors.count is {count}, but its {len(readers)} files hold {len(tensors)} tensors; {_AGAIN}")
    cfg = _config(field, tensors, path)
    notes = _check_tensors(cfg, tensors, path)
    tokenizer, more = names.fit_tokenizer(vocabulary.from_gguf(field, path), cfg, path)
    notes += (*more, *_unscaled(cfg, tensors))

    def read(leaf: names.Path) -> np.ndarray:
        array = _dequantised(tensors[names.outside_name(leaf, "gguf")])
        return names.from_interleaved(leaf, array, cfg) if interleaved else names.from_huggingface(leaf, array, cfg)

    interleaved = families.of_gguf(field("general.architecture"), path).interleaved
    template = field("tokenizer.chat_template", "")
    ends = (field(f"tokenizer.ggml.{name}_token_id", None) for name in ("eot", "eom"))
    return LazyModel(
        config=cfg, tokenizer=tokenizer, read=read, dtype=lambda _: "float32", notes=notes, chat_template=template,
        end_ids=tuple(dict.fromkeys([tokenizer.eos_id, *(i for i in ends if i is not None and 0 <= i < tokenizer.vocab_size)])),
    )  # fmt: skip


def _unscaled(cfg: LlamaConfig, tensors: dict[str, Any]) -> tuple[str, ...]:
    """What to say of a Llama 3.1 whose file is from before GGUF kept the factors of its positions (July 2024)."""
    if _ROPE_FREQS in tensors or cfg.rope_theta != 500000.0 or cfg.max_positions <= 8192 or cfg.vocab_size < 128000:
        return ()
    return (f"no {_ROPE_FREQS}, so positions are taken as unscaled; Llama 3.1 and later scale them: take a newer file of such a model",)


def _readers(path: str) -> dict[str, gguf.GGUFReader]:
    """File → reader; of a split model all files in their order, the first being the one with the metadata."""
    reader = _open(path)
    split = reader.get_field("split.count")
    count = 1 if split is None else int(split.contents())
    if count < 2:
        return {path: reader}
    stem = SPLIT.fullmatch(path)
    if stem is None or int(stem[3]) != count:
        raise UserError(f"{path}: is one of {count} files of a model and must be called NAME-00001-of-{count:05d}.gguf; give back its name")
    files = [f"{stem[1]}-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]
    readers = {}
    for number, file in enumerate(files):
        readers[file] = _open(file)
        field = readers[file].get_field("split.no")
        if field is None or int(field.contents()) != number:
            raise UserError(f"{file}: split.no is {field and int(field.contents())}, must be {number}; {_AGAIN}")
    return readers


def _open(path: str) -> gguf.GGUFReader:
    try:
        reader = _Reader(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {_AGAIN}") from error
    except Exception as error:  # a broken file makes the library stumble in many ways
        raise UserError(f"{path}: not a whole GGUF file ({error}); {_AGAIN}") from error
    if reader.endianess != gguf.GGUFEndian.LITTLE:
        raise UserError(f"{path}: a big-endian GGUF file; only little-endian ones can be read")
    return reader


def _dequantised(tensor: Any) -> np.ndarray:
    """A tensor as float32 (outputs, inputs). Some rows at a time: the library's own way takes several times the result."""
    shape = tuple(int(size) for size in reversed(tensor.shape))
    rows = np.atleast_2d(tensor.data)
    out = np.empty((len(rows), shape[-1]), np.float32)
    step = max(1, _STRIP // shape[-1])
    for start in range(0, len(rows), step):
        out[start : start + step] = gguf.quants.dequantize(rows[start : start + step], tensor.tensor_type)
    return out.reshape(shape)


def _fields(reader: gguf.GGUFReader, path: str) -> Field:
    def field(key: str, default: Any = _REQUIRED) -> Any:
        entry = reader.get_field(key)
        if entry is not None:
            return entry.contents()
        if default is _REQUIRED:
            raise UserError(f"{path}: the metadata have no {key}; convert the model's Hugging Face folder instead")
        return default

    return field


def _config(field: Field, tensors: dict[str, Any], path: str) -> LlamaConfig:
    family = families.of_gguf(field("general.architecture"), path)

    def number(key: str, default: Any = _REQUIRED) -> Any:
        value = field(f"{family.gguf}.{key}", default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"{path}: {family.gguf}.{key} is {value!r}, must be one number for the whole model")
        return value

    heads, width = number("attention.head_count"), number("embedding_length")
    head_dim = number("attention.key_length", width // heads if heads else 0)
    for key, allowed in (
        ("rope.dimension_count", head_dim),
        ("attention.value_length", head_dim),
        ("expert_count", 0),
    ):
        if number(key, allowed) != allowed:
            raise UserError(f"{path}: {family.gguf}.{key} is {number(key)}; only {allowed} is supported for this model")
    factor = number("rope.scaling.factor", number("rope.scale_linear", 1.0))
    scaling_type = field(f"{family.gguf}.rope.scaling.type", "linear")  # so does llama.cpp, and a factor of 1 is none
    if scaling_type not in ("none", "linear"):
        raise UserError(f'{path}: {family.gguf}.rope.scaling.type is {scaling_type!r}; supported are "none" and "linear"')
    positions, window = number("context_length"), number("attention.sliding_window", 0)
    tokens = field("tokenizer.ggml.tokens")
    theta = _decimal(number("rope.freq_base", 10000.0))
    try:
        return LlamaConfig(
            vocab_size=number("vocab_size", len(tokens)),
            d_model=width,
            num_layers=number("block_count"),
            num_heads=heads,
            num_kv_heads=number("attention.head_count_kv", heads),
            head_dim=head_dim,
            d_ff=number("feed_forward_length"),
            rope_theta=theta,
            rope_scaling=_rope_scaling(tensors.get(_ROPE_FREQS), head_dim, theta, path),
            rope_factor=_decimal(factor) if scaling_type == "linear" else 1.0,
            rms_eps=_decimal(number("attention.layer_norm_rms_epsilon")),
            tied="output.weight" not in tensors,
            max_positions=min(positions, window) if window else positions,
            no_rope_every=4 if family.name == "smollm3" else 0,  # llama.cpp has no field for it
            family=family.name,
            **family.traits,
        )
    except ValueError as error:
        raise UserError(f"{path}: the metadata contradict themselves: {error}") from error


def _decimal(value: float) -> float:
    """The shortest decimal with the same f32: the metadata keep 1e-5 as 9.99999975e-06, config.json as 1e-05."""
    return float(str(np.float32(value)))


def _rope_scaling(tensor: Any, head_dim: int, theta: float, path: str) -> RopeScaling | None:
    """Llama 3's scaling, which GGUF keeps as one factor per frequency only; the published constants must give them."""
    if tensor is None:
        return None
    factors = np.asarray(tensor.data, np.float64).reshape(-1)
    scaling = RopeScaling(
        factor=_decimal(factors.max()), low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192
    )
    wanted = llama3_factors(scaling, head_dim, theta)
    if factors.shape != wanted.shape or not np.allclose(factors, wanted, rtol=1e-5):
        raise UserError(
            f"{path}: {_ROPE_FREQS} are not the factors of Llama 3.1's RoPE scaling; "
            "convert the model's Hugging Face folder instead"
        )
    return scaling


def llama3_factors(scaling: RopeScaling, head_dim: int, theta: float) -> np.ndarray:
    """By how much Llama 3 divides each of the H / 2 rotary frequencies, f64."""
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = scaling.original_max_position * frequencies / (2 * math.pi)  # within the original context
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = np.clip(smooth, 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / scaling.factor + smooth)


def _check_tensors(cfg: LlamaConfig, tensors: dict[str, Any], path: str) -> tuple[str, ...]:
    """What to say of padding. UserError for tensors that are unknown, missing, of another shape or a type that cannot be read."""
    wanted = {names.outside_name(leaf, "gguf"): leaf for leaf, _ in leaves(cfg)}
    names.check_names(wanted, [name for name in tensors if name != _ROPE_FREQS], path, _AGAIN)
    notes = []
    for name, leaf in wanted.items():
        tensor = tensors[name]
        if not _can_be_read(tensor.tensor_type):
            raise UserError(
                f"{path}: tensor {name} has type {tensor.tensor_type.name}, which the gguf package cannot dequantise. "
                "Take another quantisation of the same model."
            )
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if filling := names.check_shape(name, shape, leaf, cfg, path):
            notes.append(names.padding_note(name, filling, cfg))
    return tuple(notes)


@functools.cache
def _can_be_read(kind: gguf.GGMLQuantizationType) -> bool:
    """By trying it on one block of zeros: the package has no list."""
    try:
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
