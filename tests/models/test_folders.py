"""Model folders: exact round trips, other meshes, and every kind of damage."""

import json
from pathlib import Path

import google_crc32c
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.errors import UserError
from humpback.model.sharding import DECODING_RULES, make_mesh, param_shardings
from humpback.models.folders import ModelInfo, load_model, save_model, weights_digest
from tests.damage import KINDS, damage, files_of


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
        "direction": "forward", "wrapper": "chatml", "format_version": 2,
    }  # fmt: skip


def test_relative_paths_work_as_well(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("runs/model"), base)
    assert weights_digest(load_model("runs/model").params) == weights_digest(base.params)


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
    (tmp_path / "m" / "model.json").write_text('{"format_version": 1}')
    with pytest.raises(UserError, match="format_version is 1"):
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


def test_checksums_are_crc32c(tmp_path, base):
    assert google_crc32c.implementation == "c"  # the other one takes minutes for what this one does in a second
    save(tmp_path / "m", base)
    files = json.loads((tmp_path / "m" / "checksums.json").read_text())["files"]
    assert sorted(files) == [name for name in files_of(tmp_path / "m") if name != "checksums.json"]
    for name, entry in files.items():
        data = (tmp_path / "m" / name).read_bytes()
        assert entry == {"size": len(data), "crc32c": f"{google_crc32c.value(data):08x}"}
