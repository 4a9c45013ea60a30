"""Compiles the decoding engine's programs for TPUs that are not here: GiB a chip, headroom, collectives.

    python tests/benchmarks/tpu_compile.py --only=decode:llama2_7b@v5e:2x4

A key is PROGRAM:MODEL@SLICE; without --only all are compiled, each in a minute or two and 2 to 5 GiB of memory. `decode` is the engine's
`generate` program, `prefill` that of the longest bucket. The compiler lives in .venv-tpu, made here with Python 3.12 or 3.13
(PYTHON=/path/to/python names one). The last line is a JSON object, key -> GiB a chip. Exit code 1 when a program does not fit,
the prefill beside the slots' cache not either, when a prefill has not one Pallas kernel a layer but the last, or when it sends what
it should not: expected are two all-reduces a layer (a prefill's last one sends little) and one for the embedding (int8 sends that in
half the bytes), and of everything else less than twice the logits, so no weights and no cache.
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
KEYS = tuple(f"{program}:{job}" for job in JOBS for program in ("prefill", "decode"))


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
    from humpback.decoding import programs
    from humpback.decoding.sampling import Sampler
    from humpback.model import sharding
    from humpback.model.sizes import SIZES
    from humpback.planning.compile import DoesNotFit, compile_for, memory_limit, topology

    program, _, name = key.partition(":")
    job, cfg = JOBS[name], SIZES[JOBS[name].size]
    mesh = sharding.make_mesh(data=-1, tensor=job.tensor, devices=topology(name.partition("@")[2]))
    layout = programs.Layout(cfg, mesh, job.slots, job.length, 0, job.dtype, job.steps, job.prefill_tokens, job.weights)
    bucket = layout.buckets[-1]
    asked = programs.abstract(layout, Sampler(temperature=0.7, top_p=0.9))["generate" if program == "decode" else f"prefill {bucket}"]
    rows, length = (job.slots, 1) if program == "decode" else (layout.rows(bucket), bucket)
    on_a_chip = rows // layout.shards
    answer = {
        "shape": f"{job.slots} slots of {job.length}" if program == "decode" else f"{rows} × {length} tokens",
        "limit": memory_limit(mesh),
        # Of a prefill's last layer only each row's last token is sent, which is little.
        "all_reduces": 2 * (cfg.num_layers - (program == "prefill")) + 1,
        "activations": on_a_chip * length * cfg.d_model * 2,  # bytes of what a layer's all-reduce adds up, in bfloat16
        "logits": on_a_chip * cfg.vocab_size * 4,
        "kernels": cfg.num_layers - 1 if program == "prefill" else 0,
    }
    try:
        compiled = compile_for(asked.function, (*asked.static, *asked.arguments))
    except DoesNotFit as error:
        return {**answer, "total": error.used, "refusal": str(error)}
    beside = 0
    if program == "prefill":  # the slots' cache stays where it is while a prompt is read
        beside = compile_for(programs.empty_state, (layout,), mesh).memory.outputs
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
        yield f"{answer['found_kernels']} Pallas kernels; expected are {answer['kernels']}: a prefill's layers but the last"
    if large != answer["all_reduces"]:
        yield f"{large} all-reduces of activations; expected are {answer['all_reduces']}, two a layer and the embedding's"
    if rest > 2 * answer["logits"]:
        yield f"{rest / 2**20:.1f} MiB of other collectives; the logits are only {answer['logits'] / 2**20:.1f} MiB"


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
