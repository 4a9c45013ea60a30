"""What a training finds for itself of the machine: when it begins, when it goes on, and what it says of idle places."""

import dataclasses
import json
import re

import numpy as np
import pytest

from humpback import config, experiments
from humpback.errors import UserError
from humpback.model.sizes import SIZES
from humpback.planning import tpu_slices
from humpback.stages import fitting, meshes
from humpback.stages.directory import Run, read_manifest
from humpback.tokens.examples import TokenExample

MODEL = SIZES["llama_7b"]
SIZES_OF = np.array([300, 900, 500, 1500, 700, 200] * 40)
EXAMPLES = [TokenExample(str(i), np.zeros(size, np.int32), size // 2) for i, size in enumerate(SIZES_OF)]


@pytest.fixture
def on(monkeypatch):
    """on(name): from now on the eight devices are such a slice."""
    return lambda name: monkeypatch.setattr(fitting, "slice_here", lambda: name and tpu_slices.parse(name))


def paper(**fields):
    cfg = experiments.paper("llama_7b")
    cfg.forward.steps, cfg.forward.batch = 8, 32
    for name, value in fields.items():
        part, _, last = name.partition("__")
        setattr(getattr(cfg, part), last, value)
    return config.finish(cfg)


def find(examples=EXAMPLES, **fields):
    found = meshes.find(paper(**fields), "forward-1", "forward", MODEL, examples)
    return {name.partition(".")[2]: value for name, value in found.items()}


def test_a_tpu_gets_what_is_soonest_done_and_another_machine_the_defaults(on, capfd):
    on("v6e-8")
    found = find()
    assert found["data"] == 1 and found["fsdp"] * found["tensor"] == 8 and found["tokens_at_once"] == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert re.match(r"forward-1: fsdp \d( × tensor \d)?; \d × \d+; (none|dots): by the estimate soonest done on v6e-8, with ", line)
    assert line.endswith("of 31.2 GiB a chip")
    on("v5e-8")  # half the memory
    assert find()["remat"] == "full" != found["remat"]
    on(None)
    assert find() == {"data": 1, "fsdp": 8, "tensor": 1, "remat": "none", "tokens_at_once": 0}


def test_the_config_overrides(on):
    on("v5e-8")
    given = find(mesh__tensor=4, forward__remat="full", forward__tokens_at_once=2_048)
    assert given == {"data": 1, "fsdp": 2, "tensor": 4, "remat": "full", "tokens_at_once": 2_048}
    assert find(mesh__fsdp=2, mesh__data=4)["tensor"] == 1
    with pytest.raises(UserError, match=r"config fields mesh.*: mesh data=1, fsdp=-1, tensor=3: 8 devices are not a multiple"):
        find(mesh__tensor=3)


def test_idle_places_are_warned_of_and_what_may_not_fit(on, capfd):
    on("v6e-8")
    find(EXAMPLES, forward__batch=32)
    assert "WARNING" not in capfd.readouterr().err
    find(EXAMPLES[:4], forward__batch=2, mesh__fsdp=8)
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "WARNING" in line)
    assert "forward-1: 8" in line and "of the places only fill up; 8 devices are too many" in line
    on("v5e-8")
    find(forward__remat="none", forward__tokens_at_once=1 << 20, mesh__data=8, mesh__fsdp=1)
    assert "WARNING: forward-1: may not fit: " in capfd.readouterr().err


def begun(cfg, path):
    """What a training runs with that has made something."""
    run = Run(cfg, path)
    stage = run.stage("forward-1", ("forward.", "mesh."), module=meshes.__name__)
    mesh, ft = meshes.fitted(run, stage, "forward", MODEL, EXAMPLES)
    stage.begin()
    (stage.path / "steps").mkdir(exist_ok=True)
    return dict(mesh.shape), ft.remat


def test_what_a_training_began_with_holds_until_a_flag_says_otherwise(on, tmp_path, capfd):
    on("v5e-8")
    first = begun(paper(), tmp_path)
    on("v4-16")  # on which something else would be found
    assert begun(paper(), tmp_path) == first != ({"data": 1, "fsdp": 8, "tensor": 1}, "none")
    capfd.readouterr()
    other = begun(paper(mesh__tensor=2, forward__remat="full"), tmp_path)
    assert other == ({"data": 1, "fsdp": 4, "tensor": 2}, "full")
    told = "goes on with forward.remat full, forward.tokens_at_once 0, mesh.data 1, mesh.fsdp 4, mesh.tensor 2, was begun with "
    assert f"forward-1: {told}" in capfd.readouterr().err
    assert begun(paper(), tmp_path) == other  # that is recorded, too
    run = Run(paper(), tmp_path)
    stage = run.stage("forward-1", ("forward.", "mesh."), module=meshes.__name__)
    meshes.fitted(run, stage, "forward", MODEL, EXAMPLES)
    stage.finish(counts={})
    recorded = read_manifest(tmp_path, "forward-1")["recorded"]
    assert (recorded["mesh.fsdp"], recorded["mesh.tensor"], recorded["forward.remat"]) == (4, 2, "full")
    assert len(list((tmp_path / "forward-1").glob("found-*.json"))) == 2


def test_other_devices_than_it_began_with(on, tmp_path, capfd):
    on("v5e-8")
    first = begun(paper(), tmp_path)
    (record,) = (tmp_path / "forward-1").glob("found-*.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "mesh.data": 2}))
    capfd.readouterr()
    assert begun(paper(), tmp_path) == first
    assert f"mesh.data 2, mesh.fsdp {first[0]['fsdp']}, mesh.tensor {first[0]['tensor']}, and here are 8 devices" in capfd.readouterr().err
    assert len(list((tmp_path / "forward-1").glob("found-*.json"))) == 2


def test_fields_of_several_parts():
    cfg = meshes._with(paper(), {"mesh.tensor": 2, "forward.remat": "dots"})
    assert (cfg.mesh, cfg.forward.remat) == (dataclasses.replace(paper().mesh, tensor=2), "dots") and cfg.backward == paper().backward
