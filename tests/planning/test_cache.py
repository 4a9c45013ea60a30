"""What was compiled is not compiled again: keys, files, a child that fails, and the real child where libtpu is."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import stat
import sys
from concurrent import futures

import pytest

from humpback import experiments
from humpback.errors import UserError
from humpback.model.llama import LlamaConfig, RopeScaling, parameter_count
from humpback.planning import cache, jobs
from humpback.planning.compile import INSTALL

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason=f"libtpu is not installed: {INSTALL}")
MODEL = LlamaConfig(
    vocab_size=4096, d_model=512, num_layers=2, num_heads=8, num_kv_heads=8, head_dim=64, d_ff=1024, tied=False, max_positions=2048
)
PLACE = jobs.Place("v5e:2x2", 1, 4, 1)
JOB = jobs.Step.of(PLACE, MODEL, experiments.paper("").forward, length=512, rows=4, parts=1, targets=512)

# Answers as the child does, with a program for each length of rows, and notes each call; a row of 13 tokens makes it fail.
STAND_IN = """#!{python}
import json, os, pathlib, sys
calls = pathlib.Path({calls!r})
if sys.argv[1] == "-c":
    print(json.dumps({{"libtpu": os.environ["FAKE_LIBTPU"], "jax": "1", "jaxlib": "1"}}))
    sys.exit()
asked = json.load(sys.stdin)
with open(calls, "a") as file:
    file.write("call\\n")
print("noise of a compiler", file=sys.stderr)
length = asked["job"]["length"]
if length == 13:
    print("humpback.errors.UserError: libtpu refuses the slice", file=sys.stderr)
    sys.exit(1)
if length == 14:
    os.abort()
print("noise")
answer = {{"program": f"p{{length}}", "total": 5, "limit": 9, "refused": False, "traffic": {{"all-gather": [1, 2]}}, "seconds": 1.0}}
print(json.dumps(answer))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LIBTPU", "1.0")
    script, calls = tmp_path / "python", tmp_path / "calls"
    script.write_text(STAND_IN.format(python=sys.executable, calls=str(calls)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script, lambda: len(calls.read_text().splitlines()) if calls.exists() else 0


def test_a_job_is_compiled_once(stand_in, tmp_path):
    script, calls = stand_in
    told: list[str] = []
    first = cache.Compiler(tmp_path / "cache", str(script), told.append).ask(JOB, "a step")
    assert (first.total, first.traffic, first.fits) == (5, {"all-gather": (1, 2)}, True)
    assert len(told) == 1 and "a step: 0.00 of 0.00 GiB a chip" in told[0]
    again = cache.Compiler(tmp_path / "cache", str(script), told.append).ask(JOB, "a step")
    assert again == first and calls() == 1 and len(told) == 1
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir()) == ["asked", "compiled"]


def test_what_makes_another_key(stand_in, tmp_path, monkeypatch):
    script, calls = stand_in

    def ask(job):
        cache.Compiler(tmp_path / "cache", str(script)).ask(job, "")
        return calls()

    assert ask(JOB) == 1
    assert ask(dataclasses.replace(JOB, length=1024)) == 2
    assert ask(dataclasses.replace(JOB, place=dataclasses.replace(PLACE, topology="v6e:2x2"))) == 3
    assert ask(dataclasses.replace(JOB, finetune={**JOB.finetune, "remat": "dots"})) == 4
    monkeypatch.setenv("FAKE_LIBTPU", "2.0")
    assert ask(JOB) == 5
    monkeypatch.setattr(jobs, "source_digest", lambda: "another source")
    assert ask(JOB) == 6 == ask(JOB)


def test_a_cut_file_is_no_answer(stand_in, tmp_path):
    script, calls = stand_in
    cache.Compiler(tmp_path / "cache", str(script)).ask(JOB, "")
    file = next((tmp_path / "cache").glob("compiled-*"))
    file.write_text(file.read_text()[:20])
    assert cache.Compiler(tmp_path / "cache", str(script)).ask(JOB, "").total == 5 and calls() == 2


def test_what_the_child_finds_compiled_before(tmp_path):
    """Neither a cut file, nor one that holds something else, is an answer to the child, which then compiles."""
    answer = {"program": "p", "total": 5, "limit": 9, "refused": False}
    assert jobs.compiled_before(tmp_path, "p") is None
    for text in (json.dumps(answer)[:20], "", "null", "[]", '{"program": "p"}', json.dumps({**answer, "traffic": None})):
        (tmp_path / "compiled-p.json").write_text(text)
        assert jobs.compiled_before(tmp_path, "p") is None, text
    (tmp_path / "compiled-p.json").write_text(json.dumps(answer))
    assert jobs.compiled_before(tmp_path, "p") == answer


def test_two_threads_that_ask_the_same(stand_in, tmp_path):
    script, calls = stand_in
    compiler = cache.Compiler(tmp_path / "cache", str(script))
    with futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: compiler.ask(JOB, ""), range(4)))
    assert calls() == 1 and len(set(map(str, answers))) == 1


