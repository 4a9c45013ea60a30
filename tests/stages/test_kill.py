"""A run that is killed with -9 continues and ends with the same bytes; two runs with one seed are the same bytes."""

import pathlib
import shutil
import subprocess

import pytest

from tests import compare, kills


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory) -> tuple[pathlib.Path, float]:
    """A run, and the seconds of another like it, which finds its programs compiled, as those that are killed do."""
    first, second = (tmp_path_factory.mktemp("undisturbed") / "run" for _ in range(2))
    kills.finish(command(inputs, first))
    seconds, _ = kills.finish(command(inputs, second))
    assert compare.differences(second, first) == []
    return first, seconds


def command(inputs: list[str], workdir: pathlib.Path, *more: str) -> list[str]:
    return kills.humpback("run", *inputs, f"--workdir={workdir}", *more)


def test_three_kills(inputs, undisturbed, tmp_path):
    """One run, killed three times, or more until one hits work in progress: it continues, and nothing tells it from the undisturbed one."""
    expected, duration = undisturbed
    workdir, hits = tmp_path / "run", []
    for number, moment in enumerate(kills.moments(seed=7, count=9, duration=duration)):
        if number >= 3 and any(hits):
            break
        if workdir.exists() and not kills.in_progress(workdir):
            shutil.rmtree(workdir)  # so that each kill is uniform over a whole run unless one was half done
        killed = kills.kill_at(command(inputs, workdir), moment)
        hits.append(kills.in_progress(workdir) if killed else "")
        print(f"kill after {moment:.1f} s of {duration:.1f} hit: {hits[-1] or 'no work in progress'}")
    kills.finish(command(inputs, workdir))
    assert compare.differences(workdir, expected) == []
    assert any(hits)


def test_second_call_does_nothing(inputs, undisturbed):
    workdir, _ = undisturbed
    before = written(workdir)
    _, output = kills.finish(command(inputs, workdir))
    assert output.count("done before") == 18
    assert before == written(workdir)


def written(workdir: pathlib.Path) -> dict[pathlib.Path, int]:
    """When each of the stages' files was written."""
    return {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file() and path.parent != workdir}


def test_other_seed_gives_other_bytes(inputs, undisturbed, tmp_path):
    """The comparison can fail: another seed makes other candidates and other weights."""
    workdir = tmp_path / "run"
    kills.finish(command(inputs, workdir, "--config.seed=1", "--config.iterations=1"))
    found = compare.differences(workdir, undisturbed[0])
    assert any("backward" in name and "layers" in name for name in found)
    assert "candidates/candidates-00000-of-00001.jsonl" in found


def test_more_iterations_continue(inputs, undisturbed, tmp_path):
    """iterations 2 → 3 does what is missing, and nothing that was there changes."""
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed[0], workdir)
    _, output = kills.finish(command(inputs, workdir, "--config.iterations=3"))
    assert output.count("done before") == 18 and "forward-3: " in output
    found = compare.differences(workdir, undisturbed[0])
    assert {name.split("/")[0].split(":")[0] for name in found} == {
        "config.json", "summary.json", "report.md", "ratings-3", "judge-3", "curated-3", "forward-3", "answers-3",
    }  # fmt: skip


def chat(model: pathlib.Path) -> subprocess.CompletedProcess:
    line = kills.humpback("chat", f"--model={model}", "--prompt=Why is the sky blue?", "--max_new_tokens=8")
    return subprocess.run(line, cwd=kills.REPOSITORY, capture_output=True, text=True, timeout=300)


def test_chat_answers_and_refuses_a_backward_model(undisturbed, humpback):
    workdir = undisturbed[0]
    first, second = chat(workdir / "forward-2"), chat(workdir / "forward-2")
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() and first.stdout == second.stdout
    refused = humpback("chat", f"--model={workdir / 'backward'}", "--prompt=x")
    assert refused.returncode == 2 and "is a backward model; this task needs forward or base" in refused.stderr
