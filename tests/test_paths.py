"""What is said of paths that no command can read or write, and that it is said before the command begins."""

import importlib.util
import os
import socket

import pytest

from humpback import paths
from humpback.errors import UserError


@pytest.mark.parametrize("path", ["s3://bucket/a", "hdfs://a", "file:///tmp/a", "GS://bucket", "pages, s3://bucket/a"])
def test_stores_that_are_not_known(path):
    with pytest.raises(UserError, match=r"--input: .*:// is not known; paths are local or begin with gs://"):
        paths.check({"--input": path})


def test_a_store_whose_package_is_missing(monkeypatch):
    paths.check({"--input": "gs://bucket/a"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gcsfs" else pytest.fail(name))
    with pytest.raises(UserError, match=r"--out: gs://bucket/a: gs:// needs the extra `gs`, which is not installed: pip install .*\[gs\]"):
        paths.check({"--out": "gs://bucket/a"})
    paths.check({"config field base.source": "gs://bucket/a"})  # its stage may be done, or says so itself


def test_what_would_be_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("pipe", tmp_path / "link")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    for path, kind in (("pipe", "a pipe"), ("link", "a pipe"), ("socket", "a socket"), ("/dev/null", "a device")):
        path = tmp_path / path  # of an absolute one only itself is left
        for given in (str(path), f"{tmp_path}, {path}"):
            with pytest.raises(UserError, match=f"config field base.source: {path} is {kind}; what is read is read more than once"):
                paths.check({"config field base.source": given})


def test_a_variable_that_is_not_set():
    with pytest.raises(UserError, match="--workdir is empty; name a path"):
        paths.check({"--workdir": ""})
    paths.check({"config field base.source": ""})


def test_all_other_paths_are_for_the_command_to_look_at(tmp_path):
    (tmp_path / "a,b").write_text("")
    for path in (str(tmp_path), str(tmp_path / "a,b"), "nowhere", "package:x/*.gguf", "tfds:x", "a\0b", "x" * 5_000, None, 7):
        paths.check({"--input": path})
