"""What a folder or a file is, found out before any reader looks at it: a form that is read here, or a UserError with the way out."""

import fnmatch
import glob
import json
import os
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from etils import epath

from humpback import storage
from humpback.convert.tensorfiles import AGAIN
from humpback.errors import UserError

CONFIG = "config.json"
PARAMS = "params.json"
MODEL = "model.json"
ADAPTER = "adapter_config.json"  # of peft
_POINTER = b"version https://git-lfs"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_CACHE = "models--"
# What a file begins with -> what it is and what to give instead.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (_POINTER, "is a git-lfs pointer, not the file itself; run `git lfs pull` where it lies, or download it again"),
    (b"lmgg", "is a GGML file of 2023, from before GGUF; take a GGUF file, or convert the model's Hugging Face folder"),
    (b"fmgg", "is a GGML file of 2023, from before GGUF; take a GGUF file, or convert the model's Hugging Face folder"),
    (b"tjgg", "is a GGML file of 2023, from before GGUF; take a GGUF file, or convert the model's Hugging Face folder"),
    (b"<!DOCTYPE", "is a web page, perhaps one that asks to log in; download the file itself"),
    (b"<html", "is a web page, perhaps one that asks to log in; download the file itself"),
    (b"\x1f\x8b", "is a compressed archive; unpack it and give the folder"),
)
# How a file's name ends -> the same.
_ENDINGS: tuple[tuple[tuple[str, ...], str], ...] = (
    ((".safetensors",), "is one file of weights alone; give the folder that it lies in, with config.json and the tokenizer"),
    ((".bin", ".pt", ".pth", ".ckpt"), "is one file of PyTorch; give the folder that it lies in, with config.json or params.json"),
    ((".json", ".model", ".jinja"), "is one file of a model; give the folder that it lies in"),
    ((".zip", ".tar", ".tgz", ".7z"), "is an archive; unpack it and give the folder"),
)
# What lies in a folder that somebody else's program made -> what that is.
_OTHERS: tuple[tuple[str, str], ...] = (
    ("model_index.json", "is a folder of diffusers, which makes pictures; a language model is needed"),
    ("zero_to_fp32.py", "is a training state of DeepSpeed; run the zero_to_fp32.py that lies in it, and give what that makes"),
    ("*.distcp", "is a training state in torch's distributed form; save the model once more with save_pretrained"),
    ("pytorch_model_fsdp*", "is a training state of FSDP; run `accelerate merge-weights` on it, and give what that makes"),
    ("*.onnx", "holds ONNX, in which no weights can be told apart; take the model's safetensors"),
    ("tf_model*.h5", "holds TensorFlow's weights alone; take the model's safetensors"),
    ("flax_model*.msgpack", "holds Flax's weights alone; take the model's safetensors"),
)
# What names of tensors begin with or hold, anywhere -> how they came to be.
_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"\blora_[AB]\b", "of a LoRA adapter; merge it into its base (peft: merge_and_unload, then save_pretrained) and give that folder"),
    (r"^base_model\.model\.", "saved while an adapter of peft was around the model; save it after merge_and_unload"),
    (r"^_orig_mod\.", "saved through torch.compile; load the file, save the model's `_orig_mod` with save_pretrained"),
    (r"^module\.|_fsdp_wrapped_module\.|^_forward_module\.",
     "saved with the wrapper that trained it on several devices; save the model inside of it with save_pretrained"),
    (r"\.(qweight|qzeros|g_idx)$|\.(absmax|quant_map|weight_scale_inv|weight_scale)$",
     "of a quantised model; take the model that it was made from, or its GGUF file"),
    (r"\.(qkv_proj|query_key_value|W_pack|gate_up_proj|Wqkv|c_attn)\.",
     "of an architecture that keeps queries, keys and values, or gate and up, in one matrix; it is not read here"),
    (r"\.experts\.|\.block_sparse_moe\.", "of a mixture of experts, which is not computed here"),
    (r"vision_tower|visual\.|^(model\.)?language_model\.", "of a model that sees pictures, too; only models of text alone are read"),
)  # fmt: skip


def recognise(path: str) -> str:
    """The form of what is there: "checkpoint", "huggingface", "meta", "gguf", or "peft" for adapters without their base.

    Looks at names and first bytes alone. UserError that says what else it is, and what to do.
    """
    if re.match(r"(https?|hf)://", path):
        raise UserError(_absent(path))
    folder = epath.Path(path)
    if (folder / MODEL).exists():
        return "checkpoint"
    if not folder.exists():
        raise UserError(_absent(path))
    if not os.path.isdir(path) and not folder.is_dir():
        return _file(path)
    if "://" in path:
        raise UserError(f"{path}: no model folder of Humpback; other forms are read from a local disk: copy it there")
    names = set(os.listdir(path))
    _check_files(path, names)
    if CONFIG in names and (_holds_weights(names) or not _is_meta(names)):
        if ADAPTER in names and not _holds_weights(names - _adapters(names)):
            return "peft"
        if ADAPTER in names:
            raise UserError(
                f"{path}: a whole model and a LoRA adapter are there, and transformers would load the adapter's base instead; move the "
                "adapter out of the folder, or merge it into its base"
            )
        if not _holds_weights(names):
            _check_others(path, names)
        return "huggingface"
    if _is_meta(names):
        return "meta"
    if ADAPTER in names:
        return "peft"
    raise UserError(_folder(path, names))


