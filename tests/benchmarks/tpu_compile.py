"""Compiles training steps and the decoding engine's programs for TPUs that are not here: GiB a chip, headroom, collectives.

    python tests/benchmarks/tpu_compile.py --only=llama2_7b@v5e:8x8@8,decode:llama2_7b@v5e:2x4

MODEL@SLICE@N is a training step of N examples of 2,048 tokens a chip, weights and moments split over all chips (fsdp), with the paper's
values; `paper` for N is its own step of 32 examples in all, filled up to one row a chip at least. PROGRAM:MODEL@SLICE is a program of the
engine: `decode` is `generate`, `prefill` that of the longest bucket. Without --only all are compiled, each in a minute or two and 2 to 5
GiB of memory. Slices have libtpu's names, in which v5 is v5p. The compiler lives in .venv-tpu, made here with Python 3.12 or 3.13
(PYTHON=/path/to/python names one). The last line is a JSON object, key -> GiB a chip. Exit code 1 when a program does not fit; when
a step takes more memory than MaxText's for the same model, slice and examples (MAXTEXT); when the prefill does not fit beside the slots'
cache; when a step has not one Pallas kernel a layer, or a prefill one less, or a program sends what it should not: expected of the
engine are two all-reduces a layer (a prefill's last one sends little) and one for the embedding (int8 sends that in half the bytes), and
of everything else less than twice the logits, so no weights and no cache.
"""

import argparse
import collections
import glob
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import common

SUITABLE = "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 12), (3, 13)))"
GIB = 2**30
NO_PYTHON = 3  # the exit code for it, by which .ci/run knows that the compiler cannot be had


@dataclass(frozen=True)
class Job:
    """A model decoding on a slice. tensor: how many chips share a matrix; each group of as many has its part of the slots, and no
    more than the model has key heads, because the cache is split by them. length: prompt and new tokens of a row."""

    size: str
    tensor: int
    slots: int
    length: int = 2048
    steps: int = 8
    prefill_tokens: int = 4096
    dtype: str = "bfloat16"
    weights: str = "compute"


JOBS = {
    "llama2_7b@v5e:2x4": Job("llama2_7b", tensor=8, slots=96),
    "llama2_7b@v4:2x2x1": Job("llama2_7b", tensor=4, slots=96),
    # In bfloat16 the weights alone need 16.1 GiB of a chip of 16. Two groups of 8 chips, as many as there are key heads.
    "llama2_70b_int8@v5e:4x4": Job("llama2_70b", tensor=8, slots=160, weights="int8"),
}
ENGINE = tuple(f"{program}:{job}" for job in JOBS for program in ("prefill", "decode"))
PAPER, PAPER_EXAMPLES, LENGTH = "paper", 32, 2_048
TRAINING = {
    "llama2_7b@v5e:8x8": (1, 8, 16, 18, PAPER),
    "llama2_7b@v5:2x4x4": (1, 32, 97),
    "llama2_7b@v4:2x4x4": (1, 30),
    "llama2_7b@v5:4x4x4": (1,),
    "llama2_70b@v5:4x4x4": (1, 20, 24, PAPER),
    "llama2_70b@v5:4x4x8": (1, 26),
    "llama2_13b@v5e:8x8": (1, PAPER),
    "llama_33b@v4:4x4x4": (1, PAPER),
    "llama_33b@v5:4x4x4": (1,),
    "llama_65b@v4:4x4x4": (1, PAPER),
    "llama_65b@v5:4x4x4": (1,),
    "llama2_70b@v6e:16x16": (1,),
    "llama3_8b@v6e:4x4": (1, PAPER),
}
STEPS = tuple(f"{job}@{examples}" for job, numbers in TRAINING.items() for examples in numbers)
KEYS = STEPS + ENGINE

# GiB a chip of MaxText's own step (MaxText 0.2.5, JAX 0.12.0, libtpu 0.0.52; bf16 compute, f32 weights and moments, full remat, FSDP).
MAXTEXT = {
    "llama2_7b@v5e:8x8@1": 3.27,
    "llama2_7b@v5e:8x8@8": 8.73,
    "llama2_7b@v5e:8x8@16": 14.29,
    "llama2_7b@v5:2x4x4@1": 4.75,
    "llama2_7b@v5:2x4x4@32": 35.7,
    "llama2_7b@v5:2x4x4@97": 94.9,
    "llama2_7b@v4:2x4x4@1": 4.71,
    "llama2_7b@v4:2x4x4@30": 30.56,
    "llama2_7b@v5:4x4x4@1": 3.10,
    "llama2_70b@v5:4x4x4@1": 22.75,
    "llama2_70b@v5:4x4x4@20": 85.1,
    "llama2_70b@v5:4x4x4@24": 95.5,
    "llama2_70b@v5:4x4x8@1": 13.85,
    "llama2_70b@v5:4x4x8@26": 94.6,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(KEYS), metavar="KEY,…", help=f"of {', '.join(KEYS)}")
    parser.add_argument("--python", action="store_true", help="only make .venv-tpu and print its Python")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # what .venv-tpu's Python is asked
    values = parser.parse_args()
    if values.python:
        print(common.python_of(".venv-tpu", suitable_python))
        return 0
    if values.worker:
        print(json.dumps(compile_key(values.worker)))
        return 0
    keys = values.only.split(",")
    if unknown := [key for key in keys if key not in KEYS]:
        parser.error(f"--only={values.only}: {unknown[0]!r} is none of {', '.join(KEYS)}")
    python, sizes, failures = common.python_of(".venv-tpu", suitable_python), {}, 0
    for key in keys:
        answer = ask(python, key)
        sizes[key] = round(answer["total"] / GIB, 3)
        faults = list(report(key, answer))
        for fault in faults:
            common.say(f"  ERROR: {fault}")
        failures += bool(faults)
    print(json.dumps(sizes), flush=True)
    return 1 if failures else 0


