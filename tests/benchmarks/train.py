"""Training speed against transformers: 4 rows of 512 tokens, AdamW, SmolLM2-135M's shapes.

Ours is humpback.training.loop.train itself, in the CPU's default float32; after each of its steps the peers have their turn.
The peer trains the same model in float32, in bfloat16, and with float32 weights under bfloat16 autocast.
Run it on a quiet machine: python tests/benchmarks/train.py. The last line is a JSON object; exit code 1 when a peer is
much slower than it is known to be.
"""

import dataclasses
import sys
import time
from typing import Any

import common
import jax
import numpy as np

from humpback import config
from humpback.model import llama, sharding
from humpback.model.sizes import SIZES
from humpback.tokens.examples import TokenExample
from humpback.training import loop
from humpback.training.checkpoint import Model, ModelInfo

ROWS, LENGTH = 4, 512
OPTIMIZER = {"lr": 1e-5, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "clip": 1.0}
PEERS = ("transformers_f32", "transformers_bf16", "transformers_bf16_autocast")

# tokens/s on 2 cores of an AMD EPYC with AVX-512; "bf16" is the faster of its two forms.
FIGURES = {"training, transformers f32": 99, "training, transformers bf16": 204}


def make_examples(rng: np.random.Generator, vocab_size: int, count: int, length: int) -> list[TokenExample]:
    """Each fills a row, with loss on every token that has one before it."""
    ids = rng.integers(3, vocab_size, (count, length), np.int32)
    return [TokenExample(f"row {number}", row, 1) for number, row in enumerate(ids)]


def peer_step(peer: common.Peer, name: str, ids_BT: np.ndarray) -> float:
    """The seconds of one step of a peer."""
    time.sleep(common.PAUSE_SECONDS)
    return peer.ask("train_step", name=name, ids=ids_BT.tolist())["seconds"]


def measure(cfg: llama.LlamaConfig, length: int, rounds: int, peer: common.Peer) -> dict[str, list[float]]:
    """Seconds of each step of each side, after one step to warm up."""
    rng = np.random.default_rng(0)
    examples = make_examples(rng, cfg.vocab_size, ROWS * (rounds + 1), length)
    peer_ids_BT = np.stack([example.ids for example in examples[:ROWS]])
    for name in PEERS:
        peer.ask("train_setup", name=name, model=cfg.to_dict(), optimizer=OPTIMIZER)
        common.say(f"{name}: warmed up in {peer_step(peer, name, peer_ids_BT):.1f} s")
    seconds: dict[str, list[float]] = {"humpback": [], **{name: [] for name in PEERS}}

    def take_turns(row: dict[str, Any]) -> None:
        """Called by the loop after each step, outside the time that it measures."""
        if row["step"] == 1:
            common.say(f"humpback: compiled and warmed up, first step {row['seconds']:.1f} s")
        else:
            seconds["humpback"].append(row["seconds"])
            for name in common.turns(PEERS, row["step"]):
                seconds[name].append(peer_step(peer, name, peer_ids_BT))
            times = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
            common.say(f"round {row['step'] - 1} of {rounds}: {times}")
        time.sleep(common.PAUSE_SECONDS)

    ft = config.Finetune(length=length, batch=ROWS, steps=rounds + 1, dropout=0.0, checkpoint_every=0, end_lr=OPTIMIZER["lr"], **OPTIMIZER)
    params = llama.init_params(cfg, jax.random.key(0))
    model = Model(ModelInfo(cfg, "base", "inst"), params, None)  # no text is involved, so no tokenizer
    common.say("humpback: compiling")
    mesh = sharding.make_mesh(**dataclasses.asdict(config.Mesh()))
    loop.train(model, examples, ft, mesh=mesh, seed=0, purpose="benchmark", metrics=take_turns, progress=False)
    return seconds


def main() -> int:
    """Measures and prints; returns the exit code."""
    values = common.arguments(__doc__)
    cfg, length = (common.SMOKE_MODEL, 32) if values.smoke else (SIZES["smollm2_135m"], LENGTH)
    common.begin(f"training, {ROWS} x {length} tokens a step, {values.rounds} rounds")
    with common.Peer("transformers_peer.py") as peer:
        versions = peer.ask("versions")
        seconds = measure(cfg, length, values.rounds, peer)
    tokens = ROWS * length
    rates = {name: common.median_rate(tokens, times) for name, times in seconds.items()}
    common.show({name: [tokens / second for second in times] for name, times in seconds.items()}, "tokens/s")
    best = max(PEERS, key=rates.__getitem__)
    common.say(f"humpback trains at {rates['humpback'] / rates[best]:.2f} times the best peer's speed ({best})")
    measured = {
        "training, transformers f32": rates["transformers_f32"],
        "training, transformers bf16": max(rates["transformers_bf16"], rates["transformers_bf16_autocast"]),
    }
    result = {
        "train_vs_best_peer": rates["humpback"] / rates[best],
        "train_tokens_per_second": rates["humpback"],
        "best_peer": best,
        "peers": {name: round(rates[name], 2) for name in PEERS},
        "rounds": values.rounds,
        "versions": {"jax": jax.__version__, **versions},
    }
    return common.finish(result, measured, FIGURES, values.smoke)


if __name__ == "__main__":
    sys.exit(main())
