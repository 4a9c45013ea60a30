"""Folders that hold adapters alone: read as plain weights, from wherever their base is, and from no other one."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from humpback import storage
from humpback.errors import UserError
from humpback.model import adapters, sharding
from humpback.model.adapters import Lora
from humpback.models import checksums, folders
from tests.training import case

LORA = Lora(3, 6.0, ("q", "o", "down"), "float32")


def write(path, base_type="float32", dtype=np.float32):
    """(base, unstacked adapters) in path/base and path/forward."""
    base = case.make_base()
    base = dataclasses.replace(base, params=jax.tree.map(lambda x: x.astype(dtype), base.params))
    folders.save_model(path / "base", base.info, base.params, base.tokenizer)
    lora = dataclasses.replace(LORA, base=base_type)
    made = adapters.init(case.CONFIG, lora, jax.random.key(0))
    made = jax.tree.map(np.asarray, adapters.unstack(case.CONFIG, jax.tree.map(lambda x: x + 0.01, made)))
    digest = folders.digest_of(folders.weights_digest(base.params))
    adapter = folders.adapter_beside(path / "forward", path / "base", lora, digest)
    info = folders.ModelInfo(case.CONFIG, "forward", "plain", adapter)
    folders.save_model(path / "forward", info, made, base.tokenizer)
    return base, made


def added(made, layer, name):
    pair = made["layers"][layer][name]
    return LORA.scale * (pair["a"].reshape(-1, 3) @ pair["b"].reshape(3, -1))


def test_adapters_are_read_as_plain_weights(tmp_path):
    base, made = write(tmp_path)
    model = folders.load_model(tmp_path / "forward")
    assert model.info.direction == "forward" and model.info.adapter.base == "../base"
    for layer, weights in model.params["layers"].items():
        for name, weight in weights.items():
            wanted = base.params["layers"][layer][name]
            if name in LORA.names:
                assert np.abs(weight - (wanted + added(made, layer, name).reshape(wanted.shape))).max() < 1e-6
            else:
                assert weight.tobytes() == wanted.tobytes()
    assert model.params["embedding"].tobytes() == base.params["embedding"].tobytes()
    lazy = folders.load_model(tmp_path / "forward", whole=False).params
    assert np.array_equal(lazy["layers"]["1"]["q"], model.params["layers"]["1"]["q"])
    mesh = sharding.make_mesh(1, 4, 2)
    placed = folders.load_model(tmp_path / "forward", shardings=sharding.unpadded_shardings(case.CONFIG, mesh, sharding.TRAINING_RULES))
    assert placed.params["layers"]["0"]["down"].sharding.spec == jax.P("tensor", "fsdp")
    assert np.abs(np.asarray(placed.params["layers"]["0"]["down"]) - model.params["layers"]["0"]["down"]).max() < 1e-6


@pytest.mark.parametrize("base_type", ["bfloat16", "int8"])
def test_merged_weights_are_rounded_once_to_bfloat16(tmp_path, base_type):
    write(tmp_path, base_type)
    rounded = folders.load_model(tmp_path / "forward").params
    exact = folders.load_model(tmp_path / "forward", exact=True).params
    for one, other in zip(jax.tree.leaves(exact), jax.tree.leaves(rounded), strict=True):
        assert one.dtype == np.float32 and other.dtype == jnp.bfloat16
        assert np.array_equal(one.astype(jnp.bfloat16), other)
    differs = np.abs(exact["layers"]["0"]["k"] - case.make_base().params["layers"]["0"]["k"]).max()
    assert 0 < differs < (5e-3 if base_type == "bfloat16" else 2e-2)


def test_a_run_may_be_moved_and_a_base_lie_elsewhere(tmp_path):
    write(tmp_path / "run")
    wanted = folders.load_model(tmp_path / "run" / "forward").params["layers"]["0"]["q"]
    (tmp_path / "run").rename(tmp_path / "moved")
    assert np.array_equal(folders.load_model(tmp_path / "moved" / "forward").params["layers"]["0"]["q"], wanted)
    base = folders.load_model(tmp_path / "moved" / "base")
    folders.save_model(tmp_path / "again", base.info, base.params, base.tokenizer)  # files of other names, of the same weights
    shutil.rmtree(tmp_path / "moved" / "base")
    with pytest.raises(UserError, match=r"holds adapters alone.*moved/base, and no model folder is there; .*--base="):
        folders.load_model(tmp_path / "moved" / "forward")
    assert np.array_equal(folders.load_model(tmp_path / "moved" / "forward", base=tmp_path / "again").params["layers"]["0"]["q"], wanted)
    with pytest.raises(UserError, match="holds all weights, so it takes no --base"):
        folders.load_model(tmp_path / "again", base=tmp_path / "again")


@pytest.mark.parametrize("change", ["weights", "sizes"])
def test_another_base_is_refused(tmp_path, change):
    write(tmp_path)
    other = case.make_base() if change == "weights" else case.make_base(dataclasses.replace(case.CONFIG, num_layers=1))
    other.params["final_norm"][3] += 1e-6
    folders.save_model(tmp_path / "base", other.info, other.params, other.tokenizer)
    why = "other weights are there" if change == "weights" else "a model of another kind is there"
    with pytest.raises(UserError, match=rf"holds adapters alone; .*{why}; give its model folder with --base="):
        folders.load_model(tmp_path / "forward")


def test_a_damaged_base_is_named(tmp_path):
    write(tmp_path)
    file = max((tmp_path / "base" / "weights").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"base/weights.*damaged"):
        folders.load_model(tmp_path / "forward")


def test_the_folders_digest_is_that_of_adapters_and_base(tmp_path):
    write(tmp_path)
    folder = epath.Path(tmp_path / "forward")
    before = checksums.digest_of(folder)
    description = storage.read_json(folder / "model.json")
    description["adapter"]["weights"] = "0" * 64
    storage.publish_json(folder / "model.json", description, replace=True)
    checksums.publish(folder, list(checksums.read(folder)))
    assert checksums.digest_of(folder) != before


def test_adapters_that_do_not_fit_are_not_saved_nor_read(tmp_path):
    base, made = write(tmp_path)
    info = folders.read_info(tmp_path / "forward")
    del made["layers"]["1"]["o"]
    with pytest.raises(ValueError, match="missing adapter layers/1/o/a"):
        folders.save_model(tmp_path / "wrong", info, made, base.tokenizer)
    file = tmp_path / "forward" / "model.json"
    storage.publish_json(file, storage.read_json(file) | {"adapter": {"rank": 3}}, replace=True)
    with pytest.raises(UserError, match=r"model.json: not the description of a model"):
        folders.read_info(tmp_path / "forward")
