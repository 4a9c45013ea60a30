"""`humpback convert`: GGUF, Hugging Face or Meta weights to a model folder, and any model to a Hugging Face folder."""

import math
import os
import time
from collections.abc import Callable

import jax
from absl import flags, logging
from etils import epath

from humpback import distributed, locks, prompts
from humpback.convert import card, comparison, export, origin, peft, sources
from humpback.convert.recognition import ADAPTER, CONFIG
from humpback.convert.tensor_ops import DTYPES
from humpback.errors import UserError
from humpback.model.weights import leaves
from humpback.models import folders
from humpback.progress import Bar
from humpback.stages.directory import check_shared

# How the names begin of what a conversion that was cut off may have left; anything else in a target folder is somebody's.
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_OURS = {
    "checkpoint": ("weights", "tokenizer", "model.json", ".humpback-tmp-", origin.FILE, *_LICENCES),
    "huggingface": (
        "model.safetensors", "model-", "tokenizer", "special_tokens_map.json", "generation_config.json", export.CARD, ".humpback-tmp-",
        *_LICENCES,
    ),
    "peft": (peft.WEIGHTS, "tokenizer", "special_tokens_map.json", "generation_config.json", peft.PURPOSE, export.CARD, ".humpback-tmp-",
             *_LICENCES),
}  # fmt: skip
_FINISHED = (CONFIG, folders.CHECKSUMS, ADAPTER)


def define_flags() -> None:
    """The command's flags."""
    what = "GGUF file (one of a split model's), Hugging Face, PEFT or Meta's original folder, model folder, or package:NAME/GLOB."
    flags.DEFINE_string("source", None, what, required=True)
    flags.DEFINE_string("target", None, "The folder to make; it must not hold a model yet.", required=True)
    flags.DEFINE_enum("to_format", "checkpoint", ["checkpoint", "huggingface", "peft"], "What to make of it; peft: of adapters alone.")
    flags.DEFINE_string("base", None, "The base of a source that holds adapters alone, if not where its folder says.")
    flags.DEFINE_enum("dtype", None, list(DTYPES), "What all weights are cast to; default: kept (GGUF's are float32).")
    flags.DEFINE_enum(
        "wrapper", None, sorted(prompts.WRAPPERS), "Chat wrapper; default: what the source says, or fits its tokenizer."
    )
    flags.DEFINE_string("license", "", "Of an export, as model cards name it; default: what the base's folder says, else other.")
    flags.DEFINE_string("sha256", "", "What the source file's sha256 must be; empty: not checked.")
    flags.DEFINE_float("file_gb", export.FILE_BYTES / 1e9, "A file of Hugging Face weights has at most 1e9 bytes times this.", 1e-6)


def main() -> None:
    """Runs the command with the parsed flags."""
    values = flags.FLAGS
    check_shared("target", values.target)
    convert(
        values.source, values.target, values.to_format,
        wrapper=values.wrapper, sha256=values.sha256, dtype=values.dtype, file_bytes=int(values.file_gb * 1e9), progress=True,
        licence=values.license, base=values.base,
    )  # fmt: skip


