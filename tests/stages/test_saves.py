"""How often a training saves."""

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from humpback import config, experiments
from humpback.model.sharding import MESH_AXES
from humpback.model.sizes import SIZES
from humpback.planning import tpu_slices
from humpback.stages import fitting, saves
from humpback.stages.directory import Run
from humpback.tokens.examples import TokenExample

EXAMPLES = [TokenExample(f"{i}", np.zeros(600, np.int32), 300) for i in range(3_200)]


@pytest.mark.parametrize(
    ("step", "save", "steps"),
    [(1.0, 2.0, 180), (7.0, 1.0, 25), (200.0, 1.0, 1), (1.0, 9.0, 300)],  # the last: 3 % of the time
)
def test_a_kill_costs_three_minutes_and_saves_three_percent(step, save, steps):
    assert saves.every(step, save) == steps


@pytest.mark.parametrize(("name", "size"), [("v5e-16", "llama_7b"), ("v5p-32", "llama_7b"), ("v5e-256", "llama2_70b")])
def test_the_sizes_of_the_paper_on_the_slices_of_the_docs(name, size):
    slice_, ft = tpu_slices.parse(name), experiments.paper(size).forward
    mesh = AbstractMesh((1, slice_.chips, 1), MESH_AXES)
    plan = saves.batches.make_plan(EXAMPLES, ft, 0, "forward-1", slice_.chips)
    step, save = saves.step_seconds(slice_, mesh, SIZES[size], ft, plan), saves.save_seconds(slice_, SIZES[size], ft)
    steps = saves.every(step, save)
    assert 90 < steps * step <= 180 and save <= 0.03 * steps * step


def test_what_was_found_holds_for_resumes(tmp_path, monkeypatch):
    """And a value that is given is taken, and not recorded as found."""
    run = Run(config.finish(config.Config()), tmp_path)
    mesh, model = AbstractMesh((1, 16, 1), MESH_AXES), SIZES["llama_7b"]

    def begun(**given):
        stage = run.stage("forward-1", ("forward.",), module="")
        ft = saves.fitted(run, stage, "forward", config.Finetune(**given), model, mesh, EXAMPLES)
        stage.begin()
        return ft.checkpoint_every

    assert begun(checkpoint_every=7) == 7 and not list(tmp_path.glob("forward-1/found*"))
    (tmp_path / "forward-1" / "parts").mkdir()  # of work in progress
    (tmp_path / "forward-1" / "parts" / "x").touch()
    assert begun() == saves.ELSEWHERE
    monkeypatch.setattr(fitting, "slice_here", lambda: tpu_slices.parse("v5e-16"))
    assert begun() == saves.ELSEWHERE
