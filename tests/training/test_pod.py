"""Trainings as processes: several that are one, other meshes that continue, and ends that are none: kill -9 and SIGTERM."""

import contextlib
import json
import pathlib
import shutil
import sys

import jax
import pytest

from humpback.model.sharding import make_mesh
from humpback.training.checkpoint import TrainingCheckpoints
from humpback.training.loop import Training, train
from humpback.training.stopping import PREEMPTED
from tests import kills
from tests.training import case


def command(folder: pathlib.Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "tests.training.case", f"--folder={folder}", *flags]


def pod(folders: list[pathlib.Path], *flags: str) -> list[str]:
    """Two processes of four devices, which train in one folder after the other."""
    launcher = [sys.executable, "launch/local_pod.py", "--processes=2", "--devices=4", "--"]
    return [*launcher, "python", "-m", "tests.training.case", *(f"--folder={folder}" for folder in folders), *flags]


def result(folder: pathlib.Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def train_here(steps: int, checkpoints: TrainingCheckpoints | None = None, stop_at: int = 0, rank: int = 0, **mesh: int) -> list[float]:
    """The losses of a training in this process, on one device when no sizes are given; it breaks off after step `stop_at`."""
    ft = case.make_finetune(steps=steps, checkpoint_every=3, lora_rank=rank, lora_base="float32")

    class Enough(Exception):
        pass

    losses: list[float] = []

    def look(row: dict) -> None:
        losses.append(row["loss"])
        if row["step"] == stop_at:
            raise Enough

    devices = jax.devices() if mesh else jax.devices()[:1]
    with contextlib.suppress(Enough):
        train(
            case.make_base(), case.make_examples(), Training(ft, 1, "forward-1"),
            mesh=make_mesh(**mesh, devices=devices), checkpoints=checkpoints, metrics=look,
        )  # fmt: skip
    return losses


def test_one_device_is_eight_and_two_processes_and_each_continues_the_others_checkpoint(tmp_path):
    """From the beginning and from a checkpoint of fsdp 4 × tensor 2: on 2 × 4 … as two heads allow, on one device, in two processes."""
    alone = train_here(8)
    assert train_here(8, stop_at=5, data=2, fsdp=2, tensor=2) == pytest.approx(alone[:5], abs=1e-5)
    saved = TrainingCheckpoints(tmp_path / "saved" / "steps")
    assert train_here(8, saved, stop_at=4, fsdp=4, tensor=2) == pytest.approx(alone[:4], abs=1e-5)
    saved.wait()
    for name, mesh in {"other": {"fsdp": 2, "tensor": 4}, "one": {}}.items():
        shutil.copytree(tmp_path / "saved", tmp_path / name)
        continued = train_here(8, TrainingCheckpoints(tmp_path / name / "steps"), **mesh)
        assert continued == pytest.approx(alone[3:], abs=1e-5)
    kills.finish(pod([tmp_path / "new", tmp_path / "saved"], "--steps=8", "--mesh=2,2,2"))
    for name, wanted in {"new": alone, "saved": alone[3:]}.items():
        assert list(result(tmp_path / name)["losses"].values()) == pytest.approx(wanted, abs=1e-5)


def test_adapters_of_two_processes_are_those_of_one_device(tmp_path):
    kills.finish(pod([tmp_path], "--steps=3", "--mesh=2,2,2", "--lora"))
    assert list(result(tmp_path)["losses"].values()) == pytest.approx(train_here(3, rank=3), abs=1e-5)


def long(steps: int) -> tuple[str, ...]:
    """The flags of a training that takes longer than to start it."""
    return f"--steps={steps}", "--larger", "--checkpoint_every=2"


def was_hit(folder: pathlib.Path) -> str:
    """How far a training was that was ended; "" when it had not begun, or was complete."""
    steps = sorted(path.name for path in folder.glob("steps/*") if (path / "checksums.json").exists())
    if (folder / "result.json").exists() or not (folder / "steps").exists():
        return ""
    unfinished = [path.name for path in folder.glob("steps/*") if not (path / "checksums.json").exists()]
    return f"{int(steps[-1]) if steps else 0} steps saved" + (", in a save" if unfinished else "")


@pytest.mark.optimized  # takes half the time: what is computed outweighs what is compiled
def test_killed_and_terminated_trainings_end_with_the_same_bits(tmp_path):
    """A SIGTERM and a kill at random moments, one after the other in one training."""
    flags = long(24)
    kills.finish(command(tmp_path / "whole", *flags))
    duration, _ = kills.finish(command(tmp_path / "again", *flags))  # with its programs compiled, as those that are ended have them
    assert result(tmp_path / "again") == result(tmp_path / "whole")
    folder, hits = tmp_path / "ended", []
    for number, moment in enumerate(kills.moments(seed=11, count=2, duration=duration)):
        if (folder / "result.json").exists():
            break
        if number == 0:
            code = kills.terminate_at(command(folder, *flags), moment)
            assert code in (PREEMPTED, -15)  # the latter before there is anything to save
        else:
            kills.kill_at(command(folder, *flags), moment)
        hits.append(was_hit(folder))
        print(f"{moment:.1f} s of {duration:.1f}: {hits[-1] or 'no work in progress'}")
    kills.finish(command(folder, *flags))
    assert result(folder)["weights"] == result(tmp_path / "whole")["weights"]
    assert sum(map(bool, hits)) * 2 >= len(hits)