def test_a_child_that_fails_says_why(stand_in, tmp_path):
    script, _ = stand_in
    compiler = cache.Compiler(tmp_path / "cache", str(script))
    with pytest.raises(UserError, match=r"^a step: libtpu refuses the slice$"):
        compiler.ask(dataclasses.replace(JOB, length=13), "a step")
    with pytest.raises(UserError, match=r"a step: the compiler's process ended with exit code -6(.|\n)*noise of a compiler"):
        compiler.ask(dataclasses.replace(JOB, length=14), "a step")
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_the_installation_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no libtpu: (.|\n)*pip install -c launch/constraints-bench.txt libtpu"):
        cache.Compiler(tmp_path).ask(JOB, "")
    with pytest.raises(UserError, match="--python=/nowhere/python: cannot be run"):
        cache.Compiler(tmp_path, "/nowhere/python").ask(JOB, "")


def test_a_job_survives_json():
    scaled = dataclasses.replace(MODEL, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192))
    decode = jobs.Decode(PLACE, scaled, "generate", 8, 512, 10, "bfloat16", 8, 512, "compute", 0.7, 0.9)
    for job in (JOB, decode):
        assert jobs.from_json(json.loads(json.dumps(jobs.to_json(job)))) == job


def test_the_digest_of_the_source(tmp_path):
    """It changes with what a program is made of, and with nothing else."""
    package = tmp_path / "humpback"
    shutil.copytree(pathlib.Path(jobs.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    first = jobs.source_digest(package)
    assert first == jobs.source_digest()
    files = {"planning/roofline.py": False, "stages/run.py": False, "model/attention.py": True, "training/loss.py": True}
    for name, changes in files.items():
        with open(package / name, "a") as file:
            file.write("# a change\n")
        assert (jobs.source_digest(package) != first) is changes, name
        first = jobs.source_digest(package)


def test_the_default_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert os.fspath(cache.default_folder()) == "/somewhere/humpback/plan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.default_folder() == pathlib.Path.home() / ".cache" / "humpback" / "plan"


@needs_libtpu
def test_the_real_compiler_and_a_program_that_was_compiled_before(tmp_path, monkeypatch):
    """The second time the source is another, so that the child lowers again; it finds the same program and compiles nothing."""
    told: list[str] = []
    first = cache.Compiler(tmp_path, sys.executable, told.append).ask(JOB, "step")
    state = 12 * parameter_count(MODEL)
    assert first.fits and first.memory["arguments"] > state / 4 and first.traffic["all-gather"][1] > 0
    file = tmp_path / f"compiled-{first.program}.json"
    values = json.loads(file.read_text())
    assert values["job"] == jobs.to_json(JOB) and values["versions"]["libtpu"] == cache.Compiler(tmp_path).versions["libtpu"]
    file.write_text(json.dumps({**values, "total": 1}))
    monkeypatch.setattr(jobs, "source_digest", lambda: "another source")
    assert cache.Compiler(tmp_path).ask(JOB, "step").total == 1
    assert len(list(tmp_path.glob("asked-*"))) == 2 and len(list(tmp_path.glob("compiled-*"))) == 1
