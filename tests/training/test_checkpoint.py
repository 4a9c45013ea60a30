"""The checkpoints of a training: exact round trips, other meshes, and every kind of damage."""

import asyncio
import concurrent.futures
import errno
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint._src.serialization import jax_array_handlers

from humpback import storage
from humpback.errors import UserError
from humpback.locks import Anybody
from humpback.model.sharding import make_mesh
from humpback.models import weight_files
from humpback.training import checkpoint
from humpback.training.checkpoint import TrainingCheckpoints
from humpback.training.optimizer import make_optimizer
from humpback.training.update import state_shapes
from tests.damage import KINDS, damage, files_of


def tree(value: float) -> dict:
    return {"w": jnp.full((4, 6), value), "n": jnp.full((3,), value), "step": jnp.int32(value)}


def shapes(state: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def kept(path: Path) -> list[int]:
    return sorted(int(folder.name) for folder in path.iterdir())


def made(path: Path, *steps: int, **fields) -> TrainingCheckpoints:
    """Checkpoints of `steps`, all whole."""
    checkpoints = TrainingCheckpoints(path, **fields)
    for step in steps:
        checkpoints.save(step, tree(step), {"at": step})
    checkpoints.wait()
    return checkpoints


class Made(Anybody):
    """A maker of something by name."""

    def __init__(self, identity: str, *others: str):
        self.identity, self.identities, self.lock, self.asked = identity, {identity, *others}, 3, 0

    def check(self) -> None:
        self.asked += 1


def test_a_step_says_what_it_was_made_from(tmp_path):
    """It is continued by what may, before anything of it is deleted who saves is asked whether it still may."""
    maker, state = Made("one"), {"w": np.zeros(3)}
    checkpoints = TrainingCheckpoints(tmp_path / "c", maker=maker)
    checkpoints.save(1, state, {"at": 1})
    checkpoints.wait()
    assert maker.asked == 1
    described = json.loads((tmp_path / "c" / "00000001" / "meta.json").read_text())
    assert described == {"meta": {"at": 1}, "best": False, "made_from": "one", "lock": 3}
    assert TrainingCheckpoints(tmp_path / "c", maker=Made("two", "one")).latest() == (1, {"at": 1})
    with pytest.raises(UserError, match=r"00000001: was not made from what this training is made from; delete .*/c to begin anew"):
        TrainingCheckpoints(tmp_path / "c", maker=Made("two")).latest()


def test_relative_paths_work_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = TrainingCheckpoints("runs/steps")
    steps.save(1, {"x": np.arange(3)}, {})
    assert steps.latest() == (1, {})
    np.testing.assert_array_equal(steps.restore(1, {"x": np.zeros(3, np.int64)})["x"], [0, 1, 2])


def test_none(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    checkpoints.wait()
    assert checkpoints.latest() is None and checkpoints.best() is None


@pytest.mark.parametrize("fields", [{"keep_last": 0}, {"keep_every": -1}])
def test_numbers_that_make_no_sense(tmp_path, fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))} = {next(iter(fields.values()))}"):
        TrainingCheckpoints(tmp_path / "c", **fields)


def test_the_last_two_are_kept(tmp_path):
    made(tmp_path / "c", 2, 4, 6, 8)
    assert kept(tmp_path / "c") == [6, 8]
    again = TrainingCheckpoints(tmp_path / "c")
    assert again.latest() == (8, {"at": 8})
    assert again.restore(8, shapes(tree(0)))["w"].tolist() == tree(8)["w"].tolist()


