"""Digests of files, and the cache that spares reading them again."""

import os
import pathlib
import time

import pytest

from humpback import digests, storage
from humpback.digests import Digests
from humpback.errors import UserError


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The names of the files that are read."""
    found, read = [], storage.read_chunks
    monkeypatch.setattr(storage, "read_chunks", lambda path: (found.append(pathlib.Path(path).name), read(path))[1])
    return found


def put(path: pathlib.Path, text: str, age: float = 10) -> str:
    """A file that was written so many seconds ago."""
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))
    return str(path)


def settle(monkeypatch) -> None:
    """As if what was written had been written long ago; a file's time of change cannot be set."""
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)


def test_a_file_is_read_once_and_again_when_it_was_touched(tmp_path, reads, monkeypatch):
    settle(monkeypatch)
    one, two, cache = put(tmp_path / "one", "abc"), put(tmp_path / "two", ""), tmp_path / "cache.json"
    measured = Digests(cache)
    first = measured.measure([one, two])
    assert [(digest.size, digest.crc32c) for digest in first] == [(3, storage.crc32c_file(one)), (0, "00000000")]
    assert measured.measure([two, one]) == first[::-1]
    measured.save()
    reads.clear()
    assert Digests(cache).measure([one, two]) == first and reads == []
    put(tmp_path / "one", "abc", age=20)
    assert Digests(cache).measure([one])[0][:2] == first[0][:2] and reads == ["one"]


def test_another_content_of_the_same_size_and_time_is_seen(tmp_path, monkeypatch):
    settle(monkeypatch)
    path, measured = put(tmp_path / "one", "Rate it from 1 to 5."), Digests(tmp_path / "cache.json")
    before, times = measured.measure([path])[0], os.stat(path)
    (tmp_path / "one").write_text("Rate it from 1 to 9.")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert os.stat(path).st_mtime_ns == times.st_mtime_ns and os.stat(path).st_size == times.st_size
    assert measured.measure([path])[0].crc32c != before.crc32c


def test_what_was_written_a_moment_ago_is_not_trusted(tmp_path, reads):
    """Within one tick of a file system's clock it may be written again."""
    path, measured = put(tmp_path / "one", "a", age=0), Digests(tmp_path / "cache.json")
    for _ in range(2):
        measured.measure([path])
    assert len(reads) == 2
    measured.save()
    assert not (tmp_path / "cache.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"/one": []}', "\xff"])
def test_a_broken_cache_is_none(tmp_path, content):
    (tmp_path / "cache.json").write_text(content, encoding="latin-1")
    assert Digests(tmp_path / "cache.json").measure([put(tmp_path / "one", "a")])[0].size == 1


def test_what_cannot_be_read_has_no_digest_and_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    paths = [str(tmp_path / name) for name in ("pipe", "dangling", "missing", "")]
    assert {(digest.size, digest.crc32c) for digest in Digests(tmp_path / "c").measure(paths)} == {(-1, "unreadable")}


def test_a_file_that_changed_while_it_was_read_is_named_and_a_touched_one_is_not(tmp_path):
    paths = [put(tmp_path / name, "abc") for name in ("one", "two")]
    before = dict(zip(paths, Digests(tmp_path / "c").measure(paths), strict=True))
    put(tmp_path / "one", "abc", age=3)
    digests.check_unchanged(before)
    put(tmp_path / "two", "abd")
    with pytest.raises(UserError, match="two: was changed while it was read"):
        digests.check_unchanged(before)
    put(tmp_path / "two", "abc")
    digests.check_unchanged(before)
    (tmp_path / "two").unlink()
    with pytest.raises(UserError, match="two: was changed"):
        digests.check_unchanged(before)
