"""`humpback convert`: GGUF or Hugging Face weights to a model folder, and any model folder to a Hugging Face folder."""

import os
import time

from absl import flags, logging
from etils import epath

from humpback import prompts
from humpback.convert import huggingface, sources
from humpback.errors import UserError
from humpback.training import checkpoint

# What a conversion that was cut off may have left; anything else in a target folder is somebody's.
_OURS = ("weights", "tokenizer", "model", "special_tokens_map.json", "generation_config.json", ".humpback-tmp-")
_FINISHED = (huggingface.CONFIG, checkpoint.CHECKSUMS)


def define_flags() -> None:
    """The command's flags."""
    what = "GGUF file, Hugging Face folder, model folder, or package:NAME/GLOB."
    flags.DEFINE_string("source", None, what, required=True)
    flags.DEFINE_string("target", None, "The folder to make; it must not hold a model yet.", required=True)
    flags.DEFINE_enum("to_format", "checkpoint", ["checkpoint", "huggingface"], "What to make of it.")
    flags.DEFINE_enum(
        "wrapper", None, sorted(prompts.WRAPPERS), "Chat wrapper; default: what the source says, or fits its tokenizer."
    )
    flags.DEFINE_string("sha256", "", "What the source file's sha256 must be; empty: not checked.")


def main() -> None:
    """Runs the command with the parsed flags."""
    values = flags.FLAGS
    convert(values.source, values.target, values.to_format, wrapper=values.wrapper, sha256=values.sha256)


def convert(
    source: str, target: str, to_format: str = "checkpoint", *, wrapper: str | None = None, sha256: str = ""
) -> None:
    """Makes `target` from `source`, whole or not at all; a call after an interrupted one completes it.

    Raises UserError when the source is broken or unknown, or the target is not free.
    """
    start = time.monotonic()
    target = os.path.expanduser(target)
    _check_target(target)
    opened = sources.open_source(source, sha256)
    wrapper = wrapper or opened.wrapper
    about = f"{opened.direction} model, {opened.config.num_layers} layers, wrapper {wrapper}"
    print(f"{opened.path}: recognised as {sources.FORMATS[opened.format]} ({about})")
    params = opened.params()
    if to_format == "huggingface":
        huggingface.write_folder(
            target, opened.config, params, opened.tokenizer, wrapper=wrapper, direction=opened.direction
        )
    else:
        info = checkpoint.ModelInfo(opened.config, opened.direction, wrapper)
        checkpoint.save_model(target, info, params, opened.tokenizer)
    logging.info("conversion took %.1f s", time.monotonic() - start)
    print(f"{target}: {sources.FORMATS[to_format]}, complete")


def _check_target(target: str) -> None:
    folder = epath.Path(target)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{target}: is a file; --target must be a folder to make")
    found = sorted(item.name for item in folder.iterdir())
    for name in _FINISHED:
        if name in found:
            raise UserError(f"{target}: already holds a finished model ({name}); give another --target or remove it")
    for name in found:
        if not name.startswith(_OURS):
            raise UserError(f"{target}: holds {name}, which no conversion makes; give a new or an empty folder")