def ask(python: pathlib.Path, key: str) -> dict:
    """`compile_key` in a process of the compiler's environment; ends the benchmark when that fails."""
    environment = {**common.clean_environment(), "PYTHONPATH": str(common.ROOT), "JAX_PLATFORMS": "cpu"}
    command = [str(python), __file__, f"--worker={key}"]
    done = subprocess.run(command, env=environment, cwd=common.ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: compiling {key} ended with exit code {done.returncode}; its own message stands above")
    return json.loads(done.stdout.splitlines()[-1])


def compile_key(key: str) -> dict:
    """In .venv-tpu: compiles the key's program. Returns bytes, the compiler's limit, collectives, and what to expect of them."""
    return compile_engine(key) if key in ENGINE else compile_step(key)


def compile_step(key: str) -> dict:
    """A training step: the very function that the loop compiles."""
    from humpback import config
    from humpback.model import sharding
    from humpback.model.sizes import SIZES
    from humpback.planning.compile import DoesNotFit, compile_for, memory_limit, topology
    from humpback.training import optimizer, placement, update

    size, slice_name, examples = key.split("@")
    mesh = sharding.make_mesh(fsdp=-1, devices=topology(slice_name.replace("v5:", "v5p:")))
    cfg, ft, chips = SIZES[size], config.Finetune(remat="full"), mesh.size
    rows = -(-PAPER_EXAMPLES // chips) * chips if examples == PAPER else int(examples) * chips
    adamw = optimizer.make_optimizer(ft)
    shapes = update.state_shapes(cfg, adamw, mesh)
    step = update.jit_step(cfg, ft, adamw, shapes)
    answer = {"shape": f"{rows} x {LENGTH} tokens on {chips} chips", "limit": memory_limit(mesh)}
    try:
        abstract = placement.abstract_rows(mesh, LENGTH, rows, rows // chips * LENGTH)
        compiled = compile_for(step, (shapes, abstract, update.abstract_fixed(mesh)))
    except DoesNotFit as error:
        return {**answer, "total": error.used, "refusal": str(error)}
    return {
        **answer,
        "total": compiled.memory.total,
        "memory": asdict(compiled.memory),
        "traffic": {kind: asdict(each) for kind, each in compiled.traffic().items()},
        "found_kernels": compiled.text.count('custom_call_target="tpu_custom_call"'),
        "seconds": compiled.seconds,
    }


def compile_engine(key: str) -> dict:
    """A program of the engine."""
    from humpback.decoding import executables
    from humpback.decoding.sampling import Sampler
    from humpback.model import sharding
    from humpback.model.sizes import SIZES
    from humpback.planning.compile import DoesNotFit, compile_for, memory_limit, topology

    program, _, name = key.partition(":")
    job, cfg = JOBS[name], SIZES[JOBS[name].size]
    mesh = sharding.make_mesh(data=-1, tensor=job.tensor, devices=topology(name.partition("@")[2]))
    layout = executables.Layout(cfg, mesh, job.slots, job.length, 0, job.dtype, job.steps, job.prefill_tokens, job.weights)
    bucket = layout.buckets[-1]
    asked = executables.abstract(layout, Sampler(temperature=0.7, top_p=0.9))["generate" if program == "decode" else f"prefill {bucket}"]
    rows, length = (job.slots, 1) if program == "decode" else (layout.rows(bucket), bucket)
    on_a_chip = rows // layout.shards
    answer = {
        "shape": f"{job.slots} slots of {job.length}" if program == "decode" else f"{rows} × {length} tokens",
        "limit": memory_limit(mesh),
        # Of a prefill's last layer only each row's last token is sent, which is little.
        "all_reduces": 2 * (cfg.num_layers - (program == "prefill")) + 1,
        "activations": on_a_chip * length * cfg.d_model * 2,  # bytes of what a layer's all-reduce adds up, in bfloat16
        "logits": on_a_chip * cfg.vocab_size * 4,
        "kernels": cfg.num_layers - (program == "prefill"),
    }
    try:
        compiled = compile_for(asked.function, (*asked.static, *asked.arguments))
    except DoesNotFit as error:
        return {**answer, "total": error.used, "refusal": str(error)}
    beside = 0
    if program == "prefill":  # the slots' cache stays where it is while a prompt is read
        beside = compile_for(executables.empty_state, (layout,), mesh).memory.outputs
    return {
        **answer,
        "total": compiled.memory.total,
        "beside": beside,
        "memory": asdict(compiled.memory),
        "collectives": [asdict(each) for each in compiled.collectives],
        "found_kernels": compiled.text.count('custom_call_target="tpu_custom_call"'),
        "seconds": compiled.seconds,
    }


def report(key: str, answer: dict) -> Iterator[str]:
    """Prints what came out and yields what is wrong with it."""
    gib = {name: answer[name] / GIB for name in ("total", "limit")}
    if "refusal" in answer:
        common.say(f"{key}, {answer['shape']}: refused")
        yield answer["refusal"]
        return
    parts = ", ".join(f"{name} {value / GIB:.3f}" for name, value in answer["memory"].items())
    common.say(f"{key}, {answer['shape']}: {gib['total']:.3f} GiB a chip of {gib['limit']:.2f} ({parts}); {answer['seconds']:.0f} s")
    if key in STEPS:
        yield from report_step(key, answer)
        return
    headroom = answer["limit"] - answer["total"] - answer["beside"]
    if answer["beside"]:
        common.say(f"  beside it the slots' cache, {answer['beside'] / GIB:.3f} GiB")
    common.say(f"  headroom {headroom / GIB:.3f} GiB")
    if headroom < 0:
        yield f"with the slots' cache beside it, it needs {-headroom / GIB:.3f} GiB more than there is"
    for line, times in alike(answer["collectives"]).items():
        common.say(f"  {times:3d} × {line}")
    layers = [each for each in answer["collectives"] if each["kind"] == "all-reduce" and each["payload"] >= answer["activations"] / 2]
    large = sum(each["times"] for each in layers)
    rest = sum(each["times"] * each["payload"] for each in answer["collectives"] if each not in layers)
    if answer["found_kernels"] != answer["kernels"]:
        yield f"{answer['found_kernels']} Pallas kernels; expected are {answer['kernels']}: a step's layers, a prefill's but the last"
    if large != answer["all_reduces"]:
        yield f"{large} all-reduces of activations; expected are {answer['all_reduces']}, two a layer and the embedding's"
    if rest > 2 * answer["logits"]:
        yield f"{rest / 2**20:.1f} MiB of other collectives; the logits are only {answer['logits'] / 2**20:.1f} MiB"


def report_step(key: str, answer: dict) -> Iterator[str]:
    """Prints the rest of what came out for a training step and yields what is wrong with it."""
    sent = "; ".join(f"{kind} {each['times']} times, {each['payload'] / GIB:.1f} GiB" for kind, each in sorted(answer["traffic"].items()))
    common.say(f"  headroom {(answer['limit'] - answer['total']) / GIB:.2f} GiB; {answer['found_kernels']} Pallas kernels; sent: {sent}")
    if key in MAXTEXT:
        share = answer["total"] / GIB / MAXTEXT[key]
        common.say(f"  {share:.2f} times MaxText's {MAXTEXT[key]} GiB")
        if share > 1:
            yield f"MaxText takes {MAXTEXT[key]} GiB, this {answer['total'] / GIB:.2f}"


def alike(collectives: list[dict]) -> collections.Counter[str]:
    """A line for each sort of them -> how many there are in one run, or in one step of decoding."""
    lines = collections.Counter()
    for each in collectives:
        lines[f"{each['kind']} of {each['given']}, {each['payload'] / 2**20:.2f} MiB: {each['source']}"] += each["times"]
    return lines


def suitable_python() -> str:
    """A Python 3.12 or 3.13: the one that PYTHON names, this one, or one that is installed here."""
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    named = os.environ.get("PYTHON")
    found = [sys.executable, "python3.13", "python3.12", *sorted(glob.glob(f"{pyenv}/versions/3.1[23].*/bin/python"), reverse=True)]
    for candidate in [named] if named else found:
        try:
            if not subprocess.run([candidate, "-c", SUITABLE], stderr=subprocess.DEVNULL, check=False).returncode:
                return candidate
        except OSError:
            continue  # not installed
    print("error: libtpu 0.0.52 needs Python 3.12 or 3.13 with venv; name one: PYTHON=/path/to/python3.13", file=sys.stderr)
    sys.exit(NO_PYTHON)


if __name__ == "__main__":
    sys.exit(main())