def _is_meta(names: Collection[str]) -> bool:
    return PARAMS in names and any(name.startswith("consolidated.") and name.endswith(".pth") for name in names)


def _adapters(names: Collection[str]) -> set[str]:
    return {name for name in names if name.startswith("adapter_model")}


def _holds_weights(names: Collection[str]) -> bool:
    return any(name.endswith(".safetensors") or (name.startswith("pytorch_model") and name.endswith(".bin")) for name in names)


def _absent(path: str) -> str:
    if re.match(r"(https?|hf)://", path) or (_HUB_NAME.fullmatch(path) and not os.path.exists(path.split("/")[0])):
        name = "/".join(re.sub(r"^(https?|hf)://(huggingface\.co/)?", "", path).split("/")[:2])
        return (
            f"{path}: no such file or folder; if it is a model's name on the Hugging Face Hub, download it first "
            f"(hf download {name} --local-dir {name.rpartition('/')[2]}) and give the folder"
        )
    return f"{path}: no such file or folder"


def _file(path: str) -> str:
    with open(path, "rb") as file:
        begin = file.read(64)
    if begin[:4] == b"GGUF":
        if (version := int.from_bytes(begin[4:8], "little")) == 1:
            raise UserError(f"{path}: is a GGUF file of version {version}, of August 2023; take one of version 2 or later")
        return "gguf"
    if not begin:
        raise UserError(f"{path}: is empty; copy or download it again")
    for start, what in _BEGINNINGS:
        if begin.startswith(start):
            raise UserError(f"{path}: {what}")
    for ends, what in _ENDINGS:
        if path.endswith(ends):
            raise UserError(f"{path}: {what}")
    raise UserError(
        f"{path}: not a GGUF file, or one that was cut off at the start; for other formats give the folder with config.json or params.json"
    )


def _check_files(path: str, names: Collection[str]) -> None:
    """UserError for files that stand for others: git-lfs pointers, web pages, downloads that are not finished."""
    for name in sorted(names):
        file = os.path.join(path, name)
        if name.endswith((".safetensors", ".bin", ".pth", ".json", ".model")) and os.path.isfile(file):
            with open(file, "rb") as stream:
                begin = stream.read(64)
            for start, what in _BEGINNINGS:
                if begin.startswith(start):
                    raise UserError(f"{file}: {what}")
    for name in sorted(names):
        if name.endswith((".incomplete", ".part", ".aria2", ".crdownload")):
            raise UserError(f"{os.path.join(path, name)}: a download that was not finished; download the folder again")


def adapter_alone(path: str) -> str:
    """What to say of adapters whose base is not given."""
    try:
        with open(os.path.join(path, ADAPTER), "rb") as file:
            base = json.load(file).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    return (
        f"{path}: is a LoRA adapter, not a model{f' (its base is {base})' if base else ''}; merge it into its base (peft: "
        "PeftModel.from_pretrained, merge_and_unload, save_pretrained) and give that folder, or name the base where there is a flag --base"
    )


def _check_others(path: str, names: Collection[str]) -> None:
    for pattern, what in _OTHERS:
        if any(fnmatch.fnmatch(name, pattern) for name in names):
            raise UserError(f"{path}: {what}")


def _folder(path: str, names: Collection[str]) -> str:
    """What a folder is that no reader takes."""
    if not names:
        return f"{path}: is an empty folder"
    _check_others(path, names)
    if "snapshots" in names:
        found = sorted(glob.glob(os.path.join(glob.escape(path), "snapshots", "*")))
        return f"{path}: is the Hub's cache of a model; give the snapshot in it: {', '.join(found) or 'none is there, download it again'}"
    if cached := sorted(name for name in names if name.startswith(_HUB_CACHE)):
        return f"{path}: is the Hub's cache of {len(cached)} models; give a snapshot: {os.path.join(path, cached[0], 'snapshots')}/…"
    if found := sorted(name for name in names if name.endswith(".gguf")):
        return f"{path}: is a folder with GGUF files; give one of them: {', '.join(os.path.join(path, name) for name in found[:8])}"
    below = sorted(
        name for name in names if any(os.path.isfile(os.path.join(path, name, file)) for file in (CONFIG, PARAMS, MODEL))
    )
    if below:
        return f"{path}: is a folder of models; give one of them: {', '.join(os.path.join(path, name) for name in below[:8])}"
    if any(name.startswith("consolidated") for name in names):
        which = PARAMS if PARAMS not in names else "consolidated.00.pth"
        return f"{path}: holds a model's consolidated weights without a {which} that is read here; take its Hugging Face folder"
    if _begun(names):
        return f"{path}: is a conversion that was interrupted; run the same `humpback convert` again"
    if _holds_weights(names):
        return f"{path}: holds weights, but no {CONFIG}; copy it from where they came from"
    return f"{path}: neither {CONFIG} (Hugging Face), {PARAMS} with consolidated.00.pth (Meta) nor {MODEL} (Humpback) is in this folder"