def test_the_last_every_third_and_the_best_are_kept(tmp_path):
    path = tmp_path / "c"
    checkpoints = TrainingCheckpoints(path, keep_last=1, keep_every=3)
    folders = []
    for step in range(1, 6):
        checkpoints.save(step, tree(step), {"best": "the caller's own"}, best=step in (1, 4))
        checkpoints.wait()
        folders.append(kept(path))
    assert folders == [[1], [1, 2], [1, 3], [3, 4], [3, 4, 5]]
    assert checkpoints.best() == (4, {"best": "the caller's own"})
    again = TrainingCheckpoints(path, keep_last=2, keep_every=3)  # after a stop, with other wishes
    for step in (6, 7, 8):
        again.save(step, tree(step), {})
    again.wait()
    assert kept(path) == [3, 4, 6, 7, 8]
    assert again.best()[0] == 4 and again.latest() == (8, {})
    assert again.restore(4, shapes(tree(0)))["w"].tolist() == tree(4)["w"].tolist()
    again.save(9, tree(9), {}, best=True)
    assert again.best() == (9, {})
    assert kept(path) == [3, 6, 8, 9]


@pytest.mark.parametrize("name", ["meta.json", "checksums.json", "state/state/manifest.ocdbt"])
def test_a_damaged_best_is_named_and_the_one_before_is_used(tmp_path, name, caplog):
    checkpoints = TrainingCheckpoints(tmp_path / "c", keep_every=1)
    for step in (1, 2, 3):
        checkpoints.save(step, tree(step), {"at": step}, best=step < 3)
    checkpoints.wait()
    damage(tmp_path / "c" / "00000002" / name, "truncate")
    again = TrainingCheckpoints(tmp_path / "c")
    assert again.best() == (1, {"at": 1})
    assert "step 2 is not used" in caplog.text and "step 3" not in caplog.text
    again.save(4, tree(4), {})
    again.wait()
    assert kept(tmp_path / "c") == [1, 3, 4]


@pytest.mark.parametrize("where", ["one device", "sharded", "replicated"])
def test_what_is_saved_is_the_state_of_that_moment(tmp_path, monkeypatch, where):
    """The state is donated and overwritten before Orbax begins to write it, as the next train steps may do."""
    mesh = make_mesh(fsdp=8)
    place = {
        "one device": jax.sharding.SingleDeviceSharding(jax.devices()[0]),
        "sharded": NamedSharding(mesh, PartitionSpec("fsdp")),
        "replicated": NamedSharding(mesh, PartitionSpec()),
    }[where]

    @functools.partial(jax.jit, out_shardings=place)
    def make(first):  # by the devices: of an array that numpy looks at JAX does not reuse the memory
        return {"w": first + jnp.arange(float(1 << 21)).reshape(1_024, -1)}  # 8 MB

    update = jax.jit(lambda state: {"w": state["w"] * 1.5 + 1}, donate_argnums=0, out_shardings=place)
    addresses = lambda state: [shard.data.unsafe_buffer_pointer() for shard in state["w"].addressable_shards]  # noqa: E731
    state = make(9)
    before = addresses(state)
    assert addresses(update(state)) == before  # what follows is worth nothing when it is not done in place

    write, overwritten, written = jax_array_handlers._async_serialize_replica_slices, threading.Event(), []

    async def write_late(*arguments, **options):
        await asyncio.to_thread(overwritten.wait)
        written.append(await write(*arguments, **options))

    monkeypatch.setattr(jax_array_handlers, "_async_serialize_replica_slices", write_late)
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    for step in (1, 2, 3):
        overwritten.clear()
        state = make(step)
        checkpoints.save(step, state, {})
        for _ in range(3):
            state = update(state)
        jax.block_until_ready(state)
        overwritten.set()
        wanted = make(step)
        restored = checkpoints.restore(step, shapes(wanted))
        assert np.array_equal(np.asarray(restored["w"]).view(np.int32), np.asarray(wanted["w"]).view(np.int32))
        assert len(written) == step


def test_arrays_of_numpy_may_be_overwritten_as_well(tmp_path):
    state = {"w": np.arange(1 << 22)}
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    checkpoints.save(1, state, {})
    state["w"] += 1
    assert np.array_equal(checkpoints.restore(1, state)["w"], np.arange(1 << 22))


