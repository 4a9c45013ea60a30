"""Training speed against transformers and Tunix, one optimizer step (AdamW) a turn, SmolLM2-135M.

  rows    4 examples of 512 random tokens, random weights; tokens/s. The limit that float32 matrix products set is measured in
          every round, too.
  packed  32 examples of a seed set as they are, 2,048 tokens a row, real weights; tokens/s without padding. Ours packs. The peer
          is transformers as a good user of it trains: the step's examples sorted by length, split into batches of so many tokens,
          each padded on the right to its longest, gradients added up; no loss on prompt and padding.
  lora    as rows, but adapters of rank 16 of all matrices train; the peer is peft; what a step costs beside one of all weights.

Ours is humpback.training.loop.train with the quickstart's settings, in bfloat16 and in float32 (`packed`: its first loss alone); OURS is
the one that counts.
transformers trains in float32, in bfloat16, and with float32 weights under bfloat16 autocast, with several numbers of tokens at
once; Tunix in float32 and bfloat16. What there are several forms of is tried first, and the fastest takes part. Each peer in turns
with ours, on the same examples in the same step.

Run it on a quiet machine: .venv/bin/python tests/benchmarks/train.py. The last line is a JSON object; exit code 1 when a peer is
much slower than it is known to be, or does not find our loss.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # configs and tests, which are not installed

import common
import jax
import jax.numpy as jnp
import train_inputs
from decode_peers import TRANSFORMERS, TUNIX, Peers
from train_inputs import OPTIMIZER, Work
from train_ours import Ours, Step

from humpback.__main__ import use_huge_pages
from humpback.errors import UserError
from humpback.tokens.examples import TokenExample
from humpback.training import flops

OURS = "bfloat16"  # the compute type that counts: the default on a CPU
DTYPES = {"humpback float32": "float32", "humpback bfloat16": "bfloat16"}  # both of our sides; the first's loss is the measure
COUNTS = f"humpback {OURS}"
F32, BF16, AUTOCAST = "f32", "bf16", "bf16_autocast"
ALL = ("rows", "packed", "lora")
LORA, LORA_RANK = f"humpback {OURS}, adapters", 16
TURNS = {"rows": tuple(DTYPES), "packed": (COUNTS,)}  # in float32 a packed step takes 13 GB; its first loss is the measure all the same
PACKED_ROUNDS = 3  # at most: a step is four times as long
TRIAL = 16  # examples of a trial, at most: those in the middle of the lengths
TARGET_SHARE = 0.6  # of the limit

# How far a peer's loss may be from ours in float32 before any update, in nats a token.
LOSS_AGREES = {F32: 1e-3, BF16: 0.05, AUTOCAST: 0.05}

# tokens/s on 2 cores of an AMD EPYC with AVX-512; "bf16" is the fastest form that computes in it.
FIGURES = {
    "training, transformers f32": 99,
    "training, transformers bf16": 204,
    "training, tunix f32": 125,
    "training, tunix bf16": 141,
}

Side = Callable[[int], Step]  # does a step, by its number from 0
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to run a peer: at most so many tokens, padding among them, go through the model together, but at least an example."""

    script: str
    dtype: str
    tokens: int

    @property
    def name(self) -> str:
        """As it is shown."""
        how = f"{self.tokens} tokens at once" if self.tokens else "one example at once"
        return f"{self.script.removesuffix('_peer.py')} {self.dtype}, {how}"

    def batches(self, examples: Sequence[TokenExample]) -> list[list[TokenExample]]:
        """The examples, longest first, in batches."""
        found: list[list[TokenExample]] = []
        for example in sorted(examples, key=lambda example: len(example.ids), reverse=True):
            if found and (len(found[-1]) + 1) * len(found[-1][0].ids) <= self.tokens:
                found[-1].append(example)
            else:
                found.append([example])
        return found


def _transformers(dtypes: Sequence[str], tokens: Sequence[int]) -> list[Form]:
    return [Form(TRANSFORMERS, dtype, few) for dtype in dtypes for few in tokens]


