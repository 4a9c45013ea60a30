"""Decoding speed against transformers: 16 prompts of 128 tokens, and 1, nucleus sampling, 64 new tokens, SmolLM2-135M's shapes.

Ours is humpback.decoding.engine.Engine.generate in the CPU's default float32: 16 slots for the 16 prompts; for one prompt
the settings of `humpback chat`. The peer generates in float32 and bfloat16, the 16 prompts in the batch size (16, 8 or 4)
that is fastest for it in a trial. The time is that of the whole job, reading the prompts included, and nothing ends early.
Run it on a quiet machine: python tests/benchmarks/decode.py. The last line is a JSON object; exit code 1 when a peer is
much slower than it is known to be.
"""

import dataclasses
import sys
import time
from collections.abc import Callable

import common
import jax
import numpy as np

from humpback import config, keys
from humpback.decoding.engine import Engine, Request
from humpback.decoding.sampling import Sampler
from humpback.model import llama, sharding
from humpback.model.sizes import SIZES

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 16, 128, 64
TEMPERATURE, TOP_P = 0.7, 0.9
BATCHES = (16, 8, 4)
DTYPES = {"transformers_f32": "float32", "transformers_bf16": "bfloat16"}
MANY, ONE = "16 prompts", "1 prompt"

# tokens/s on 2 cores of an AMD EPYC with AVX-512.
FIGURES = {
    "16 prompts, transformers_f32": 95,
    "16 prompts, transformers_bf16": 81,
    "1 prompt, transformers_f32": 16.8,
    "1 prompt, transformers_bf16": 15.0,
}

Job = Callable[[], float]  # does it once and returns the seconds


def our_job(engine: Engine, ids_BT: np.ndarray, new_tokens: int) -> Job:
    """All prompts through the engine, with fresh keys each time."""
    sampler, times = Sampler(TEMPERATURE, TOP_P), 0

    def run() -> float:
        nonlocal times
        times += 1
        names = [f"{number:016x}" for number in range(len(ids_BT))]
        draws = keys.record_keys(0, "benchmark", names, times)
        requests = [Request(name, ids, key, new_tokens) for name, ids, key in zip(names, ids_BT, draws)]
        started = time.perf_counter()
        results = list(engine.generate(requests, sampler, frozenset()))
        seconds = time.perf_counter() - started
        written = sum(len(result.ids) for result in results)
        if written != len(ids_BT) * new_tokens:
            sys.exit(f"error: humpback wrote {written} tokens, not {len(ids_BT) * new_tokens}")
        return seconds

    return run


def peer_job(peer: common.Peer, name: str, ids_BT: np.ndarray, batch: int, new_tokens: int) -> Job:
    """All prompts through the peer, `batch` at a time."""
    values = {"name": name, "ids": ids_BT.tolist(), "batch": batch, "new_tokens": new_tokens}
    return lambda: peer.ask("decode", temperature=TEMPERATURE, top_p=TOP_P, **values)["seconds"]


def best_batch(peer: common.Peer, name: str, ids_BT: np.ndarray, new_tokens: int) -> int:
    """The batch size in which the peer is fastest; one batch of each is tried."""
    rates = {}
    peer_job(peer, name, ids_BT, len(ids_BT), 2)()  # warms up
    for batch in BATCHES:
        rates[batch] = batch * new_tokens / peer_job(peer, name, ids_BT[:batch], batch, new_tokens)()
        common.say(f"{name}, trial: {rates[batch]:.1f} tokens/s in batches of {batch}")
    return max(rates, key=rates.__getitem__)


def our_jobs(cfg: llama.LlamaConfig, ids_BT: np.ndarray, new_tokens: int) -> dict[str, Job]:
    """Both workloads on our side, compiled."""
    params = llama.init_params(cfg, jax.random.key(0))
    length = ids_BT.shape[1] + new_tokens
    many = config.Decoding(length=length, slots=PROMPTS)
    mesh = sharding.make_mesh(**dataclasses.asdict(config.Mesh()))
    jobs = {
        MANY: our_job(Engine(cfg, params, mesh, **dataclasses.asdict(many)), ids_BT, new_tokens),
        ONE: our_job(Engine(cfg, params, mesh, slots=4, length=length, steps_per_visit=1), ids_BT[:1], new_tokens),
    }
    for workload, job in jobs.items():
        common.say(f"humpback, {workload}: compiled and warmed up in {job():.1f} s")
    return jobs


