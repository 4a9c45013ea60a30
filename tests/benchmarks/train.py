"""Training speed against transformers and Tunix, one optimizer step (AdamW) a turn, SmolLM2-135M.

  rows    4 examples of 512 random tokens, random weights; tokens/s. The limit that float32 matrix products set is measured in
          every round, too.
  packed  32 examples of a seed set as they are, 2,048 tokens a row, real weights; tokens/s without padding. Ours packs. The peer
          is transformers as a good user of it trains: gradients accumulated over batches of a few examples, which are sorted by
          length and padded on the right to the longest of the batch; no loss on prompt and padding.

Ours is humpback.training.loop.train with the quickstart's settings, in float32 and in bfloat16; OURS is the one that counts.
transformers trains in float32, in bfloat16, and with float32 weights under bfloat16 autocast, with several numbers of examples at
once; Tunix in float32 and bfloat16. What there are several forms of is tried first, and the fastest takes part. All sides train on
the same examples in the same step, in turns.

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

from humpback.errors import UserError
from humpback.model import llama
from humpback.tokens.examples import TokenExample

OURS = "float32"  # the compute type that counts: the default on a CPU
DTYPES = ("float32", "bfloat16")
F32, BF16, AUTOCAST = "f32", "bf16", "bf16_autocast"
ALL = ("rows", "packed")
PACKED_ROUNDS = 3  # at most: a step is four times as long
TRIAL = 16  # examples of a trial, at most: those in the middle of the lengths
TARGET_SHARE = 0.6  # of the limit

# How far a peer's loss may be from ours in float32 before any update, in nats a token.
LOSS_AGREES = {F32: 2e-3, BF16: 0.05, AUTOCAST: 0.05}

# tokens/s on 2 cores of an AMD EPYC with AVX-512; "bf16" is the fastest form that computes in it.
FIGURES = {
    "training, transformers f32": 99,
    "training, transformers bf16": 204,
    "training, tunix f32": 125,
    "training, tunix bf16": 141,
}

Steps = dict[str, list[Step]]  # of each side
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to run a peer: `at_once` examples go through the model together."""

    script: str
    dtype: str
    at_once: int

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.script.removesuffix('_peer.py')} {self.dtype}, {self.at_once} at once"


def _transformers(dtypes: Sequence[str], at_once: Sequence[int]) -> list[Form]:
    return [Form(TRANSFORMERS, dtype, few) for dtype in dtypes for few in at_once]


# Workload -> what a peer is known as -> its forms, of which the fastest takes part. With one example at once there is no padding.
FORMS = {
    "rows": {
        "transformers f32": _transformers((F32,), (4, 1)),
        "transformers bf16": _transformers((BF16, AUTOCAST), (4, 1)),
        "tunix f32": [Form(TUNIX, F32, 4)],
        "tunix bf16": [Form(TUNIX, BF16, 4)],
    },
    "packed": {"transformers": [*_transformers((F32,), (4,)), *_transformers((BF16, AUTOCAST), (1, 4, 8))]},
}


def set_up(peers: Peers, form: Form, work: Work) -> None:
    """A new model and optimizer."""
    peers.ask(form.script, "train_setup", name=form.dtype, model=work.cfg.to_dict(), folder=work.folder, optimizer=OPTIMIZER)


def peer_step(peers: Peers, form: Form, examples: Sequence[TokenExample]) -> Step:
    """One step of a peer, the longest examples first."""
    order = sorted(examples, key=lambda example: len(example.ids), reverse=True)
    batches = [order[start : start + form.at_once] for start in range(0, len(order), form.at_once)]
    ids = [[example.ids.tolist() for example in batch] for batch in batches]
    starts = [[example.target_start for example in batch] for batch in batches]
    answer = peers.ask(form.script, "train_step", name=form.dtype, ids=ids, starts=starts)
    return Step(answer["seconds"], sum(len(example.ids) for example in order), answer["loss"])