# Workload -> what a peer is known as -> its forms, of which the fastest takes part. One example at once needs no padding.
FORMS = {
    "rows": {
        "transformers f32": _transformers((F32,), (0, 2048)),
        "transformers bf16": _transformers((BF16, AUTOCAST), (0, 2048)),
        "tunix f32": [Form(TUNIX, F32, 2048)],
        "tunix bf16": [Form(TUNIX, BF16, 2048)],
    },
    "lora": {"peft": _transformers((F32, BF16, AUTOCAST), (0, 2048))},
    "packed": {"transformers": [*_transformers((F32,), (2048,)), *_transformers((BF16, AUTOCAST), (0, 2048, 4096))]},
}


def set_up(peers: Peers, form: Form, work: Work) -> None:
    """A new model and optimizer."""
    values = {"name": form.dtype, "model": work.cfg.to_dict(), "folder": work.folder, "optimizer": OPTIMIZER}
    peers.ask(form.script, "train_setup", **values, **({"rank": work.lora_rank} if work.lora_rank else {}))


def peer_step(peers: Peers, form: Form, examples: Sequence[TokenExample]) -> Step:
    """One step of a peer."""
    batches = form.batches(examples)
    ids = [[example.ids.tolist() for example in batch] for batch in batches]
    starts = [[example.target_start for example in batch] for batch in batches]
    answer = peers.ask(form.script, "train_step", name=form.dtype, ids=ids, starts=starts)
    return Step(answer["seconds"], sum(len(example.ids) for example in examples), answer["loss"])


