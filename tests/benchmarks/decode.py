"""Decoding speed against transformers and Tunix on SmolLM2-135M's real weights and 128 real segments of Debian's manuals.

  augment       one instruction a segment, T 0.7, p 0.9, at most 64 new tokens; records/s
  rate          `expected`: the prompt is read and five digits' logits are compared, nothing is written; records/s
  sampled_rate  a reason and a rating are written, at most 64 new tokens; records/s
  decode        16 prompts of 128 random tokens, T 0.7, p 0.9, 64 new tokens each, nothing ends early; tokens/s after the prompt

Ours is the stages' own path with the default config: prompt, tokens, engine, text. The peers get tokens. Each is tried in
several forms (decode_peers.py) on the 16 prompts of middling length; the fastest form, and the fastest in f32, are then measured:
sorted by length they go through all segments once, a part of their batches in each round, while ours does all of it in each round.
What every prompt begins with is read before the time starts on both sides, and nothing is compiled inside it.

The rate of pure decoding leaves out the reading of the prompts: a peer's is timed from its first draws on; ours, whose host sees
several steps at once, over the last 32 of the 64 tokens: the time of the job with 64 less that of the job with 32. The rate of the
whole job is shown beside it.

llama.cpp, where it can be built, takes part in `decode` with the quickstart's 4-bit file as it is; it is shown, and no ratio is to it.

Run it on a quiet machine: .venv/bin/python tests/benchmarks/decode.py. The last line is a JSON object; exit code 1 when a peer is
much slower than it is known to be, or reads other logits than ours.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # configs and tests, which are not installed

import common
import decode_inputs
import decode_limits
import decode_peers
import jax
import numpy as np
from decode_inputs import WORKLOADS, Inputs
from decode_ours import Ours, Turn
from decode_peers import BF16, F32, TRANSFORMERS, TUNIX, Asked, Form, Peers, Work

from humpback.__main__ import use_huge_pages
from humpback.errors import UserError

TEMPERATURE, TOP_P = 0.7, 0.9
NEW_TOKENS = decode_inputs.NEW_TOKENS
DECODE = "decode"
ALL = (DECODE, *WORKLOADS)
DECODE_ROUNDS = 3  # at least: it is short, and a difference of two times
LOGITS_AGREE = {F32: 5e-3, BF16: 1.0}  # the largest difference allowed between a peer's logits and ours

# A peer's known figures on 2 cores of an AMD EPYC with AVX-512: (rate a second, tokens of a record: with more tokens a record is
# worth more). A range counts with its lower end, what was measured on a busy machine not at all.
FIGURES = {
    "decode, transformers f32": (95, 1),
    "decode, transformers bf16": (81, 1),
    "decode, tunix f32": (69, 1),
    "decode, tunix bf16": (65, 1),
    "augment, transformers bf16": (1.30, 346 + 45),
    "rate, transformers bf16": (1.80, 548),
    "sampled_rate, transformers bf16": (1.20, 548 + 64),
}

Result = dict[str, Any]


def peers_job(inputs: Inputs, workload: str) -> Asked:
    """A workload's prompts and limits, for the peers."""
    asked = WORKLOADS[workload]
    prompts = [inputs.encode(workload, segment) for segment in inputs.segments]
    ends = [inputs.model.tokenizer.eos_id]
    return Asked(prompts, asked.new_tokens, ends, inputs.score_ids(), len(inputs.head(workload)), TEMPERATURE, TOP_P)


def take_turns(rounds: int, ours: Callable[[], Turn], peers: Peers, forms: list[Form], asked: Asked) -> tuple[list[Turn], dict[Form, Work]]:
    """Ours once a round, and a part of each form's batches; what each did."""
    turns: list[Turn] = []
    work = {form: Work() for form in forms}
    for number in range(rounds):
        for side in common.turns([None, *forms], number):
            time.sleep(common.PAUSE_SECONDS)
            if side is None:
                turns.append(ours())
                continue
            batches = decode_peers.batches(side, asked)
            done = peers.run(side, asked, batches if len(batches) < rounds else batches[number::rounds])
            work[side] += done
        parts = ", ".join(f"{form.name} {work[form].rate:.2f}" for form in forms)
        common.say(f"round {number + 1} of {rounds}: humpback {turns[-1].records / turns[-1].seconds:.2f} records/s; up to now {parts}")
    return turns, work


