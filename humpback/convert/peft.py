"""Adapters of peft, in and out: adapter_config.json and adapter_model.safetensors, beside a base that lies elsewhere.

Outside, an adapter is lora_A (rank, inputs) and lora_B (outputs, rank), and what it adds to a matrix is lora_alpha / r · B A.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from humpback import storage
from humpback.convert import export, names, tensorfiles
from humpback.convert.chat_template import json_bytes
from humpback.convert.lazy_model import LazyModel, number
from humpback.convert.recognition import ADAPTER
from humpback.convert.tensor_ops import DTYPES, cast, turn
from humpback.convert.tensorfiles import AGAIN
from humpback.errors import UserError
from humpback.model import adapters
from humpback.model.weights import LlamaConfig, leaves
from humpback.models import weight_files
from humpback.models.adapter_folders import Adapter

PURPOSE = "direction.json"  # what an export says beside what peft knows
WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_OF_PART = {"a": "lora_A", "b": "lora_B"}
# Fields with which an adapter means something else than what is computed here -> the values with which it does not.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "use_rslora": (None, False), "use_dora": (None, False), "modules_to_save": (None, [], ()), "bias": (None, "none"),
    "fan_in_fan_out": (None, False), "rank_pattern": (None, {}), "alpha_pattern": (None, {}), "layer_replication": (None,),
    "layers_to_transform": (None,), "lora_bias": (None, False), "use_qalora": (None, False), "use_bdlora": (None, False),
    "arrow_config": (None,), "alora_invocation_tokens": (None, []), "trainable_token_indices": (None,),
    "target_parameters": (None, []), "megatron_config": (None,), "exclude_modules": (None, []),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),  # others change the base
}  # fmt: skip


def list_files(path: str) -> list[str]:
    """Names of the files of a folder of adapters that are read."""
    return [name for name in (ADAPTER, WEIGHTS, _PICKLED, PURPOSE) if os.path.exists(os.path.join(path, name))]


def read_purpose(path: str) -> tuple[str, str | None]:
    """(direction, wrapper) that an export left beside the adapters; ("base", None) for other people's."""
    file = os.path.join(path, PURPOSE)
    note = storage.read_json(file) if os.path.exists(file) else {}
    return note.get("direction", "base"), note.get("wrapper")


def read_folder(path: str, base: LazyModel, exact: bool = False) -> LazyModel:
    """Opens adapters with their base: each weight has its adapter added in float32 and is rounded once, to the base's type.

    exact: it is not rounded. UserError naming the file and the field or tensor, also for what makes adapters another thing.
    """
    where = os.path.join(path, ADAPTER)
    scale = _read_scale(storage.read_json(where), where)
    file = os.path.join(path, WEIGHTS)
    if not os.path.exists(file):
        file = os.path.join(path, _PICKLED)
    files = tensorfiles.open_files([file], None, "")
    pairs = _pairs(files, base.config)

    def dtype(leaf: names.Path) -> str:
        return "float32" if exact else base.dtype(leaf)

    def read(leaf: names.Path) -> np.ndarray:
        weight = base.read(leaf)
        if leaf in pairs:
            low, high = (files.read(name).astype(np.float32) for name in pairs[leaf])
            weight = weight.astype(np.float32) + scale * names.from_huggingface(leaf, high @ low, base.config)
        return cast(np.ascontiguousarray(weight), dtype(leaf), "/".join(leaf), path)

    note = f"{len(pairs)} matrices have an adapter; tokenizer and chat template are those of the base"
    return LazyModel(
        config=base.config, tokenizer=base.tokenizer, read=read, dtype=dtype, notes=(*base.notes, note), chat_template=base.chat_template,
        end_ids=base.end_ids, generation=base.generation,
    )  # fmt: skip


def _read_scale(values: Mapping[str, Any], where: str) -> float:
    if (kind := values.get("peft_type")) != "LORA":
        raise UserError(f"{where}: peft_type is {kind!r}; adapters are read that are LORA")
    for field, plain in _PLAIN.items():
        if values.get(field) not in plain:
            raise UserError(
                f"{where}: {field} is {values[field]!r}, with which an adapter is another thing than what is merged here; merge it with "
                "peft (PeftModel.from_pretrained, merge_and_unload, save_pretrained) and give that folder"
            )
    rank = number(values, "r", where)
    if rank < 1:
        raise UserError(f"{where}: r is {rank!r}, must be at least 1")
    return float(number(values, "lora_alpha", where)) / rank