def fastest(peers: Peers, forms: Sequence[Form], work: Work, trials: dict[str, float]) -> Form:
    """The best of some forms of one script with a few examples; adds every form's tokens/s to `trials`."""
    if len(forms) == 1:
        return forms[0]
    order = sorted(work.of_step(0), key=lambda example: len(example.ids))
    start = max(0, (len(order) - TRIAL) // 2)
    for form in forms:
        peers.ask(form.script, "forget")  # the last one's memory
        set_up(peers, form, work)
        peer_step(peers, form, order[:1])
        trials[form.name] = peer_step(peers, form, order[start : start + TRIAL]).rate
        common.say(f"trial: {form.name}: {trials[form.name]:.1f} tokens/s")
    peers.stop(forms[0].script)  # with the memory that it does not give back
    return max(forms, key=lambda form: trials[form.name])


def warm_up(name: str, side: Side, work: Work, dtype: str, expected: float | None) -> float:
    """The first step of a side; its loss. Ends the benchmark when it does not train on the same as ours in float32, whose first loss is
    `expected`: then nothing would be compared.
    """
    first, tokens = side(0), sum(len(example.ids) for example in work.of_step(0))
    common.say(f"{name}: warmed up in {first.seconds:.1f} s, loss {first.loss:.4f}")
    if first.tokens != tokens:
        sys.exit(f"error: {name} trained on {first.tokens} tokens, not on the {tokens} of the step's examples")
    # Without a folder every side has random weights of its own.
    if work.folder and expected is not None and abs(first.loss - expected) > LOSS_AGREES[dtype]:
        sys.exit(f"error: the loss of {name} is {first.loss:.4f}, ours in float32 {expected:.4f}: not the same training")
    return first.loss


def take_turns(sides: Mapping[str, Side], numbers: Sequence[int], each_round: Callable[[], None]) -> dict[str, float]:
    """The steps `numbers` of each side, in turns; `each_round` is called once in each. Median tokens/s of each side."""
    steps: dict[str, list[Step]] = {name: [] for name in sides}
    for number in numbers:
        time.sleep(common.PAUSE_SECONDS)
        each_round()
        for name in common.turns(list(sides), number):
            time.sleep(common.PAUSE_SECONDS)
            steps[name].append(sides[name](number))
        times = ", ".join(f"{name} {done[-1].seconds:.2f} s" for name, done in steps.items())
        common.say(f"round {len(steps[name])} of {len(numbers)}: {times}")
    common.show({name: [step.rate for step in done] for name, done in steps.items()}, "tokens/s")
    return {name: statistics.median(step.rate for step in done) for name, done in steps.items()}


def measure(name: str, work: Work, rounds: int, peers: Peers, each_round: Callable[[], None] = lambda: None) -> Result:
    """A workload. Every peer takes its turns with ours (TURNS) by itself, and ends before the next begins: together they would not fit
    into 24 GB.
    """
    common.say(f"{name}: {work.batch} examples a step, {len(work.examples)} in all; {rounds} rounds with each peer")
    trials: dict[str, float] = {}
    found: dict[str, Result] = {}
    with contextlib.ExitStack() as running:
        ours: dict[str, Side] = {}
        expected = None
        for side, dtype in DTYPES.items():
            training = running.enter_context(Ours(work, dtype, rounds * len(FORMS[name]) + 1))
            step = lambda _, training=training: training.step()  # noqa: E731
            loss = warm_up(side, step, work, BF16, expected)
            expected = expected or loss
            if side in TURNS[name]:
                ours[side] = step
            else:
                training.stop()
        for number, (label, choice) in enumerate(FORMS[name].items()):
            form = fastest(peers, choice, work, trials)
            set_up(peers, form, work)
            peer = lambda number, form=form: peer_step(peers, form, work.of_step(number))  # noqa: E731
            warm_up(form.name, peer, work, form.dtype, expected)
            rates = take_turns({**ours, label: peer}, range(number * rounds + 1, (number + 1) * rounds + 1), each_round)
            peers.stop(form.script)
            rate = rates.pop(label)
            found[label] = {"form": form.name, "rate": rate, "ours": rates, "ratio": {side: rates[side] / rate for side in ours}}
    best = min(found, key=lambda label: found[label]["ratio"][COUNTS])
    result = {
        "rates": {side: statistics.median(done["ours"][side] for done in found.values()) for side in ours},
        "vs_best_peer": found[best]["ratio"],
        "best_peer": found[best]["form"],
        "peers": found,
        "trials": trials,
    }
    for side, rate in result["rates"].items():
        common.say(f"{name}: {side} {rate:.1f} tokens/s, {found[best]['ratio'][side]:.2f} times the best peer, {found[best]['form']}")
    return result


class Limit:
    """The tokens a second that float32 matrix products allow: nothing but the products of a step, at the speed of the fastest shape."""

    def __init__(self, work: Work):
        cfg, lengths = work.cfg, [len(example.ids) for example in work.of_step(0)]
        tokens, targets = sum(lengths), sum(example.target_tokens for example in work.of_step(0))
        self.flops = flops.step_flops(cfg, lengths, targets) / tokens
        common.say(
            f"limit: a token takes {self.flops / 1e6:.0f} MFLOP: 6 for each weight of the layers' matrices and, where there is a loss, of "
            f"the head, and 6 L N H T for causal attention; forward and backward (humpback/training/flops.py)"
        )
        D, F, V = cfg.d_model, cfg.d_ff, cfg.vocab_size
        shapes = [(tokens, D, F), (tokens, F, D), (tokens, D, D), (tokens, D, V)]
        self._arrays = {shape: (jnp.ones(shape[:2], jnp.float32), jnp.ones(shape[1:], jnp.float32)) for shape in shapes}
        self._product = jax.jit(lambda left, right: left @ right)
        for arrays in self._arrays.values():
            jax.block_until_ready(self._product(*arrays))
        self._rates: dict[tuple[int, int, int], list[float]] = {shape: [] for shape in shapes}

    def measure(self) -> None:
        """FLOP/s of each shape, the best of a few."""
        for shape, arrays in self._arrays.items():
            seconds = []
            for _ in range(4):
                started = time.perf_counter()
                jax.block_until_ready(self._product(*arrays))
                seconds.append(time.perf_counter() - started)
            self._rates[shape].append(2 * shape[0] * shape[1] * shape[2] / min(seconds))

    def result(self, rate: float) -> Result:
        """Says and returns what share of the limit a rate (tokens/s) is."""
        medians = {" x ".join(map(str, shape)): statistics.median(rates) for shape, rates in self._rates.items()}
        limit = max(medians.values()) / self.flops
        common.say("limit: float32 products " + ", ".join(f"{s}: {r / 1e9:.0f}" for s, r in medians.items()) + " GFLOP/s")
        common.say(
            f"limit: {limit:.0f} tokens/s; {COUNTS} {rate:.0f}, a share of {rate / limit:.0%}; "
            f"the target beyond is {TARGET_SHARE:.0%}, {TARGET_SHARE * limit:.0f} tokens/s"
        )
        return {"limit_tokens_per_second": limit, "matmul_share": rate / limit, "products_flops": medians}


def measure_rows(rounds: int, smoke: bool, peers: Peers) -> Result:
    """The workload `rows`, with the share of the limit."""
    work = train_inputs.rows(rounds, smoke)
    limit = Limit(work)
    done = measure("rows", work, rounds, peers, limit.measure)
    return {**done, **limit.result(done["rates"][COUNTS])}


def measure_packed(rounds: int, smoke: bool, peers: Peers, folder: pathlib.Path) -> Result:
    """The workload `packed`."""
    work, about = train_inputs.packed(folder, smoke)
    common.say("packed: " + ", ".join(f"{name} {value}" for name, value in about.items()))
    return {**measure("packed", work, min(rounds, PACKED_ROUNDS), peers), "data": about}


def measure_lora(rounds: int, smoke: bool, peers: Peers) -> Result:
    """The workload `lora`: steps of adapters, of all weights, and of the peer's adapters, in turns."""
    works = {COUNTS: train_inputs.rows(rounds, smoke)}
    works[LORA] = adapted = dataclasses.replace(works[COUNTS], lora_rank=LORA_RANK)
    trials: dict[str, float] = {}
    with contextlib.ExitStack() as running:
        sides: dict[str, Side] = {}
        for name, work in works.items():
            training = running.enter_context(Ours(work, OURS, rounds + 1))
            sides[name] = lambda _, training=training: training.step()
            warm_up(name, sides[name], work, BF16, None)
        [(label, forms)] = FORMS["lora"].items()
        form = fastest(peers, forms, adapted, trials)
        set_up(peers, form, adapted)
        sides[label] = lambda number: peer_step(peers, form, adapted.of_step(number))
        warm_up(form.name, sides[label], adapted, form.dtype, None)
        rates = take_turns(sides, range(1, rounds + 1), lambda: None)
    step, faster = rates[COUNTS] / rates[LORA], rates[LORA] / rates[label]
    common.say(f"lora: a step of adapters takes {step:.2f} of one of all weights; {faster:.2f} times the tokens/s of {label}, {form.name}")
    return {"rates": rates, "step_vs_full": step, "vs_peft": faster, "peer": form.name, "trials": trials}


def flags(parser: argparse.ArgumentParser) -> None:
    """This benchmark's own flags."""
    parser.add_argument("--only", default=",".join(ALL), help=f"workloads, comma-separated (default {','.join(ALL)})")


def main() -> int:
    """Measures and prints; returns the exit code."""
    values = common.arguments(__doc__, least=1, more=flags)
    only = values.only.split(",")
    if unknown := set(only) - set(ALL):
        sys.exit(f"error: --only={','.join(sorted(unknown))}: no such workload; there are {', '.join(ALL)}")
    common.begin(f"training, {' and '.join(only)}, {values.rounds} rounds")
    rows, packed, lora = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder, Peers(pathlib.Path(folder)) as peers:
        try:
            if "rows" in only:
                rows = measure_rows(values.rounds, values.smoke, peers)
            if "packed" in only:
                packed = measure_packed(values.rounds, values.smoke, peers, pathlib.Path(folder))
            if "lora" in only:
                lora = measure_lora(values.rounds, values.smoke, peers)
        except UserError as error:
            sys.exit(f"error: {error}")
        versions = peers.versions
    measured = {f"training, {label}": done["rate"] for label, done in rows["peers"].items()} if rows else {}
    result = {
        "train_vs_best_peer": rows["vs_best_peer"][COUNTS] if rows else None,
        "train_tokens_per_second": rows["rates"][COUNTS] if rows else None,
        "matmul_share": rows["matmul_share"] if rows else None,
        "packed_vs_padded_transformers": packed["vs_best_peer"][COUNTS] if packed else None,
        "lora_step_vs_full": lora["step_vs_full"] if lora else None,
        "lora_vs_peft": lora["vs_peft"] if lora else None,
        "ours": OURS,
        "rows": rows,
        "packed": packed,
        "lora": lora,
        "versions": {"jax": jax.__version__, **versions},
    }
    return common.finish(result, measured, FIGURES, values.smoke)


if __name__ == "__main__":
    use_huge_pages()  # as every command does
    sys.exit(main())
