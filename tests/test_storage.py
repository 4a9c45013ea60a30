import errno
import os

import pytest

from humpback import storage
from humpback.errors import UserError


def test_publish_takes_bytes_text_and_chunks_and_returns_their_sha256(tmp_path):
    digests = {storage.publish(tmp_path / f"deep/{i}", data) for i, data in enumerate([b"abc", "abc", iter([b"a", b"bc"])])}
    assert digests == {"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert storage.list_files(tmp_path / "deep") == ["0", "1", "2"]


def test_same_bytes_again_is_done_other_bytes_raise(tmp_path):
    path = tmp_path / "file"
    storage.publish(path, b"abc")
    storage.publish(path, b"abc")
    with pytest.raises(FileExistsError, match="file"):
        storage.publish(path, b"abd")
    assert path.read_bytes() == b"abc"
    storage.publish(path, b"abd", replace=True)
    assert path.read_bytes() == b"abd"


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def chunks():
        yield b"begun"
        raise ValueError("no more")

    with pytest.raises(ValueError):
        storage.publish(tmp_path / "file", chunks())
    assert os.listdir(tmp_path) == []


def test_two_hosts_with_equal_process_ids_write_one_file_whole(tmp_path, monkeypatch):
    """On a shared disk: the other one writes the same file while this one is in the middle."""
    monkeypatch.setattr(os, "getpid", lambda: 7)

    def chunks():
        yield b"a" * 5_000
        storage.publish(tmp_path / "file", b"a" * 5_000 + b"b" * 5_000)
        yield b"b" * 5_000

    storage.publish(tmp_path / "file", chunks())
    assert (tmp_path / "file").read_bytes() == b"a" * 5_000 + b"b" * 5_000
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_there(tmp_path, monkeypatch):
    storage.publish(tmp_path / "file", b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="file: no room left on the disk; free some space"):
        storage.publish(tmp_path / "file", b"new", replace=True)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_clean_removes_what_a_killed_writer_left(tmp_path):
    storage.publish(tmp_path / "file", b"x")
    (tmp_path / ".humpback-tmp-1234-file").write_bytes(b"half")
    assert storage.list_files(tmp_path) == ["file"]
    storage.clean(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe"])
def test_broken_json_names_the_file(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json"):
        storage.read_json(tmp_path / "x.json")


def test_equal_values_are_equal_bytes(tmp_path):
    assert storage.publish_json(tmp_path / "a", {"b": 1, "a": "é"}) == storage.publish_json(tmp_path / "b", {"a": "é", "b": 1})


def test_a_name_that_is_no_utf8_is_read_as_it_was(tmp_path):
    """As somebody's path may be, in config.json and manifests."""
    name = os.fsdecode(b"pages-\xff")
    storage.publish_json(tmp_path / name / "file", {"path": name})
    assert storage.read_json(tmp_path / name / "file") == {"path": name}