def measure(
    cfg: llama.LlamaConfig, prompt_tokens: int, new_tokens: int, rounds: int, peer: common.Peer
) -> tuple[dict[str, dict[str, list[float]]], dict[str, int]]:
    """(workload -> side -> seconds of each round, the peers' batch sizes)."""
    ids_BT = np.random.default_rng(0).integers(3, cfg.vocab_size, (PROMPTS, prompt_tokens), np.int32)
    batches = {}
    for name, dtype in DTYPES.items():
        peer.ask("decode_setup", name=name, model=cfg.to_dict(), dtype=dtype)
        batches[name] = best_batch(peer, name, ids_BT, new_tokens)
    ours = our_jobs(cfg, ids_BT, new_tokens)
    jobs = {MANY: {"humpback": ours[MANY]}, ONE: {"humpback": ours[ONE]}}
    for name in DTYPES:
        jobs[MANY][name] = peer_job(peer, name, ids_BT, batches[name], new_tokens)
        jobs[ONE][name] = peer_job(peer, name, ids_BT[:1], 1, new_tokens)
    seconds = {workload: {name: [] for name in sides} for workload, sides in jobs.items()}
    for number in range(rounds):
        for workload, sides in jobs.items():
            for name in common.turns(list(sides), number):
                time.sleep(common.PAUSE_SECONDS)
                seconds[workload][name].append(sides[name]())
            times = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds[workload].items())
            common.say(f"round {number + 1} of {rounds}, {workload}: {times}")
    return seconds, batches


def main() -> int:
    """Measures and prints; returns the exit code."""
    values = common.arguments(__doc__)
    cfg, prompt_tokens, new_tokens = SIZES["smollm2_135m"], PROMPT_TOKENS, NEW_TOKENS
    if values.smoke:
        cfg, prompt_tokens, new_tokens = common.SMOKE_MODEL, 16, 9
    common.begin(f"decoding, prompts of {prompt_tokens} tokens, {new_tokens} new ones, {values.rounds} rounds")
    with common.Peer("transformers_peer.py") as peer:
        versions = peer.ask("versions")
        seconds, batches = measure(cfg, prompt_tokens, new_tokens, values.rounds, peer)
    rates = {}
    for workload, prompts in ((MANY, PROMPTS), (ONE, 1)):
        tokens, sides = prompts * new_tokens, seconds[workload]
        rates[workload] = {name: common.median_rate(tokens, times) for name, times in sides.items()}
        common.say(f"{workload}:")
        common.show({name: [tokens / second for second in times] for name, times in sides.items()}, "tokens/s")
    best = {workload: max(DTYPES, key=rates[workload].__getitem__) for workload in rates}
    ratios = {workload: rates[workload]["humpback"] / rates[workload][best[workload]] for workload in rates}
    for workload, ratio in ratios.items():
        common.say(f"{workload}: humpback decodes at {ratio:.2f} times the best peer's speed ({best[workload]})")
    result = {
        "decode_vs_best_peer": ratios[MANY],
        "decode_tokens_per_second": rates[MANY]["humpback"],
        "decode_one_vs_best_peer": ratios[ONE],
        "decode_one_tokens_per_second": rates[ONE]["humpback"],
        "best_peer": best[MANY],
        "peers": {name: round(rates[MANY][name], 2) for name in DTYPES},
        "peers_one": {name: round(rates[ONE][name], 2) for name in DTYPES},
        "peers_batch": batches,
        "rounds": values.rounds,
        "versions": {"jax": jax.__version__, **versions},
    }
    measured = {f"{workload}, {name}": rates[workload][name] for workload in rates for name in DTYPES}
    return common.finish(result, measured, FIGURES, values.smoke)


if __name__ == "__main__":
    sys.exit(main())