def test_reading_waits_for_the_save_in_flight(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    checkpoints.save(4, tree(4), {}, best=True)
    assert checkpoints.latest() == (4, {})
    checkpoints.save(8, tree(8), {}, best=True)
    assert checkpoints.best() == (8, {})
    checkpoints.save(12, tree(12), {})
    assert checkpoints.restore(12, shapes(tree(0)))["w"].tolist() == tree(12)["w"].tolist()


class FailingSave:
    """What Orbax gives back for a save that will fail."""

    def __init__(self, error: Exception):
        self.error = error

    def result(self) -> None:
        raise self.error


@pytest.mark.parametrize("place", ["state", "meta", "checksums"])
def test_an_error_in_the_background_is_raised_before_anything_is_deleted(tmp_path, monkeypatch, place):
    def broken(*_):
        raise RuntimeError("cable unplugged")

    path = tmp_path / "c"
    checkpoints = made(path, 2, 4)
    with monkeypatch.context() as patch:
        if place == "state":
            patch.setattr(checkpoint.ocp, "save_async", lambda *_: FailingSave(RuntimeError("cable unplugged")))
        else:
            patch.setattr(*{"meta": (storage, "publish_json"), "checksums": (storage, "crc32c_file")}[place], broken)
        checkpoints.save(6, tree(6), {})
        concurrent.futures.wait([checkpoints._saving])  # before the patch ends
    with pytest.raises(RuntimeError, match="cable unplugged"):
        checkpoints.save(8, tree(8), {})
    assert not (path / "00000008").exists() and {2, 4} <= set(kept(path))
    checkpoints.wait()  # it was told once
    assert TrainingCheckpoints(path).latest() == (4, {"at": 4})
    checkpoints.save(8, tree(8), {})
    checkpoints.wait()
    assert kept(path) == [4, 8]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_any_file_falls_back_to_the_step_before(tmp_path, kind, caplog):
    made(tmp_path / "c", 4, 8)
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
    checkpoints = made(tmp_path / "c", 4)
    (tmp_path / "c" / "00000004" / "state" / "more").write_text("x")
    assert checkpoints.latest() is None  # it is looked at each time, since a training takes days


def test_a_damaged_newer_step_never_pushes_out_a_good_one(tmp_path):
    made(tmp_path / "c", 4, 8)
    damage(tmp_path / "c" / "00000008" / "meta.json", "flip")
    again = TrainingCheckpoints(tmp_path / "c")
    assert again.latest()[0] == 4
    again.save(6, tree(6), {})
    again.wait()
    assert kept(tmp_path / "c") == [4, 6]
    assert TrainingCheckpoints(tmp_path / "c").latest()[0] == 6


def test_steps_of_before_are_looked_at_before_others_are_deleted(tmp_path):
    made(tmp_path / "c", 2, 4, 6, keep_last=3)
    damage(tmp_path / "c" / "00000006" / "meta.json", "flip")
    made(tmp_path / "c", 8, keep_last=3)  # without asking for the latest
    assert kept(tmp_path / "c") == [2, 4, 8]


@pytest.mark.parametrize("resumed", [False, True])
def test_of_a_whole_step_only_the_description_is_saved_anew(tmp_path, monkeypatch, resumed):
    """A stop may come between a step and the look at its loss. The step, here the only one, is whole at every moment."""
    path = tmp_path / "c"
    checkpoints = TrainingCheckpoints(path, keep_last=1)
    checkpoints.save(4, tree(4), {"loss": None})
    checkpoints.wait()
    if resumed:
        checkpoints = TrainingCheckpoints(path, keep_last=1)
        checkpoints.latest()
    found, observer = [], TrainingCheckpoints(path)

    def watch(patch, module, name):
        function = getattr(module, name)

        def call(*arguments, **options):
            function(*arguments, **options)
            found.append(observer.latest())

        patch.setattr(module, name, call)

    with monkeypatch.context() as patch:
        watch(patch, storage, "publish_json")
        watch(patch, weight_files, "remove")
        for loss in (1, 0):  # the first writes meta-again.json, the second meta.json
            checkpoints.save(4, {}, {"loss": loss}, best=True)
            checkpoints.wait()
    assert found == [(4, {"loss": loss}) for loss in (None, 1, 1, 1, 0, 0)]
    again = TrainingCheckpoints(path)
    assert again.best() == again.latest() == (4, {"loss": 0})
    assert again.restore(4, shapes(tree(0)))["w"].tolist() == tree(4)["w"].tolist()
    assert "meta.json" in files_of(path / "00000004") and "meta-again.json" not in files_of(path / "00000004")


def test_a_file_that_cannot_be_read_is_damage(tmp_path, monkeypatch):
    def lost(path):
        if path.name == "meta.json" and path.parent.name == "00000008":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    made(tmp_path / "c", 4, 8)
    read = storage.crc32c_file
    monkeypatch.setattr(storage, "crc32c_file", lost)
    assert TrainingCheckpoints(tmp_path / "c").latest() == (4, {"at": 4})


def test_a_step_is_saved_anew_over_its_damaged_self(tmp_path):
    made(tmp_path / "c", 4)
    damage(tmp_path / "c" / "00000004" / "checksums.json", "truncate")
    again = TrainingCheckpoints(tmp_path / "c")
    assert again.latest() is None
    again.save(4, tree(5), {"try": 2})
    assert again.latest() == (4, {"try": 2})
    assert again.restore(4, shapes(tree(0)))["w"].tolist() == tree(5)["w"].tolist()


ENDING = """
import os, sys
import jax.numpy as jnp
from orbax.checkpoint._src.serialization import jax_array_handlers
from humpback import storage
from humpback.models import weight_files
from humpback.training import checkpoint
def die(*_, **__):
    os.kill(os.getpid(), 9)
async def write_and_die(*arguments, write=jax_array_handlers._async_serialize_replica_slices, **options):
    await write(*arguments, **options)
    die()
def remove_and_die(path, remove=weight_files.remove):
    remove(path)
    die()
checkpoints = checkpoint.TrainingCheckpoints(sys.argv[1], keep_last=1)
checkpoints.save(1, {"w": jnp.ones(1 << 24)}, {})
checkpoints.wait()
if sys.argv[2] == "writing":
    jax_array_handlers._async_serialize_replica_slices = write_and_die
if sys.argv[2] == "meta":
    storage.publish_json = die
checkpoints.save(2, {"w": jnp.zeros(1 << 24)}, {})
if sys.argv[2] == "deleting":
    weight_files.remove = remove_and_die
if sys.argv[2] != "no wait":
    checkpoints.wait()
"""


@pytest.mark.parametrize(("where", "expected"), [("writing", {1}), ("meta", {1}), ("deleting", {2}), ("no wait", {1, 2})])
def test_a_process_that_ends_in_a_save_leaves_a_whole_step(tmp_path, where, expected, caplog):
    path = tmp_path / "c"
    command = [sys.executable, "-c", ENDING, str(path), where]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)  # Orbax may take minutes
    assert ended.returncode == (0 if where == "no wait" else -signal.SIGKILL), ended.stderr
    if where == "writing":
        assert list(path.rglob("*orbax-checkpoint-tmp*"))
    again = TrainingCheckpoints(path)
    assert not list(path.rglob("*orbax-checkpoint-tmp*"))
    whole, meta = again.latest()
    assert whole in expected and meta == {} and {1, 2} >= set(kept(path)) >= {2}
    assert np.all(again.restore(whole, {"w": np.zeros(1 << 24, np.float32)})["w"] == 2 - whole)
    assert ("step 2 is not used" in caplog.text) == (whole == 1)
    again.save(3, {"w": jnp.zeros(4)}, {})
    again.wait()
    assert kept(path) == [whole, 3]


