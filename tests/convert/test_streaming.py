"""No conversion holds more than a few tensors, whatever the model's size; each process of a pod reads its own part alone."""

import dataclasses
import json
import pathlib
import sys
import weakref

import jax
import numpy as np
import pytest

from humpback.commands import convert as command
from humpback.convert import export, names, sources
from humpback.convert.lazy_model import LazyModel
from humpback.errors import UserError
from humpback.model import sharding
from humpback.model.weights import leaves, make_tree
from humpback.models import folders
from humpback.training import placement
from tests import kills, tiny
from tests.in_memory import from_params


def test_only_a_few_tensors_are_held_at_once(tmp_path):
    """Twelve layers of matrices of half a megabyte: both ways at most three times the largest weight is alive."""
    cfg = dataclasses.replace(tiny.CONFIG, num_layers=12, d_model=256, d_ff=512, head_dim=64)
    alive, most = [0], [0]

    def made(path: names.Path) -> np.ndarray:
        sizes = dict(leaves(cfg))[path].sizes(cfg)
        owner = np.full(sizes, len("/".join(path)), np.float32)  # not an array of anybody else's memory
        alive[0] += owner.nbytes
        most[0] = max(most[0], alive[0])
        weakref.finalize(owner, lambda size: alive.__setitem__(0, alive[0] - size), owner.nbytes)
        return owner

    model = LazyModel(config=cfg, tokenizer=tiny.make_tokenizer(), read=made, dtype=lambda path: "float32")
    info = folders.ModelInfo(cfg, "base", "chatml")
    largest = 4 * max(int(np.prod(weight.sizes(cfg))) for _, weight in leaves(cfg))
    whole = 4 * sum(int(np.prod(weight.sizes(cfg))) for _, weight in leaves(cfg))
    assert whole > 12 * largest
    folders.save_streamed(tmp_path / "ours", info, made, lambda path: np.float32, model.tokenizer)
    assert 0 < most[0] <= 3 * largest
    most[0] = 0
    export.write_folder(str(tmp_path / "hf"), model, export.Beside("chatml", "base"))
    assert 0 < most[0] <= 3 * largest
    found = folders.load_model(tmp_path / "ours").params
    assert found["layers"]["11"]["down"].shape == (512, 256) and np.all(found["layers"]["11"]["down"] == len("layers/11/down"))


def test_weights_left_on_disk_are_those_in_memory(tmp_path):
    """For a mesh that cannot split the vocabulary as well, and read in any order."""
    cfg = dataclasses.replace(tiny.CONFIG, vocab_size=513)
    rng = np.random.default_rng(0)
    params = make_tree(cfg, lambda path, weight: rng.normal(size=weight.sizes(cfg)).astype(np.float32))
    folders.save_model(tmp_path, folders.ModelInfo(cfg, "base", "chatml"), params, tiny.make_tokenizer())
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    placed = placement.unstacked_shardings(cfg, mesh)
    lazy = folders.load_model(tmp_path, shardings=placed, whole=False).params
    with jax.set_mesh(mesh):
        one, other = (placement.place_params(cfg, tree, mesh) for tree in (lazy, params))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.sharding == b.sharding and np.array_equal(a, b)
    opened = sources.open_source(str(tmp_path))
    for path, _ in reversed(list(leaves(cfg))):
        found = opened.read(path)
        assert str(found.dtype) == opened.dtype(path) == "float32"
        assert np.array_equal(found, params[path[0]] if len(path) == 1 else params["layers"][path[1]][path[2]])


# A model of 53 MB goes into a model folder, and from there onto a mesh of both processes, each of one device.
POD = """
import json, pathlib, sys
import jax
from humpback import distributed
from humpback.errors import UserError
distributed.start()
from humpback.models import weight_files
weight_files._CHUNK_BYTES = 1 << 17  # as many in these matrices of 1 to 4 MB as there are in real ones
from humpback.commands.convert import convert
from humpback.model import sharding
from humpback.models import folders
from humpback.training import placement
def read():
    return int(pathlib.Path("/proc/self/io").read_text().split()[1])
folder = pathlib.Path(sys.argv[1])
convert(str(folder / "hf"), str(folder / "ours"))
convert(str(folder / "ours"), str(folder / "again"))
cfg, mesh = folders.read_info(folder / "ours").config, sharding.make_mesh(fsdp=2)
before = read()
model = folders.load_model(folder / "ours", shardings=placement.unstacked_shardings(cfg, mesh), whole=False)
verified = read() - before
params = placement.place_params(cfg, model.params, mesh)
first = [float(x.addressable_shards[0].data.reshape(-1)[0]) for x in jax.tree.leaves(params)]
result = {"verified": verified, "read": read() - before - verified, "first": first}
distributed.barrier("before the damage")
if jax.process_index() == 0:
    for file in sorted((folder / "ours" / "weights").rglob("*"), key=lambda path: -path.stat().st_size)[:1]:
        data = bytearray(file.read_bytes())
        data[-1000] ^= 1
        file.write_bytes(data)
distributed.barrier("damaged")
try:
    folders.load_model(folder / "ours")
except UserError as error:
    result["error"] = str(error)
(folder / f"result-{jax.process_index()}.json").write_text(json.dumps(result))
distributed.barrier("done")
"""


def test_each_process_of_a_pod_reads_its_own_part(tmp_path):
    cfg = dataclasses.replace(tiny.CONFIG, d_model=1024, head_dim=256, d_ff=1024)
    rng = np.random.default_rng(0)
    params = make_tree(cfg, lambda path, weight: rng.normal(size=weight.sizes(cfg)).astype(np.float32))
    model = from_params(cfg, params, tiny.make_tokenizer())
    export.write_folder(str(tmp_path / "hf"), model, export.Beside("chatml", "base"))
    (tmp_path / "pod.py").write_text(POD)
    launcher = [sys.executable, "launch/local_pod.py", "--processes=2", "--devices=1", "--", "python"]
    kills.finish([*launcher, str(tmp_path / "pod.py"), str(tmp_path)])
    results = [json.loads((tmp_path / f"result-{i}.json").read_text()) for i in range(2)]
    size = sum(array.nbytes for array in jax.tree.leaves(params))
    for result in results:
        assert 0.2 * size < result["verified"] < 0.8 * size
        assert 0.45 * size < result["read"] < 0.65 * size
        assert "damaged" in result["error"]
    assert results[0]["error"] == results[1]["error"] and results[0]["first"] != results[1]["first"]
    again = folders.load_model(tmp_path / "again").params
    assert folders.weights_digest(again) == folders.weights_digest(params)


def test_a_conversion_to_a_full_disk_says_so(tmp_path, monkeypatch):
    """Whichever file it is that finds no room."""
    tiny.make_base(tmp_path / "base")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for module, name in ((command.folders.weight_files.ocp.partial, "save_async"), (command.folders.checksums, "publish")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises((UserError, OSError), match=r"No space left|no room left"):
                command.convert(str(tmp_path / "base"), str(tmp_path / "target"))
        with pytest.raises(UserError):
            sources.open_source(str(tmp_path / "target"))
    command.convert(str(tmp_path / "base"), str(tmp_path / "target"))
    assert pathlib.Path(tmp_path / "target" / "checksums.json").exists()
