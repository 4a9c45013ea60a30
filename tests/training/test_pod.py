"""Trainings as processes: several that are one, other meshes that continue, and ends that are none: kill -9 and SIGTERM."""

import json
import pathlib
import shutil
import sys

import jax
import pytest

from humpback.model.sharding import make_mesh
from humpback.training.checkpoint import TrainingCheckpoints
from humpback.training.loop import train
from humpback.training.stopping import PREEMPTED
from tests import kills
from tests.training import case


def command(folder: pathlib.Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "tests.training.case", f"--folder={folder}", *flags]


def pod(folder: pathlib.Path, *flags: str) -> list[str]:
    """Two processes of four devices."""
    launcher = [sys.executable, "launch/local_pod.py", "--processes=2", "--devices=4", "--"]
    return [*launcher, "python", *command(folder, *flags)[1:]]


def result(folder: pathlib.Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def in_process(steps: int, path: pathlib.Path | None = None, **mesh: int) -> list[float]:
    """The losses of a training here; without sizes on one device."""
    rows: list[dict] = []
    devices = jax.devices() if mesh else jax.devices()[:1]
    train(
        case.make_base(), case.make_examples(), case.make_finetune(steps=steps), mesh=make_mesh(**mesh, devices=devices), seed=1,
        purpose="forward-1", metrics=rows.append, progress=False, checkpoints=TrainingCheckpoints(path) if path else None,
    )  # fmt: skip
    return [row["loss"] for row in rows]


def test_one_device_is_eight_and_two_processes_of_four(tmp_path):
    alone = in_process(5)
    assert in_process(5, data=2, fsdp=2, tensor=2) == pytest.approx(alone, abs=1e-5)
    kills.finish(pod(tmp_path, "--steps=5", "--mesh=2,2,2"))
    assert list(result(tmp_path)["losses"].values()) == pytest.approx(alone, abs=1e-5)


def test_a_checkpoint_continues_on_other_meshes_and_processes(tmp_path):
    """Saved on fsdp 4 × tensor 2; continued on 2 × 4 … as two heads allow, on one device, and in two processes: the same next step."""

    class Enough(Exception):
        pass

    def stop(row: dict) -> None:
        if row["step"] == 4:
            raise Enough

    whole = in_process(8, fsdp=4, tensor=2)
    saved = TrainingCheckpoints(tmp_path / "saved" / "steps")
    with pytest.raises(Enough):
        train(
            case.make_base(), case.make_examples(), case.make_finetune(steps=8, checkpoint_every=3), mesh=make_mesh(fsdp=4, tensor=2),
            seed=1, purpose="forward-1", metrics=stop, progress=False, checkpoints=saved,
        )  # fmt: skip
    saved.wait()
    for name, mesh in {"other": {"fsdp": 2, "tensor": 4}, "one": {}}.items():
        shutil.copytree(tmp_path / "saved", tmp_path / name)
        assert in_process(8, tmp_path / name / "steps", **mesh) == pytest.approx(whole[3:], abs=1e-5)
    kills.finish(pod(tmp_path / "saved", "--steps=8", "--mesh=2,2,2"))
    assert list(result(tmp_path / "saved")["losses"].values()) == pytest.approx(whole[3:], abs=1e-5)


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


def test_killed_and_terminated_trainings_end_with_the_same_bits(tmp_path):
    """A SIGTERM and a kill at random moments, one after the other in one training."""
    flags = long(60)
    duration, _ = kills.finish(command(tmp_path / "whole", *flags))
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