def measure_segments(workload: str, rounds: int, inputs: Inputs, ours: Ours, peers: Peers) -> tuple[list[Turn], Result]:
    """One of WORKLOADS: our turns, and its part of the result."""
    asked = peers_job(inputs, workload)
    tokens = statistics.mean(len(prompt) for prompt in asked.prompts)
    common.say(f"{workload}: prompts of {tokens:.0f} tokens, {asked.head} of them common to all, {asked.new_tokens} new ones at most")
    trials = decode_peers.try_all(peers, decode_peers.FORMS[workload], asked)
    forms = decode_peers.choose(trials)
    if workload == "sampled_rate":
        forms = forms[:1]  # there is no bar for f32
    turns, work = take_turns(rounds, ours.job(workload, inputs.segments), peers, forms, asked)
    rate = statistics.median(turn.records / turn.seconds for turn in turns)
    if not asked.new_tokens:
        check_logits(work, inputs, turns[-1], ours)
    for form, done in work.items():
        each = done.tokens / done.records
        common.say(f"{workload}: {form.name}: {done.rate:.3f} records/s, {each:.1f} tokens each; ours {rate / done.rate:.2f} times")
    common.say(f"{workload}: humpback: {rate:.3f} records/s, {turns[-1].tokens / turns[-1].records:.1f} tokens each")
    written = statistics.mean(done.tokens / done.records for done in work.values())
    result = {
        "records_per_second": rate,
        "prompt_tokens": tokens,
        "common_head": asked.head,
        "new_tokens": turns[-1].tokens / turns[-1].records,
        "rounds": [turn.records / turn.seconds for turn in turns],
        "peers": {form.name: done.rate for form, done in work.items()},
        "trials": {form.name: done.rate for form, done in trials.items()},
        "best": max(done.rate for done in work.values()),
        "best_f32": max((done.rate for form, done in work.items() if form.dtype == F32), default=None),
        "tokens": tokens + written,
        "measured": {label(workload, form): done.rate for form, done in work.items() if form.script == TRANSFORMERS},
    }
    return turns, result


def check_logits(work: dict[Form, Work], inputs: Inputs, turn: Turn, ours: Ours) -> None:
    """Ends the benchmark when a peer read something else than we did: then nothing was compared. Like is compared with like, so
    ours reads some of the segments in float32, too."""
    few = inputs.segments[: decode_peers.TRIAL]
    logits = {BF16: turn.logits, F32: ours.job("rate", few, F32)().logits}
    for form, done in work.items():
        mine = logits[form.dtype]
        compared = [(n, segment.id) for n, segment in enumerate(inputs.segments) if n in done.logits and segment.id in mine]
        difference = max(np.abs(done.logits[n] - mine[name]).max() for n, name in compared)
        common.say(f"{form.name}: logits differ from ours by at most {difference:.2g} in {len(compared)} prompts")
        if difference > LOGITS_AGREE[form.dtype]:
            sys.exit(f"error: {form.name} and humpback read different logits ({difference:.3g} apart)")


