"""A tiny random model with a real tokenizer, and short pairs, for runs of the whole loop in seconds."""

import json
import pathlib

import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from humpback.model import llama
from humpback.models import folders
from humpback.tokens.tokenizer import Tokenizer

DEMO = pathlib.Path(__file__).parent.parent / "humpback" / "demo"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONFIG = llama.LlamaConfig(
    vocab_size=512, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=32, tied=False, max_positions=2048
)
EOS_PUSH = 6.0


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE of 512 entries learned from the demo's seed pairs; digits are tokens of their own."""
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    model.train_from_iterator((DEMO / "seed.jsonl").read_text().splitlines(), trainer)
    settings = b'{"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "add_bos_token": false}'
    return Tokenizer({"tokenizer.json": model.to_str().encode(), "tokenizer_config.json": settings}, "tiny")


def make_base(folder: pathlib.Path) -> pathlib.Path:
    """Writes a model folder of random weights (seed 0) that ends its answers now and then.

    One constant dimension of the embedding feeds the end token's logit; weights without it never end within a few tokens.
    """
    tokenizer = make_tokenizer()
    params = llama.init_params(CONFIG, jax.random.key(0))
    params["embedding"] = params["embedding"].at[:, 0].set(2.0)
    params["head"] = params["head"].at[0, tokenizer.eos_id].set(EOS_PUSH)
    folders.save_model(folder, folders.ModelInfo(CONFIG, "base", "chatml"), params, tokenizer)
    return folder


def make_inputs(folder: pathlib.Path) -> list[str]:
    """Writes base/, pairs.jsonl and rubric.txt into `folder`, and returns the flags that make tests/tiny_config.py use them."""
    make_base(folder / "base")
    rows = [json.loads(line) for line in (DEMO / "seed.jsonl").read_text().splitlines()]
    pairs = [{"instruction": row["instruction"], "response": row["response"][:200]} for row in rows]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "rubric.txt").write_text("Rate the response from 1, useless, to 5, ideal.")
    return [
        "--config=tests/tiny_config.py",
        f"--config.base.source={folder / 'base'}",
        f"--config.seed_pairs.source={folder / 'pairs.jsonl'}",
        f"--config.curate.rubric_file={folder / 'rubric.txt'}",
    ]
