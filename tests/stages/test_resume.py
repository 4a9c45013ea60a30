"""--resume_from: what another run's directory has is copied where it is whole and of the same, and nothing is written there."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from humpback import records
from humpback.decoding.parts import Parts
from humpback.records import Example, Segment
from humpback.stages import identity
from humpback.stages.base import convert_base
from humpback.stages.directory import Run
from humpback.stages.seed import seed
from humpback.stages.segment import segment
from humpback.training.checkpoint import TrainingCheckpoints
from tests import compare, damage, kills
from tests.stages import hand_made

KILLED = """
import os, signal, sys
from humpback import cli, storage
publish, left = storage.publish, [int(sys.argv.pop(1))]
def counted(path, *arguments, **options):
    if os.path.basename(path) not in ("lock", "config.json"):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return publish(path, *arguments, **options)
storage.publish = counted
cli.main()
"""


def listing(folder: os.PathLike) -> dict[pathlib.Path, int]:
    return {path: path.stat().st_mtime_ns for path in pathlib.Path(folder).rglob("*")}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("made") / "run"


@pytest.fixture
def before(make_run, made) -> Run:
    """A run whose base, seed and segments are complete, in a folder of this test."""
    run = make_run(made)
    for stage in (convert_base, seed, segment):
        stage(run)
    here = make_run()
    shutil.copytree(made, here.workdir)
    return here


def test_what_is_complete_is_taken_and_the_source_only_read(before, tmp_path, capsys):
    there = listing(before.workdir)
    run = Run(before.cfg, tmp_path / "again", resume_from=str(before.workdir))
    for stage in (convert_base, seed, segment):
        stage(run)
    said = capsys.readouterr().err
    assert said.count("complete taken from") == said.count("done before") == 3 and "not taken" not in said
    assert compare.differences(tmp_path / "again", pathlib.Path(before.workdir)) == [] and listing(before.workdir) == there


@pytest.mark.parametrize("name", ["base/model.json", "seed/seed-00000-of-00001.jsonl", "segments/manifest.json"])
def test_a_stage_with_a_torn_file_is_left_and_made_again(before, tmp_path, name, capsys):
    there = tmp_path / "torn"
    shutil.copytree(before.workdir, there)
    damage.damage(there / name, "truncate")
    run = Run(before.cfg, tmp_path / "again", resume_from=str(there))
    for stage in (convert_base, seed, segment):
        stage(run)
    said, torn = capsys.readouterr().err, name.partition("/")[0]
    assert said.count("complete taken from") == 2 and f"{torn}: not taken from {there / torn}: " in said
    assert compare.differences(tmp_path / "again", pathlib.Path(before.workdir)) == []


def test_what_another_config_made_is_left(before, make_run, tmp_path, capsys):
    seed(Run(make_run(seed_pairs__limit=9).cfg, tmp_path / "again", resume_from=str(before.workdir)))
    said = capsys.readouterr().err
    assert "seed: not taken from" in said and "with seed_pairs.limit = 16, now it is 9" in said and "seed: 16" not in said
    assert len(list(records.read_shards(tmp_path / "again" / "seed", "seed", Example))) == 9


def test_what_was_made_from_other_inputs_is_left(before, make_run, tmp_path, capsys):
    """Of the run that is resumed only the base is whole, and the seed is another one here."""
    stage = before.stage("backward", ("wrapper",), ["seed"], module="")
    stage.begin()
    stage.publish_metrics()
    (stage.path / "metrics").mkdir()
    (stage.path / "metrics" / "metrics-00000.jsonl").write_text("{}\n")
    run = Run(before.cfg, tmp_path / "again", resume_from=str(before.workdir))
    shutil.copytree(before.workdir / "seed", run.workdir / "seed")
    (run.workdir / "seed" / "manifest.json").write_text((run.workdir / "seed" / "manifest.json").read_text() + " ")
    run.stage("backward", ("wrapper",), ["seed"], module="")
    assert "backward: not taken from" in (said := capsys.readouterr().err) and "from other inputs than are here" in said


def test_of_a_half_done_stage_what_is_whole_is_taken(make_run, tmp_path, capsys):
    """Of three parts one is cut off and one of something else; of two training checkpoints one is damaged."""
    before = make_run()
    stage = hand_made.rate(before)
    parts = Parts(stage.path / "parts", hand_made.segments_in(tmp_path), hand_made.ALONE, -1.0, stage)
    for number in (0, 1):
        parts.add(number, Segment(f"{number + 1:016x}", "text", "h", ("h",), "u", "s", 0, 1))
    parts.settle()
    whole, torn = sorted((stage.path / "parts").iterdir())
    foreign = torn.with_name(torn.name.replace("-000001-", "-000002-"))
    foreign.write_bytes(torn.read_bytes().replace(stage.identity.encode(), b"0" * 16))
    damage.damage(torn, "truncate")
    steps = TrainingCheckpoints(stage.path / "steps", maker=stage)
    for step in (1, 2):
        steps.save(step, {"x": jnp.arange(100.0)}, {"step": step})
    steps.wait()
    damage.damage(
        max(pathlib.Path(stage.path, "steps", "00000002").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()), "flip"
    )
    there = listing(before.workdir)
    again = hand_made.rate(Run(before.cfg, tmp_path / "again", resume_from=str(before.workdir)))
    said = capsys.readouterr().err
    assert "ratings-1: what there was of it taken from" in said and "1 made from something else left, 2 torn left" in said
    assert [path.name for path in (again.path / "parts").iterdir()] == [whole.name] and listing(before.workdir) == there
    assert TrainingCheckpoints(again.path / "steps", maker=again).latest() == (1, {"step": 1})
    assert (again.path / "stage.json").read_bytes() == (stage.path / "stage.json").read_bytes()
    shutil.rmtree(again.path / "parts")
    hand_made.rate(Run(before.cfg, tmp_path / "again", resume_from=str(before.workdir)))
    assert "taken" not in capsys.readouterr().err and not (again.path / "parts").exists(), "what is begun here is left alone"


def test_parts_of_segments_are_looked_at_too(before, tmp_path, capsys):
    """Of a run that was killed while it cut pages: three files make a part, the last one says from what."""
    folder = before.workdir / "segments"
    parts = folder / "parts"
    parts.mkdir()
    for name in ("manifest.json", "segments-00000-of-00001.jsonl", "yield.json", "samples.json"):
        (folder / name).unlink()
    begun = identity.read(folder)
    made_from = {"identity": identity.of(begun, begun["code"][0])}
    for number, (rows, said) in enumerate([(1, made_from), (2, made_from), (1, {"identity": "0" * 16})]):
        (parts / f"{number:06d}.jsonl").write_text("{}\n")
        (parts / f"{number:06d}.json").write_text(json.dumps(said))
        np.save(parts / f"{number:06d}.npy", np.zeros(rows))
    run = Run(before.cfg, tmp_path / "again", resume_from=str(before.workdir))
    stage = run.stage("segments", ("segments.",), module="humpback.stages.segment")
    assert "1 made from something else left, 1 torn left" in capsys.readouterr().err
    assert {path.name for path in (stage.path / "parts").iterdir()} == {"000000.jsonl", "000000.json", "000000.npy"}


def test_a_kill_while_it_is_copied_costs_nothing(before, inputs, tmp_path, capsys):
    line = ["base", *inputs, f"--workdir={tmp_path / 'again'}", f"--resume_from={before.workdir}"]
    command = [sys.executable, "-c", KILLED, "5", *line]
    killed = subprocess.run(command, cwd=kills.REPOSITORY, env=kills.environment(60), capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    copied = {path.name for path in (tmp_path / "again" / "base").rglob("*") if path.is_file()}
    assert len(copied) == 5 and not {"manifest.json", "stage.json"} & copied
    convert_base(Run(before.cfg, tmp_path / "again", resume_from=str(before.workdir)))
    assert "base: complete taken from" in capsys.readouterr().err
    shutil.rmtree(before.workdir / "seed")
    shutil.rmtree(before.workdir / "segments")
    assert compare.differences(tmp_path / "again", pathlib.Path(before.workdir)) == []


def test_a_folder_that_is_not_there_is_refused(humpback, inputs, tmp_path):
    done = humpback("seed", *inputs, f"--workdir={tmp_path / 'run'}", f"--resume_from={tmp_path / 'nowhere'}")
    assert done.returncode == 2 and f"--resume_from={tmp_path / 'nowhere'}: there is no such folder" in done.stderr