def test_state_saved_on_one_mesh_is_restored_on_others(tmp_path, base, finetune):
    cfg, optimizer = base.info.config, make_optimizer(finetune())
    wide = state_shapes(cfg, optimizer, make_mesh(data=1, fsdp=4, tensor=2))

    @functools.partial(jax.jit, out_shardings=jax.tree.map(lambda x: x.sharding, wide))
    def make():
        return jax.tree.map(lambda x: jnp.sin(jnp.arange(math.prod(x.shape)) * 9.0).reshape(x.shape).astype(x.dtype), wide)

    saved = make()
    assert saved["params"]["layers"]["q"].addressable_shards[0].data.size * 8 == saved["params"]["layers"]["q"].size
    checkpoints = TrainingCheckpoints(tmp_path / "c")
    checkpoints.save(3, saved, {})
    for mesh in (make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:4]), make_mesh(devices=jax.devices()[:1])):
        wanted = state_shapes(cfg, optimizer, mesh)
        restored = checkpoints.restore(3, wanted)
        assert jax.tree.structure(restored) == jax.tree.structure(saved)
        for leaf, shape, original in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), jax.tree.leaves(saved)):
            assert leaf.sharding == shape.sharding
            assert np.asarray(leaf).tobytes() == np.asarray(original).tobytes()


