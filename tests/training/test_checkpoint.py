"""Model folders and training checkpoints: exact round trips, other meshes, and every kind of damage."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.errors import UserError
from humpback.model.sharding import DECODING_RULES, TRAINING_RULES, make_mesh, param_shardings
from humpback.training.checkpoint import ModelInfo, TrainingCheckpoints, load_model, save_model, weights_digest
from humpback.training.loop import state_shapes
from humpback.training.optimizer import make_optimizer
from humpback.training.programs import place_params


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "remove":
        path.unlink()
        return
    if kind == "truncate":
        data = data[: len(data) // 2]
    elif kind == "zero":
        data = bytearray(len(data))
    elif kind == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


KINDS = ["truncate", "zero", "remove", "flip"]


def save(path: Path, model, direction: str = "forward") -> None:
    save_model(path, ModelInfo(model.info.config, direction, "chatml"), model.params, model.tokenizer)


def test_weights_read_when_they_are_asked_for(tmp_path, base):
    save(tmp_path / "m", base)
    mesh = make_mesh(tensor=2, devices=jax.devices()[:2])
    params = load_model(tmp_path / "m", shardings=param_shardings(base.info.config, mesh, DECODING_RULES), whole=False).params
    assert list(params) == list(base.params) and list(params["layers"]) == list(base.params["layers"])
    layer = params["layers"]["1"]
    assert layer["q"].sharding.mesh == mesh and params["layers"]["1"]["q"] is not layer["q"]
    read = {name: params[name] for name in params if name != "layers"} | {"layers": dict(params["layers"])}
    assert weights_digest(read) == weights_digest(base.params)


def test_model_folder_comes_back_bit_for_bit(tmp_path, base):
    save(tmp_path / "m", base)
    loaded = load_model(tmp_path / "m")
    assert loaded.info == ModelInfo(base.info.config, "forward", "chatml")
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded.params))
    assert weights_digest(loaded.params) == weights_digest(base.params)
    assert loaded.tokenizer.encode("w0 w5") == base.tokenizer.encode("w0 w5")
    described = json.loads((tmp_path / "m" / "model.json").read_text())
    assert {k: described[k] for k in ("direction", "wrapper", "format_version")} == {
        "direction": "forward", "wrapper": "chatml", "format_version": 1,
    }  # fmt: skip


def test_relative_paths_work_as_well(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("runs/model"), base)
    assert weights_digest(load_model("runs/model").params) == weights_digest(base.params)
    TrainingCheckpoints("runs/steps").save(1, {"x": np.arange(3)}, {})
    steps = TrainingCheckpoints("runs/steps")
    assert steps.latest() == (1, {})
    np.testing.assert_array_equal(steps.restore(1, {"x": np.zeros(3, np.int64)})["x"], [0, 1, 2])


def test_bfloat16_weights_stay_bfloat16(tmp_path, base):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base.params)
    save_model(tmp_path / "m", base.info, params, base.tokenizer)
    loaded = load_model(tmp_path / "m").params
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(jnp.bfloat16)}
    assert weights_digest(loaded) == weights_digest(params)


def test_model_loads_on_a_mesh(tmp_path, base):
    save(tmp_path / "m", base)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    shardings = param_shardings(base.info.config, mesh, DECODING_RULES)
    loaded = load_model(tmp_path / "m", shardings=shardings)
    assert jax.tree.map(lambda x: x.sharding, loaded.params) == shardings
    assert weights_digest(loaded.params) == weights_digest(base.params)


@pytest.mark.parametrize(
    ("direction", "allowed", "text"),
    [
        ("backward", {"forward", "base"}, "is a backward model; this task needs forward or base"),
        ("forward", {"backward"}, "is a forward model; this task needs backward"),
        ("base", ["forward"], "is a base model; this task needs forward"),
    ],
)
def test_a_task_refuses_the_other_direction(tmp_path, base, direction, allowed, text):
    save(tmp_path / "m", base, direction)
    with pytest.raises(UserError, match=text):
        load_model(tmp_path / "m", directions=allowed)
    assert load_model(tmp_path / "m", directions={direction}).info.direction == direction


def test_wrong_direction_or_weights_are_not_saved(tmp_path, base):
    with pytest.raises(ValueError, match="sideways"):
        save(tmp_path / "m", base, "sideways")
    with pytest.raises(ValueError, match="final_norm"):
        save_model(tmp_path / "m", base.info, {k: v for k, v in base.params.items() if k != "final_norm"}, base.tokenizer)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_each_damaged_file_of_a_model_is_named(tmp_path, base, kind):
    folder = tmp_path / "m"
    save(folder, base)
    names = files_of(folder)
    assert {"model.json", "checksums.json", "tokenizer.json", "tokenizer_config.json"} < set(names) and len(names) > 8
    for name in names:
        original = (folder / name).read_bytes()
        if not original and kind != "remove":
            continue
        damage(folder / name, kind)
        with pytest.raises(UserError, match=name.split("/")[-1]):
            load_model(folder)
        (folder / name).write_bytes(original)
    load_model(folder)


def test_any_flipped_bit_of_the_checksums_is_seen_and_named(tmp_path, base):
    folder = tmp_path / "m"
    save(folder, base)
    whole = (folder / "checksums.json").read_bytes()
    for place in range(0, len(whole), 7):  # names, sizes, digests, keys, and the space between them
        changed = bytearray(whole)
        changed[place] ^= 1
        (folder / "checksums.json").write_bytes(changed)
        with pytest.raises(UserError, match=r"checksums\.json"):
            load_model(folder)


def test_folders_that_are_no_models(tmp_path):
    with pytest.raises(UserError, match="no such model folder"):
        load_model(tmp_path / "none")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text('{"format_version": 2}')
    with pytest.raises(UserError, match="format_version is 2"):
        load_model(tmp_path / "m")
    (tmp_path / "m" / "model.json").write_text("[]")
    with pytest.raises(UserError, match="not the description of a model"):
        load_model(tmp_path / "m")


def test_a_save_that_was_killed_starts_over(tmp_path, base):
    folder = tmp_path / "m"
    save(folder, base, "backward")
    (folder / "checksums.json").unlink()
    (folder / "weights.orbax-checkpoint-tmp").mkdir()
    (folder / "weights.orbax-checkpoint-tmp" / "part").write_text("half")
    (folder / "weights" / "part").write_text("half")
    (folder / "metrics-0.jsonl").write_text("another's file")
    save(folder, base, "forward")
    assert load_model(folder).info.direction == "forward"
    assert "weights/part" not in files_of(folder) and not (folder / "weights.orbax-checkpoint-tmp").exists()
    assert (folder / "metrics-0.jsonl").read_text() == "another's file"


def test_digest_sees_one_bit_and_not_where_the_array_lies(base):
    digest = weights_digest(base.params)
    assert digest["layers/1/q"] != digest["layers/0/q"]
    assert weights_digest(jax.tree.map(jnp.asarray, base.params)) == digest
    base.params["layers"]["1"]["q"] = base.params["layers"]["1"]["q"].copy()
    base.params["layers"]["1"]["q"].view(np.uint8).flat[5] ^= 1
    changed = weights_digest(base.params)
    assert [name for name in digest if digest[name] != changed[name]] == ["layers/1/q"]


# Training checkpoints.


def tree(value: float) -> dict:
    return {"w": jnp.full((4, 6), value), "n": jnp.full((3,), value), "step": jnp.int32(value)}


def shapes(state: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def test_latest_of_none(tmp_path):
    assert TrainingCheckpoints(tmp_path / "c").latest() is None


def test_the_last_two_are_kept(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    for step in (2, 4, 6, 8):
        checkpoints.save(step, tree(step), {"at": step})
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["00000006", "00000008"]
    again = TrainingCheckpoints(tmp_path / "c")
    assert again.latest() == (8, {"at": 8})
    assert again.restore(8, shapes(tree(0)))["w"].tolist() == tree(8)["w"].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_any_file_falls_back_to_the_step_before(tmp_path, kind, caplog):
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    for step in (4, 8):
        checkpoints.save(step, tree(step), {"at": step})
    newest = tmp_path / "c" / "00000008"
    names = files_of(newest)
    assert {"checksums.json", "meta.json"} < set(names) and len(names) > 8
    for name in names:
        original = (newest / name).read_bytes()
        if not original and kind != "remove":
            continue
        damage(newest / name, kind)
        caplog.clear()
        again = TrainingCheckpoints(tmp_path / "c")
        assert again.latest() == (4, {"at": 4}), name
        assert "step 8 is not used" in caplog.text and name.split("/")[-1] in caplog.text
        assert again.restore(4, shapes(tree(0)))["w"].tolist() == tree(4)["w"].tolist()
        with pytest.raises(UserError, match="step 8"):
            again.restore(8, shapes(tree(0)))
        (newest / name).write_bytes(original)
    assert TrainingCheckpoints(tmp_path / "c").latest() == (8, {"at": 8})


def test_a_file_too_many_counts_as_damage(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    checkpoints.save(4, tree(4), {})
    (tmp_path / "c" / "00000004" / "state" / "more").write_text("x")
    assert TrainingCheckpoints(tmp_path / "c").latest() is None


def test_a_damaged_newer_step_never_pushes_out_a_good_one(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    for step in (4, 8):
        checkpoints.save(step, tree(step), {})
    damage(tmp_path / "c" / "00000008" / "meta.json", "flip")
    again = TrainingCheckpoints(tmp_path / "c")
    assert again.latest()[0] == 4
    again.save(6, tree(6), {})
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["00000004", "00000006"]
    assert TrainingCheckpoints(tmp_path / "c").latest()[0] == 6


def test_a_step_is_saved_anew_over_its_damaged_self(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    checkpoints.save(4, tree(4), {"try": 1})
    damage(tmp_path / "c" / "00000004" / "checksums.json", "truncate")
    again = TrainingCheckpoints(tmp_path / "c")
    assert again.latest() is None
    again.save(4, tree(5), {"try": 2})
    assert again.latest() == (4, {"try": 2})
    assert again.restore(4, shapes(tree(0)))["w"].tolist() == tree(5)["w"].tolist()


KILLED = """
import os, sys
from humpback import storage
from humpback.training import checkpoint
import jax.numpy as jnp
checkpoints = checkpoint.TrainingCheckpoints(sys.argv[1])
checkpoints.save(1, {"w": jnp.ones(4)}, {})
before = getattr(*{"state": (checkpoint.ocp, "save"), "meta": (storage, "publish_json")}[sys.argv[2]])
def die(path, *rest, **more):
    if sys.argv[2] == "state":  # as Orbax dies in the middle: under its temporary name
        os.makedirs(f"{path}.orbax-checkpoint-tmp/d")
    os.kill(os.getpid(), 9)
