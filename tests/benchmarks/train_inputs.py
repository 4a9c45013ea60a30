"""What tests/benchmarks/train.py trains on: rows of random tokens, and real pairs of mixed lengths with real weights."""

import dataclasses
import os
import pathlib
from typing import Any

import common
import jax
import numpy as np

from configs.demo import get_config
from humpback import config
from humpback.convert import export, sources
from humpback.datasets.seed_pairs import read_pairs
from humpback.model import llama
from humpback.model.sizes import SIZES
from humpback.models.folders import Model, ModelInfo
from humpback.stages.finetune import tokenize
from humpback.stages.seed import split_seed
from humpback.tokens.examples import TokenExample
from humpback.training import batches
from tests import tiny

ROWS, LENGTH = 4, 512
PACKED_EXAMPLES, PACKED_LENGTH = 32, 2048  # of a step, the method's for 3,200 examples and more; tokens in a row
SEED, PURPOSE = 0, "benchmark"
OPTIMIZER = {"lr": 1e-5, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "clip": 1.0}


@dataclasses.dataclass(frozen=True)
class Work:
    """One workload. Weights are those of `folder` (Hugging Face's format), random without one; `batch` examples make a step; with a
    `lora_rank` adapters of all matrices train."""

    cfg: llama.LlamaConfig
    folder: str
    examples: list[TokenExample]
    batch: int
    length: int  # tokens in a row of ours
    lora_rank: int = 0

    def of_step(self, step: int) -> list[TokenExample]:
        """What the loop trains on in a step (from 0), so that the peers do the same."""
        return [self.examples[i] for i in batches.step_examples(len(self.examples), self.batch, SEED, PURPOSE, step)]

    def model(self) -> Model:
        """For our side; no text is involved, so without a tokenizer."""
        params = sources.open_source(self.folder).params() if self.folder else llama.init_params(self.cfg, jax.random.key(SEED))
        return Model(ModelInfo(self.cfg, "base", "inst"), params, None)

    def finetune(self, dtype: str, steps: int) -> config.Finetune:
        """The quickstart's settings, but without dropout (transformers' LLaMA has none), with this workload's shapes and optimizer."""
        given = {"length": self.length, "batch": self.batch, "steps": steps, "compute_dtype": dtype, "dropout": 0.0}
        given |= {"lora_rank": self.lora_rank, "lora_base": dtype}
        return dataclasses.replace(get_config().forward_seed, checkpoint_every=0, end_lr=OPTIMIZER["lr"], **given, **OPTIMIZER)


def rows(rounds: int, smoke: bool) -> Work:
    """SmolLM2-135M's shapes; every example fills a row, with loss on every token that has one before it."""
    cfg, length = (common.SMOKE_MODEL, 32) if smoke else (SIZES["smollm2_135m"], LENGTH)
    ids_BT = np.random.default_rng(SEED).integers(3, cfg.vocab_size, (ROWS * (rounds + 1), length), np.int32)
    return Work(cfg, "", [TokenExample(f"row {number}", ids_T, 1) for number, ids_T in enumerate(ids_BT)], ROWS, length)


def packed(folder: pathlib.Path, smoke: bool) -> tuple[Work, dict[str, Any]]:
    """The quickstart's weights, and the seed pairs as the forward direction trains on them; (the work, what there is to say of it).

    The pairs are Open Assistant's where HUMPBACK_TEST_DATA names a folder with some, else the quickstart's. UserError when
    the weights are not to be had.
    """
    demo = get_config()
    base, sha256, seed = demo.base.source, demo.base.sha256, demo.seed_pairs
    if data := os.environ.get("HUMPBACK_TEST_DATA"):
        seed = config.Seed(source=str(pathlib.Path(data) / "oasst" / "en_100_tree.jsonl"))
    if smoke:
        base, sha256, seed = str(tiny.make_base(folder / "tiny")), "", dataclasses.replace(demo.seed_pairs, limit=12)
    opened = sources.open_source(base, sha256)
    target = str(folder / "huggingface")  # one that both sides read
    export.write_folder(target, opened, export.Beside(demo.wrapper, "base"))
    held_out = read_pairs(sources.resolve(seed.held_out_source))[0] if seed.held_out_source else []
    pairs, _, _ = split_seed(read_pairs(sources.resolve(seed.source))[0], held_out, seed)
    examples, _ = tokenize(pairs, opened.tokenizer, "forward", demo.wrapper, PACKED_LENGTH)
    lengths = sorted(len(example.ids) for example in examples)
    about = {"source": pathlib.Path(seed.source).name, "examples": len(lengths)}
    about |= {"shortest": lengths[0], "median": lengths[len(lengths) // 2], "longest": lengths[-1]}
    return Work(opened.config, target, examples, 8 if smoke else PACKED_EXAMPLES, PACKED_LENGTH), about