def measure_decode(rounds: int, inputs: Inputs, ours: Ours, peers: Peers) -> Result:
    """Pure decoding: every form is tried once, the fastest and the fastest in f32 take turns with ours."""
    prompts, new = inputs.decode_ids_BT.tolist(), NEW_TOKENS
    asked = Asked(prompts, new, [], [], 0, TEMPERATURE, TOP_P)
    trials = decode_peers.try_all(peers, decode_peers.FORMS[DECODE], asked)
    peers.stop(TUNIX)  # its memory is wanted, and it comes back if it is needed
    forms = decode_peers.choose(trials)
    job = ours.decode_job(new)
    sides = list(forms)
    if (inputs.folder / decode_inputs.GGUF).exists() and decode_peers.is_there(peers, decode_peers.REPORTED.script):
        sides.append(decode_peers.REPORTED)
        decode_peers.try_all(peers, sides[-1:], asked)
    names = ["humpback", *(side.name for side in sides)]
    whole, later = ({name: [] for name in names} for _ in range(2))
    for number in range(max(rounds, DECODE_ROUNDS)):
        for side in common.turns([None, *sides], number):
            time.sleep(common.PAUSE_SECONDS)
            if side is None:
                seconds, half = job(new).seconds, job(new // 2).seconds
                name, rate = "humpback", len(prompts) * (new - new // 2) / max(seconds - half, 1e-6)
            else:
                done = peers.run(side, asked, decode_peers.batches(side, asked))
                name, seconds, rate = side.name, done.seconds, done.later_tokens / done.later_seconds
            whole[name].append(len(prompts) * new / seconds)
            later[name].append(rate)
    for title, rates in (("the whole job", whole), ("after the prompts", later)):
        common.say(f"decode, {title}:")
        common.show(rates, "tokens/s")
    rates = {name: statistics.median(values) for name, values in later.items()}
    tried = {form: done.later_tokens / done.later_seconds for form, done in trials.items()}
    measured = {label(DECODE, form): rates.get(form.name, rate) for form, rate in tried.items() if not form.continuous}
    return {
        "tokens_per_second": rates["humpback"],
        "whole_job": {name: statistics.median(values) for name, values in whole.items()},
        "peers": {side.name: rates[side.name] for side in sides},
        "trials": {form.name: rate for form, rate in tried.items()},
        "best": max(rates[form.name] for form in forms),
        "measured": measured,
    }


def label(workload: str, form: Form) -> str:
    """The name under which FIGURES knows a peer."""
    return f"{workload}, {form.script.removesuffix('_peer.py')} {'f32' if form.dtype == F32 else 'bf16'}"


def figures(results: dict[str, Result]) -> dict[str, float]:
    """The known figures of the workloads that were measured, for records as long as those measured."""
    return {
        name: figure * tokens / results[workload]["tokens"] if workload in WORKLOADS else figure
        for name, (figure, tokens) in FIGURES.items()
        if (workload := name.split(",")[0]) in results
    }


def measure(values: argparse.Namespace, folder: pathlib.Path) -> tuple[dict[str, Result], Result]:
    """(workload -> its result, what is said of all)."""
    inputs = decode_inputs.prepare(folder, values.segments, values.smoke)
    cfg = inputs.model.info.config
    limits = decode_limits.measure(cfg)
    ours, results, shares = Ours(inputs, TEMPERATURE, TOP_P), {}, {}
    with Peers(inputs.folder) as peers:
        for dtype in (F32, BF16):
            rate = peers.ask(TRANSFORMERS, "products", dtype=dtype)["flops"]
            common.say(f"limits: torch's products in {dtype} {rate / 1e9:.0f} GFLOP/s")
        for workload in values.only:
            if workload == DECODE:
                results[DECODE] = done = measure_decode(values.rounds, inputs, ours, peers)
                rows, length = inputs.decode_ids_BT.shape
                moved = decode_limits.step_bytes(cfg, ours.settings.compute_dtype, rows, length + NEW_TOKENS * 3 / 4)
                shares["bandwidth_share"] = moved / limits.bandwidth * done["tokens_per_second"] / rows
                continue
            turns, results[workload] = measure_segments(workload, values.rounds, inputs, ours, peers)
            if workload == "augment":
                flops = statistics.median(decode_limits.matmul_flops(cfg, turn) / turn.seconds for turn in turns)
                shares |= {"matmul_share": flops / limits.flops, "matmul_share_bf16": flops / limits.flops_bf16}
                peers.stop(TUNIX)
        return results, {**shares, "limits": vars(limits), "versions": {"jax": jax.__version__, **peers.versions}}


def ratios(results: dict[str, Result]) -> Result:
    """What the last line must have; null for what was not measured."""
    found: Result = {}
    for workload in ALL:
        done = results.get(workload, {})
        rate = done.get("tokens_per_second" if workload == DECODE else "records_per_second")
        found[f"{workload}_vs_best_peer"] = rate / done["best"] if rate else None
        if workload in ("augment", "rate"):
            found[f"{workload}_vs_f32_peer"] = rate / done["best_f32"] if rate else None
    found["decode_tokens_per_second"] = results.get(DECODE, {}).get("tokens_per_second")
    return found


def flags(parser: argparse.ArgumentParser) -> None:
    """This benchmark's own flags."""
    parser.add_argument("--only", default=",".join(ALL), help=f"workloads, comma-separated (default {','.join(ALL)})")
    parser.add_argument("--segments", type=int, default=128, help="how many, the first by id (default 128; fewer for a trial)")


def main() -> int:
    """Measures and prints; returns the exit code."""
    values = common.arguments(__doc__, rounds=2, least=1, more=flags)
    values.only = values.only.split(",")
    if unknown := set(values.only) - set(ALL):
        sys.exit(f"error: --only={','.join(sorted(unknown))}: no such workload; there are {', '.join(ALL)}")
    if values.smoke:
        values.segments = 20
    if values.segments < decode_peers.TRIAL:
        sys.exit(f"error: --segments={values.segments}: a trial takes {decode_peers.TRIAL}")
    common.begin(f"decoding, {values.segments} segments, {values.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        try:
            results, about = measure(values, pathlib.Path(folder))
        except UserError as error:
            sys.exit(f"error: {error}")
    measured = {name: rate for done in results.values() for name, rate in done.pop("measured").items()}
    result = {**ratios(results), "matmul_share": None, "bandwidth_share": None, **about, "workloads": results, "rounds": values.rounds}
    return common.finish(result, measured, figures(results), values.smoke)


if __name__ == "__main__":
    use_huge_pages()  # as every command does
    sys.exit(main())
