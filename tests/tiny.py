"""A tiny random model with a real tokenizer, and a config that runs the whole loop on it in seconds."""

import pathlib

import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from humpback.model import llama
from humpback.tokens.tokenizer import Tokenizer
from humpback.training import checkpoint

DEMO = pathlib.Path(__file__).parent.parent / "humpback" / "demo"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONFIG = llama.LlamaConfig(
    vocab_size=512, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=32, tied=False, max_positions=2048
)
EOS_PUSH = 2.7


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
    checkpoint.save_model(folder, checkpoint.ModelInfo(CONFIG, "base", "chatml"), params, tokenizer)
    return folder