def test_a_vocabulary_fits_the_padding_of_any_mesh_and_nothing_else_changes_its_size(tmp_path):
    """30 words, with `tensor` = 4 in 32 rows and with 1 in 30."""
    wide, alone = make_mesh(tensor=4, devices=jax.devices()[:4]), make_mesh(devices=jax.devices()[:1])

    def state(mesh, words=30, width=6):
        place = NamedSharding(mesh, PartitionSpec("tensor"))
        value = jnp.arange(30.0 * width).reshape(30, width)
        embedding = jax.device_put(jnp.pad(value, [(0, words - 30), (0, 0)]), place)
        weights = {"embedding": embedding, "final_norm": jnp.ones(width)}
        return {"params": weights, "opt": (optax.EmptyState(), weights)}

    checkpoints = TrainingCheckpoints(tmp_path / "c")
    checkpoints.save(1, state(wide, 32), {})
    checkpoints.save(2, state(alone), {})
    for step, wanted in ((1, state(alone)), (2, state(wide, 32))):
        restored = checkpoints.restore(step, shapes(wanted))
        assert jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y) and x.sharding == y.sharding, restored, wanted))
    for name, wrong in (("params/final_norm", (7,)), ("opt/1/embedding", (30, 7)), ("params/embedding", (30,))):
        wanted = shapes(state(alone))
        part = wanted["opt"][1] if name.startswith("opt") else wanted["params"]
        part[name.rpartition("/")[2]] = jax.ShapeDtypeStruct(wrong, jnp.float32, sharding=NamedSharding(alone, PartitionSpec()))
        with pytest.raises(UserError, match=f"{name} has the shape"):
            checkpoints.restore(1, wanted)


def sharded(mesh) -> dict:
    """The state of the test below on a mesh: one array in eight parts, one that is everywhere."""
    parts, whole = NamedSharding(mesh, PartitionSpec("fsdp", "tensor")), NamedSharding(mesh, PartitionSpec())
    return {
        "w": jax.ShapeDtypeStruct((64, 1 << 14), jnp.int32, sharding=parts),
        "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    }


SEVERAL = """
import sys
import jax
from humpback import distributed
from humpback.model.sharding import make_mesh
from humpback.training.checkpoint import TrainingCheckpoints
from tests.training.test_checkpoint import advance, sharded
distributed.start()
shapes = sharded(make_mesh(fsdp=4, tensor=2))
checkpoints = TrainingCheckpoints(sys.argv[1], keep_last=1)
first, meta = checkpoints.latest()
state = checkpoints.restore(first, shapes)
update = jax.jit(advance, donate_argnums=0, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))
for step in range(first + 1, first + 4):
    state = update(state)  # all devices exchange numbers while the step before is written
    checkpoints.save(step, state, {**meta, "at": step}, best=step == first + 2)
    state = update(state)
checkpoints.wait()
assert checkpoints.best()[0] == first + 2 and checkpoints.latest()[0] == first + 3
"""


def advance(state: dict) -> dict:
    """A step that needs all devices, and no rounding."""
    return {"w": state["w"] * 3 + jnp.sum(state["w"]) + state["step"], "step": state["step"] + 1}


def test_two_processes_go_on_where_one_stopped_and_one_where_two_did(tmp_path):
    path = tmp_path / "c"
    one = sharded(make_mesh(fsdp=2, tensor=4))
    start = {"w": np.arange(64 << 14, dtype=np.int32).reshape(64, -1), "step": np.int32(10)}
    checkpoints = TrainingCheckpoints(path)
    checkpoints.save(10, jax.tree.map(lambda x, shape: jax.device_put(x, shape.sharding), start, one), {"seed": 1})
    checkpoints.wait()
    arguments = ["--processes=2", "--devices=4", "--", "python", "-c", SEVERAL, str(path)]
    command = [sys.executable, "launch/local_pod.py", *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert kept(path) == [12, 13]
    again = TrainingCheckpoints(path)
    assert again.latest() == (13, {"seed": 1, "at": 13}) and again.best() == (12, {"seed": 1, "at": 12})
    wanted = jax.tree.map(jnp.asarray, start)
    for step, updates in ((12, 3), (13, 5)):
        state = wanted
        for _ in range(updates):
            state = advance(state)
        restored = again.restore(step, one)
        assert jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), restored, state))
        assert restored["w"].sharding == one["w"].sharding


