"""A run that is killed with -9 continues and ends with the same bytes; two runs with one seed are the same bytes."""

import pathlib
import shutil

import pytest

from tests import compare, kills, tiny


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[str]:
    return tiny.make_inputs(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory) -> tuple[pathlib.Path, float]:
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    seconds, _ = kills.finish(command(inputs, workdir))
    return workdir, seconds


def command(inputs: list[str], workdir: pathlib.Path, *more: str) -> list[str]:
    return kills.humpback("run", *inputs, f"--workdir={workdir}", *more)


def test_three_kills(inputs, undisturbed, tmp_path):
    """One run, killed three times: each time it continues, and nothing tells it from the undisturbed one."""
    expected, duration = undisturbed
    workdir, hits = tmp_path / "run", []
    for moment in kills.moments(seed=7, count=3, duration=duration):
        if workdir.exists() and not kills.in_progress(workdir):
            shutil.rmtree(workdir)  # so that each kill is uniform over a whole run unless one was half done
        killed = kills.kill_at(command(inputs, workdir), moment)
        hits.append(kills.in_progress(workdir) if killed else "")
        print(f"kill after {moment:.1f} s of {duration:.1f} hit: {hits[-1] or 'no work in progress'}")
    kills.finish(command(inputs, workdir))
    assert compare.differences(workdir, expected) == []
    assert sum(map(bool, hits)) * 2 >= len(hits)


def test_second_call_does_nothing(inputs, undisturbed):
    workdir, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file() and path.parent != workdir}
    _, output = kills.finish(command(inputs, workdir))
    assert output.count("done before") == 12
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file() and path.parent != workdir}


def test_other_seed_gives_other_bytes(inputs, undisturbed, tmp_path):
    """The comparison can fail: another seed makes other candidates and other weights."""
    workdir = tmp_path / "run"
    kills.finish(command(inputs, workdir, "--config.seed=1", "--config.iterations=1"))
    found = compare.differences(workdir, undisturbed[0])
    assert any("backward" in name and "layers" in name for name in found)
    assert "candidates/candidates-00000-of-00001.jsonl" in found