setattr(checkpoint.ocp if sys.argv[2] == "state" else storage, before.__name__, die)
checkpoints.save(2, {"w": jnp.zeros(4)}, {})
"""


@pytest.mark.parametrize("where", ["state", "meta"])
def test_a_process_killed_in_a_save_leaves_the_step_before(tmp_path, where, caplog):
    code = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "c"), where], check=False, cwd=os.getcwd()).returncode
    assert code == -signal.SIGKILL
    assert (tmp_path / "c" / "00000002").exists()
    again = TrainingCheckpoints(tmp_path / "c")
    assert not list((tmp_path / "c").rglob("*orbax-checkpoint-tmp*"))
    assert again.latest() == (1, {})
    assert "step 2 is not used" in caplog.text
    again.save(2, {"w": jnp.zeros(4)}, {})
    assert again.latest() == (2, {})


def test_state_saved_on_one_mesh_is_restored_on_others(tmp_path, base, finetune):
    cfg = base.info.config
    optimizer = make_optimizer(finetune(), 8)

    def state_on(mesh):
        params = place_params(cfg, base.params, mesh)
        grads = jax.tree.map(jnp.sin, params)
        return {"params": params, "opt": optimizer.update(grads, optimizer.init(params), params)[1], "step": jnp.int32(3)}

    wide = make_mesh(data=1, fsdp=4, tensor=2)
    saved = state_on(wide)
    assert len(saved["params"]["layers"]["q"].addressable_shards[0].data.flatten()) * 8 == saved["params"]["layers"]["q"].size
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    checkpoints.save(3, saved, {})
    for mesh in (make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:4]), make_mesh(devices=jax.devices()[:1])):
        wanted = state_shapes(cfg, optimizer, mesh)
        restored = checkpoints.restore(3, wanted)
        assert jax.tree.structure(restored) == jax.tree.structure(saved)
        for leaf, shape, original in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), jax.tree.leaves(saved)):
            assert leaf.sharding == shape.sharding
            assert np.asarray(leaf).tobytes() == np.asarray(original).tobytes()
    assert param_shardings(cfg, wide, TRAINING_RULES, stacked=True) == jax.tree.map(lambda x: x.sharding, saved["params"])


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    from humpback.training import checkpoint

    def full(*_, **__):
        raise ValueError('RESOURCE_EXHAUSTED: Error writing "x": [OS error 28: ENOSPC No space left on device]')

    checkpoints = TrainingCheckpoints(tmp_path / "c")
    checkpoints.save(4, tree(4), {})
    monkeypatch.setattr(checkpoint.ocp, "save", full)
    with pytest.raises(UserError, match="no room left on the disk"):
        checkpoints.save(8, tree(8), {})
    assert TrainingCheckpoints(tmp_path / "c").latest() == (4, {})