FULL = """
import os, resource, sys
import jax.numpy as jnp
from humpback.errors import UserError
from humpback.training.checkpoint import TrainingCheckpoints
path, *ways = sys.argv[1:]
filler = os.path.join(path, "filler")
checkpoints = TrainingCheckpoints(os.path.join(path, "steps"))
state = {name: jnp.ones(1 << 19) for name in "abcd"}  # 8 MB
for step in (1, 2, 3):
    checkpoints.save(step, state, {})
checkpoints.wait()
for way in ways:
    if way == "full":
        with open(filler, "wb") as file:
            file.write(bytes(os.statvfs(path).f_bavail * 4096 - (3 << 20)))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    checkpoints.save(4, state, {})
    try:
        checkpoints.wait()
    except Exception as error:
        print(way, type(error).__name__, str(error).splitlines()[0])
    print(checkpoints.latest(), sorted(os.listdir(checkpoints.path)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if way == "full":
        os.unlink(filler)
checkpoints.save(4, state, {})
checkpoints.wait()
print(checkpoints.latest(), sorted(os.listdir(checkpoints.path)))
"""


def test_a_disk_without_room_leaves_all_older_steps(tmp_path):
    """A small disk of memory, which root can have; and, for all, a limit to the size of files."""
    command, ways = [sys.executable, "-c", FULL, str(tmp_path), "limit"], ["limit"]
    small = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs -o size=30m none {tmp_path} && exec \"$@\"", "sh"]
    if shutil.which("unshare") and subprocess.run([*small, "true"], check=False, capture_output=True).returncode == 0:
        command, ways = [*small, *command, "full"], ["limit", "full"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    *lines, last = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ways, ended.stdout
    assert set(lines[1::2]) == {"(3, {}) ['00000002', '00000003', '00000004']"}
    if "full" in ways:
        assert lines[2].startswith("full UserError") and "00000004: no room left on the disk" in lines[2]
    assert last == "(4, {}) ['00000003', '00000004']"


@pytest.mark.parametrize(
    "error",
    [
        ValueError('RESOURCE_EXHAUSTED: Error writing "x": [OS error 28: ENOSPC No space left on device]'),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    ],
)
@pytest.mark.parametrize("when", ["at once", "in the background"])
def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch, error, when):
    checkpoints = made(tmp_path / "c", 4)
    failing = FailingSave(error)
    monkeypatch.setattr(checkpoint.ocp, "save_async", lambda *_: failing.result() if when == "at once" else failing)
    with pytest.raises(UserError, match=r"00000008: no room left on the disk"):
        checkpoints.save(8, tree(8), {})
        checkpoints.wait()
    assert TrainingCheckpoints(tmp_path / "c").latest() == (4, {"at": 4})