def fastest(peers: Peers, forms: Sequence[Form], work: Work, trials: dict[str, float]) -> Form:
    """The best of some forms with a few examples; adds every form's tokens/s to `trials`."""
    if len(forms) == 1:
        return forms[0]
    order = sorted(work.of_step(0), key=lambda example: len(example.ids))
    start = max(0, (len(order) - TRIAL) // 2)
    for form in forms:
        set_up(peers, form, work)
        peer_step(peers, form, order[:1])
        trials[form.name] = peer_step(peers, form, order[start : start + TRIAL]).rate
        common.say(f"trial: {form.name}: {trials[form.name]:.1f} tokens/s")
    return max(forms, key=lambda form: trials[form.name])


def warm_up(sides: Mapping[str, Callable[[int], Step]], forms: Mapping[str, Form], work: Work) -> None:
    """The first step of every side. Ends the benchmark when they do not train on the same: then nothing would be compared."""
    losses = {}
    for name, side in sides.items():
        first = side(0)
        losses[name] = first.loss
        common.say(f"{name}: warmed up in {first.seconds:.1f} s, loss {first.loss:.4f}")
        if first.tokens != (expected := sum(len(example.ids) for example in work.of_step(0))):
            sys.exit(f"error: {name} trained on {first.tokens} tokens, not on the {expected} of the step's examples")
    if not work.folder:
        return  # every side has random weights of its own
    ours = losses[our_name("float32")]
    for name, loss in losses.items():
        allowed = LOSS_AGREES[forms[name].dtype if name in forms else F32 if name == our_name("float32") else BF16]
        if abs(loss - ours) > allowed:
            sys.exit(f"error: the loss of {name} is {loss:.4f}, ours in float32 {ours:.4f}: not the same training")


def take_turns(sides: Mapping[str, Callable[[int], Step]], rounds: int, each_round: Callable[[], None]) -> Steps:
    """Each side's steps 1 to `rounds`, in turns; `each_round` is called once in each."""
    steps: Steps = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        time.sleep(common.PAUSE_SECONDS)
        each_round()
        for name in common.turns(list(sides), number):
            time.sleep(common.PAUSE_SECONDS)
            steps[name].append(sides[name](number))
        common.say(f"round {number} of {rounds}: " + ", ".join(f"{name} {done[-1].seconds:.2f} s" for name, done in steps.items()))
    common.show({name: [step.rate for step in done] for name, done in steps.items()}, "tokens/s")
    return steps


def measure(name: str, work: Work, rounds: int, peers: Peers, each_round: Callable[[], None] = lambda: None) -> Result:
    """A workload: the median rates of both our types and of the peers, and our ratio to the best of them."""
    common.say(f"{name}: {work.batch} examples a step, {len(work.examples)} in all; {rounds} rounds")
    trials: dict[str, float] = {}
    forms = {label: fastest(peers, choice, work, trials) for label, choice in FORMS[name].items()}
    peers.stop(TRANSFORMERS)  # with all the models that were tried
    with contextlib.ExitStack() as running:
        sides: dict[str, Callable[[int], Step]] = {}
        for dtype in DTYPES:
            ours = running.enter_context(Ours(work, dtype, rounds + 1))
            sides[our_name(dtype)] = lambda number, ours=ours: ours.step()
        for label, form in forms.items():
            set_up(peers, form, work)
            sides[label] = lambda number, form=form: peer_step(peers, form, work.of_step(number))
        warm_up(sides, forms, work)
        steps = take_turns(sides, rounds, each_round)
    rates = {side: statistics.median(step.rate for step in done) for side, done in steps.items()}
    best = max(forms, key=rates.__getitem__)
    for dtype in DTYPES:
        ratio = rates[our_name(dtype)] / rates[best]
        common.say(f"{name}: {our_name(dtype)} trains at {ratio:.2f} times the speed of the best peer ({forms[best].name})")
    return {
        "rates": rates,
        "best_peer": forms[best].name,
        "vs_best_peer": {dtype: rates[our_name(dtype)] / rates[best] for dtype in DTYPES},
        "forms": {label: form.name for label, form in forms.items()},
        "trials": trials,
        "rounds": {side: [step.rate for step in done] for side, done in steps.items()},
    }


def our_name(dtype: str) -> str:
    """Of one of our two sides."""
    return f"humpback {dtype}"


class Limit:
    """The tokens a second that float32 matrix products allow: nothing but the products of a step, at the speed of the fastest shape."""

    def __init__(self, cfg: llama.LlamaConfig, num_rows: int, length: int):
        D, F, V = cfg.d_model, cfg.d_ff, cfg.vocab_size
        attention = 2 * D * cfg.head_dim * (cfg.num_heads + cfg.num_kv_heads)
        weights = cfg.num_layers * (attention + 3 * D * F) + D * V
        causal = 6 * cfg.num_layers * cfg.num_heads * cfg.head_dim * length
        self.flops = 6 * weights + causal
        common.say(
            f"limit: a token takes 6 x {weights / 1e6:.1f}M weights of layers and head + 6 L N H T = {causal / 1e6:.1f}M of causal "
            f"attention = {self.flops / 1e6:.0f} MFLOP forward and backward"
        )
        self._product = jax.jit(lambda left, right: left @ right)
        shapes = [(num_rows, D, F), (num_rows, F, D), (num_rows, D, D), (num_rows, D, V)]
        self._arrays = {shape: (jnp.ones(shape[:2], jnp.float32), jnp.ones(shape[1:], jnp.float32)) for shape in shapes}
        self.rates: dict[tuple[int, int, int], list[float]] = {shape: [] for shape in shapes}

    def measure(self) -> None:
        """FLOP/s of each shape, the best of a few."""
        for shape, arrays in self._arrays.items():
            seconds = []
            for _ in range(4):
                started = time.perf_counter()
                jax.block_until_ready(self._product(*arrays))
                seconds.append(time.perf_counter() - started)
            self.rates[shape].append(2 * shape[0] * shape[1] * shape[2] / min(seconds))

    def result(self, rate: float) -> Result:
        """Says and returns what share of the limit a rate (tokens/s) is."""
        medians = {" x ".join(map(str, shape)): statistics.median(rates) for shape, rates in self.rates.items()}
        limit = max(medians.values()) / self.flops
        common.say("limit: float32 products " + ", ".join(f"{s}: {r / 1e9:.0f}" for s, r in medians.items()) + " GFLOP/s")
        common.say(
            f"limit: {limit:.0f} tokens/s; humpback {OURS} {rate:.0f}, a share of {rate / limit:.0%}; "
            f"the target beyond is {TARGET_SHARE:.0%}, {TARGET_SHARE * limit:.0f} tokens/s"
        )
        return {"limit_tokens_per_second": limit, "matmul_share": rate / limit, "products_flops": medians}


def measure_rows(rounds: int, smoke: bool, peers: Peers) -> Result:
    """The workload `rows`, with the share of the limit."""
    work = train_inputs.rows(rounds, smoke)
    limit = Limit(work.cfg, work.batch * work.length, work.length)
    done = measure("rows", work, rounds, peers, limit.measure)
    peers.stop(TUNIX)  # its memory is wanted
    return {**done, **limit.result(done["rates"][our_name(OURS)])}


def measure_packed(rounds: int, smoke: bool, peers: Peers, folder: pathlib.Path) -> Result:
    """The workload `packed`."""
    work, about = train_inputs.packed(folder, smoke)
    common.say("packed: " + ", ".join(f"{name} {value}" for name, value in about.items()))
    return {**measure("packed", work, min(rounds, PACKED_ROUNDS), peers), "data": about}


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
    rows, packed = {}, {}
    with tempfile.TemporaryDirectory() as folder, Peers(pathlib.Path(folder)) as peers:
        try:
            if "rows" in only:
                rows = measure_rows(values.rounds, values.smoke, peers)
            if "packed" in only:
                packed = measure_packed(values.rounds, values.smoke, peers, pathlib.Path(folder))
        except UserError as error:
            sys.exit(f"error: {error}")
        versions = peers.versions
    measured = {f"training, {label}": rows["rates"][label] for label in FORMS["rows"]} if rows else {}
    result = {
        "train_vs_best_peer": rows["vs_best_peer"][OURS] if rows else None,
        "train_tokens_per_second": rows["rates"][our_name(OURS)] if rows else None,
        "matmul_share": rows["matmul_share"] if rows else None,
        "packed_vs_padded_transformers": packed["vs_best_peer"][OURS] if packed else None,
        "ours": OURS,
        "rows": rows,
        "packed": packed,
        "versions": {"jax": jax.__version__, **versions},
    }
    return common.finish(result, measured, FIGURES, values.smoke)


if __name__ == "__main__":
    sys.exit(main())