def _begun(names: Collection[str]) -> bool:
    """Whether it is what an export or a conversion leaves when it is killed: all but what is written last."""
    ours = any(name.startswith((".humpback-tmp-", "weights.")) or name == "weights" for name in names)
    return ours or {"generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "README.md"} <= set(names)


def foreign(names: Collection[str]) -> str | None:
    """How tensors came to names that no LLaMA's have, and what to do; None where that is not known."""
    for pattern, what in _FOREIGN:
        for name in sorted(names):
            if re.search(pattern, name):
                return f"tensor {name} is {what}"
    return None


class Chosen(NamedTuple):
    """Which files of a Hugging Face folder hold its weights. weight_map: tensor -> file, of an index. notes: what was passed over."""

    files: list[str]
    index_file: str
    weight_map: Mapping[str, str] | None
    notes: tuple[str, ...]


# An index and what it names, one file, several: in the order in which they are looked for.
_KINDS = (
    ("model.safetensors.index.json", "model.safetensors", "*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model*.bin"),
)
_PART = re.compile(r".*-(\d{5})-of-(\d{5})\.\w+")


def choose_weights(path: str) -> Chosen:
    """The one model of a folder. UserError when there is none, or when files of two are there: which one counts nobody can know."""
    notes: tuple[str, ...] = ()
    for index, single, pattern in _KINDS:
        found = [name for name in sorted(glob.glob(pattern, root_dir=path)) if not name.startswith(("adapter_model", "consolidated"))]
        chosen = _of_kind(path, index, single, found)
        if chosen is not None:
            return chosen._replace(notes=notes + chosen.notes)
        if os.path.exists(os.path.join(path, index)):
            notes += (f"{index} is left over from files that are gone, and other programs may stop at it: remove it",)
    if notes:
        missing = sorted(set(_weight_map(path, notes[0].partition(" ")[0]).values()))[0]
        raise UserError(f"{os.path.join(path, missing)}: no such file, which the index beside it names; {AGAIN}")
    raise UserError(f"{path}: no weights are there; readable are *.safetensors and pytorch_model*.bin, with or without an index")


def _of_kind(path: str, index: str, single: str, found: list[str]) -> Chosen | None:
    """The weights of one kind of file; None when there are none."""
    here = [os.path.join(path, name) for name in found]
    if os.path.exists(os.path.join(path, index)):
        weight_map = _weight_map(path, index)
        named = sorted(set(weight_map.values()))
        present = [name for name in named if name in found]
        if single in found and single not in named:
            if present:
                raise UserError(
                    f"{path}: two models are there, {single} and the files of {index} ({present[0]}, …); programs differ in which one "
                    "they load: move the one that is not meant out of the folder"
                )
            return Chosen([os.path.join(path, single)], index, None, (f"{index} names files that are gone; {single} is read",))
        if not present:
            return None
        files = [os.path.join(path, name) for name in named]
        others = sorted(set(found) - set(named))
        return Chosen(files, index, weight_map, (f"not in {index} and not read: {', '.join(others)}",) if others else ())
    if single in found:
        others = [name for name in found if name != single]
        return Chosen([os.path.join(path, single)], index, None, (f"beside {single} and not read: {', '.join(others)}",) if others else ())
    if not found:
        return None
    parts = [match for name in found if (match := _PART.fullmatch(name))]
    if len(totals := sorted({match[2] for match in parts})) > 1:
        raise UserError(
            f"{path}: files of two models are there, of {int(totals[0])} and of {int(totals[1])} parts, and no {index}; move those that "
            "are not meant out of the folder"
        )
    for number in range(int(totals[0]) if totals else 0):
        if not any(int(match[1]) == number + 1 for match in parts):
            missing = f"{parts[0][0][: parts[0].start(1)]}{number + 1:05d}{parts[0][0][parts[0].end(1) :]}"
            raise UserError(f"{os.path.join(path, missing)}: no such file, of {int(totals[0])} parts; {AGAIN}")
    return Chosen(here, index, None, ())


def _weight_map(path: str, index: str) -> dict[str, str]:
    """tensor -> file name, of an index. UserError when it is none."""
    weight_map = storage.read_json(os.path.join(path, index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise UserError(f"{os.path.join(path, index)}: no weight_map from tensor names to files; {AGAIN}")
    return weight_map