def _pairs(files: tensorfiles.Tensors, cfg: LlamaConfig) -> dict[names.Path, tuple[str, str]]:
    """Weight -> the names of its adapter's tensors. UserError for a tensor that is none of an adapter's, half of one, or misshapen."""
    found: dict[names.Path, tuple[str, str]] = {}
    known: set[str] = set()
    for leaf, _ in leaves(cfg):
        if leaf[-1] not in adapters.NAMES:
            continue
        low, high = (_outside(leaf, part) for part in adapters.PARTS)
        if low not in files.tensors and high not in files.tensors:
            continue
        known |= {low, high}
        for name in (low, high):
            if name not in files.tensors:
                raise UserError(f"tensor {name} is missing, the other half is there; {AGAIN}")
            if files.tensors[name].dtype not in DTYPES:
                raise UserError(f"{files.tensors[name].file}: tensor {name} has type {files.tensors[name].dtype}")
        (outputs, inputs), rank = names.outside_shape(leaf, cfg), files.tensors[low].shape[0]
        for name, wanted in ((low, (rank, inputs)), (high, (outputs, rank))):
            if files.tensors[name].shape != wanted:
                shape = files.tensors[name].shape
                raise UserError(f"{files.tensors[name].file}: tensor {name} has shape {shape}, this base asks for {wanted}")
        found[leaf] = low, high
    if other := sorted(files.tensors.keys() - known):
        raise UserError(
            f"{files.tensors[other[0]].file}: tensor {other[0]} ({len(other)} such) is no adapter of a matrix of this base's layers; "
            "embeddings and heads that were trained are not taken"
        )
    if not found:
        raise UserError("no adapter is there that a matrix of this base could have")
    return found


def _outside(leaf: names.Path, part: str) -> str:
    return f"{_PREFIX}{names.outside_name(leaf, 'huggingface').removesuffix('.weight')}.{_OF_PART[part]}.weight"


def write_folder(
    path: str, model: LazyModel, adapter: Adapter, weights: str, beside: export.Beside, *, base: str, say: Callable[[str], None]
) -> None:  # fmt: skip
    """Writes adapters as peft loads them, with the tokenizer's files. weights: the model folder's. base: its name, for peft to find it.

    adapter_config.json is written last, so a folder without it is unfinished. Raises UserError when the target is complete.
    """
    if os.path.exists(os.path.join(path, ADAPTER)):
        raise UserError(f"{path}: already holds a finished adapter; give another --target or remove the folder")
    files = export.folder_files(model, beside.wrapper, beside.direction, say)
    purpose = json_bytes({"direction": beside.direction, "wrapper": beside.wrapper})
    files |= {export.CARD: beside.card.encode(), PURPOSE: purpose, **beside.texts}
    storage.clean(path)
    for name, data in files.items():
        storage.publish(os.path.join(path, name), data)
    header, arrays = _tensors(model.config, adapter, weights)
    storage.publish(os.path.join(path, WEIGHTS), tensorfiles.safetensors_bytes(header, arrays))
    storage.publish(os.path.join(path, ADAPTER), json_bytes(_config(adapter, base)))


def _tensors(cfg: LlamaConfig, adapter: Adapter, weights: str) -> tuple[dict[str, tuple[tuple[int, ...], str]], Iterator[np.ndarray]]:
    stored = weight_files.StoredParams(epath.Path(weights) / "weights")
    parts = [(leaf, part) for leaf, _ in leaves(cfg) if leaf[-1] in adapter.names for part in adapters.PARTS]
    header: dict[str, tuple[tuple[int, ...], str]] = {}
    for leaf, part in parts:
        outputs, inputs = names.outside_shape(leaf, cfg)
        header[_outside(leaf, part)] = ((adapter.rank, inputs) if part == "a" else (outputs, adapter.rank), "float32")

    def arrays() -> Iterator[np.ndarray]:
        for leaf, part in parts:
            (array,) = stored.take([(*leaf, part)])
            yield turn(array.reshape((-1, adapter.rank) if part == "a" else (adapter.rank, -1)))

    return header, arrays()


def _config(adapter: Adapter, base: str) -> dict[str, Any]:
    targets = [names.NAMES[name].huggingface.removesuffix(".weight").rpartition(".")[2] for name in adapter.names]
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base or None, "inference_mode": True,
        "r": adapter.rank, "lora_alpha": adapter.alpha, "lora_dropout": 0.0, "target_modules": targets, "bias": "none",
        "fan_in_fan_out": False, "use_rslora": False, "use_dora": False, "modules_to_save": None,
    }  # fmt: skip