def convert(
    source: str,
    target: str,
    to_format: str = "checkpoint",
    *,
    wrapper: str | None = None,
    sha256: str = "",
    dtype: str | None = None,
    file_bytes: int = export.FILE_BYTES,
    progress: bool = False,
    licence: str = "",
    base: str | None = None,
) -> None:
    """Makes `target` from `source`, whole or not at all, one tensor in memory at a time; a call after an interrupted one completes it.

    Raises UserError when the source is broken or unknown, or the target is not free.
    """
    start = time.monotonic()
    target = os.path.expanduser(target)
    distributed.by_first(f"convert {target} is free", lambda: _check_target(target, to_format))
    model = sources.open_source(source, sha256, dtype, base)
    if to_format == "peft" and model.adapter is None:
        told = sources.FORMATS[model.format]
        raise UserError(f"{source}: is {told}; --to_format=peft takes a model folder that holds adapters alone (lora_rank)")
    if to_format == "peft" and dtype:
        raise UserError(f"--dtype={dtype}: adapters are always written in float32; leave it out with --to_format=peft")
    wrapper = wrapper or model.wrapper
    about = f"{model.direction} model, {model.config.num_layers} layers, wrapper {wrapper}"
    say = print if jax.process_index() == 0 else lambda text: None
    say(f"{model.path}: recognised as {sources.FORMATS[model.format]} ({about}, {_types(model)})")
    for note in model.notes:
        say(f"{model.path}: {note}")
    if model.base_path and to_format != "peft" and jax.process_index() == 0:
        say(_rounded(source, base, model))  # before the target is complete, after which the same command says no more
    where = origin.read(card.base_folder(model))
    with _bar(model, progress and to_format != "peft") as bar:
        if to_format == "peft":
            if jax.process_index() == 0:
                _write_peft(target, model, wrapper, where, licence, say)
        elif to_format == "checkpoint":
            info = folders.ModelInfo(model.config, model.direction, wrapper)
            folders.save_streamed(
                target, info, model.read, lambda leaf: DTYPES[model.dtype(leaf)], model.tokenizer,
                lambda _, array: bar.advance(array.nbytes),
            )  # fmt: skip
            if jax.process_index() == 0:
                origin.write(target, where)
        elif jax.process_index() == 0:
            export.write_folder(
                target, model, export.Beside(wrapper, model.direction, card.model_card(model, wrapper, where, licence), where.texts),
                file_bytes=file_bytes, progress=bar.advance, say=lambda note: say(f"{target}: {note}"),
            )  # fmt: skip
    distributed.barrier(f"convert {target} is complete")  # a process that has left would not be waited for long
    logging.info("conversion took %.1f s", time.monotonic() - start)
    say(f"{target}: {sources.FORMATS[to_format]}, complete")
    if to_format == "huggingface":
        say(_how_to_load(target))
    elif model.chat_template and model.direction == "base":
        say(f"{target}: a model folder keeps no chat template of a base; exported, it is asked with wrapper {wrapper}")


def _write_peft(
    target: str, model: sources.Source, wrapper: str, where: origin.Origin, licence: str, say: Callable[[str], None]
) -> None:  # fmt: skip
    assert model.adapter is not None
    if model.adapter.type == "int8":
        say(f"{target}: its adapters were trained over weights rounded to int8; peft will put them beside weights that are not")
    beside = export.Beside(wrapper, model.direction, card.model_card(model, wrapper, where, licence), where.texts)
    peft.write_folder(
        target, model, model.adapter, model.path, beside, base=where.name, say=lambda note: say(f"{target}: {note}")
    )  # fmt: skip


def _rounded(source: str, base: str | None, model: sources.Source) -> str:
    """What merging and rounding once has changed, on a few texts."""
    kind = f", over a base rounded to {model.adapter.type}" if model.adapter else ""
    if _types(model) == "float32":
        return f"{model.path}: adapters are merged in float32{kind}; nothing is rounded"
    apart, kl = comparison.rounding(sources.open_source(source, base=base, exact=True), model)
    return (
        f"{model.path}: adapters are merged in float32{kind}, and rounded once to {_types(model)}: logits differ by up to {apart:.3g}, "
        f"KL divergence {kl:.3g} nats a token"
    )


def _how_to_load(target: str) -> str:
    return (
        f"  transformers: AutoModelForCausalLM.from_pretrained({target!r}), AutoTokenizer.from_pretrained({target!r})\n"
        f"  vLLM:         vllm serve {target}\n"
        f"  llama.cpp:    python convert_hf_to_gguf.py {target} --outfile model.gguf"
    )


def _types(model: sources.Source) -> str:
    dtypes = {model.dtype(leaf) for leaf, _ in leaves(model.config)}
    return " and ".join(sorted(dtypes))


def _bar(model: sources.Source, shown: bool) -> Bar:
    """Of the bytes that are written."""
    total = sum(math.prod(weight.sizes(model.config)) * DTYPES[model.dtype(leaf)].itemsize for leaf, weight in leaves(model.config))
    return Bar("convert", "B", total, scaled=True, shown=shown)


def _check_target(target: str, to_format: str) -> None:
    """UserError when something is there. A run's base/ belongs to who writes in the run, which is waited for."""
    folder = epath.Path(target)
    if (folder.parent / locks.NAME).exists():
        locks.lock_of(folder.parent).acquire()
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{target}: is a file; --target must be a folder to make")
    names = sorted(item.name for item in folder.iterdir())
    for name in _FINISHED:
        if name in names:
            raise UserError(f"{target}: already holds a finished model ({name}); give another --target or remove it")
    for name in names:
        if not name.startswith(_OURS[to_format]):
            kind = sources.FORMATS[to_format]
            raise UserError(f"{target}: holds {name}, which no conversion to {kind} makes; give a new or an empty folder")
