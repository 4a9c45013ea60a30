"""A tiny model, a tokenizer of one id per word, and examples of mixed lengths; and a process that trains on them.

`python -m tests.training.case --folder=DIR --steps=N` trains with checkpoints in DIR/steps and writes DIR/result.json: the losses of
the steps it made, and a digest of every weight. With --folder=ANOTHER it then does the same there.
"""

import argparse
import json
import pathlib
from typing import Any

import jax
import numpy as np

from humpback.config import Finetune
from humpback.model.llama import LlamaConfig, init_params
from humpback.models.folders import Model, ModelInfo
from humpback.tokens.examples import TokenExample
from humpback.tokens.tokenizer import Tokenizer

# Every dimension differs, so that none can stand for another; all that a mesh of 8 may split is divisible.
CONFIG = LlamaConfig(vocab_size=96, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, d_ff=24)
# Large enough that 60 steps take longer than to start and to compile.
LARGER = LlamaConfig(vocab_size=2048, d_model=128, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=384)


def make_tokenizer() -> Tokenizer:
    """Of the words w0 … w93."""
    words = ["<unk>", "<eos>", *(f"w{i}" for i in range(94))]
    value = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": words[i], "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            for i in range(2)
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }
    config = {"eos_token": "<eos>", "unk_token": "<unk>"}
    return Tokenizer({"tokenizer.json": json.dumps(value).encode(), "tokenizer_config.json": json.dumps(config).encode()})


def make_base(cfg: LlamaConfig = CONFIG) -> Model:
    """Of random numpy arrays, as load_model gives them."""
    return Model(ModelInfo(cfg, "base", "plain"), jax.tree.map(np.array, init_params(cfg, jax.random.key(0))), make_tokenizer())


def make_examples(count: int = 20, scale: int = 1) -> list[TokenExample]:
    """Of 6 to 24 tokens with 1 to 7 target tokens, times `scale`."""
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        condition, target = scale * random.integers(5, 18), scale * random.integers(1, 8)
        made.append(TokenExample(f"{i:016x}", random.integers(2, 96, condition + target).astype(np.int32), int(condition)))
    return made


def make_finetune(**fields: Any) -> Finetune:
    """One that learns in a few steps."""
    values = {"length": 32, "batch": 4, "steps": 8, "lr": 1e-2, "end_lr": 5e-3, "checkpoint_every": 0, "compute_dtype": "float32"}
    return Finetune(**{**values, **fields})


def main() -> None:
    """Trains; every process of a pod calls it."""
    from humpback import distributed
    from humpback.model.sharding import make_mesh

    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path, required=True, action="append")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--mesh", default="1,-1,1", help="data,fsdp,tensor")
    parser.add_argument("--larger", action="store_true")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--checkpoint_every", type=int, default=0)
    values = parser.parse_args()
    distributed.start()
    cfg, scale = (LARGER, 16) if values.larger else (CONFIG, 1)
    adapted = {"lora_rank": 3, "lora_base": "float32"} if values.lora else {}
    rate = 1e-3 if values.larger else 1e-2
    ft = make_finetune(steps=values.steps, length=32 * scale, checkpoint_every=values.checkpoint_every, lr=rate, **adapted)
    mesh = make_mesh(*map(int, values.mesh.split(",")))
    for folder in values.folder:
        _train(folder, make_base(cfg), make_examples(scale=scale), ft, mesh)


def _train(folder: pathlib.Path, base: Model, examples: list[TokenExample], ft: Finetune, mesh: jax.sharding.Mesh) -> None:
    from humpback import distributed, storage
    from humpback.models.folders import weights_digest
    from humpback.training import loop
    from humpback.training.checkpoint import TrainingCheckpoints
    from humpback.training.stopping import PREEMPTED, Stopped

    rows: list[dict] = []
    try:
        params, *_ = loop.train(
            base, examples, loop.Training(ft, 1, "forward-1"), mesh=mesh, metrics=rows.append,
            checkpoints=TrainingCheckpoints(folder / "steps"),
        )  # fmt: skip
    except Stopped as stopped:
        print(stopped, flush=True)
        raise SystemExit(PREEMPTED) from stopped
    digests = weights_digest(params)  # each process has a share of it
    whole = jax.jit(lambda tree: tree, out_shardings=jax.NamedSharding(mesh, jax.P()))(params)
    if distributed.is_first():
        assert weights_digest(whole) == digests
        result = {"losses": {row["step"]: row["loss"] for row in rows}, "weights": digests}
        storage.publish_json(folder / "result.json", result, replace=True)
    distributed.barrier("end")


if __name__ == "__main__":
    main()
