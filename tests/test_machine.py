"""What is asked of Linux, and the other way where it is hidden, as on macOS."""

import ast
import ctypes
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from humpback import machine, storage

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("hidden", [False, True])
def test_cores(hidden, monkeypatch):
    if hidden:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        assert machine.cores() == os.cpu_count()
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert machine.cores() == 1
    else:
        assert 1 <= machine.cores() <= os.cpu_count()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_large_file_is_synced_while_it_is_written(hidden, tmp_path, monkeypatch):
    synced, name = [], "fsync" if hidden or not hasattr(os, "fdatasync") else "fdatasync"
    if hidden:
        monkeypatch.delattr(os, "fdatasync", raising=False)
    real = getattr(os, name)
    monkeypatch.setattr(os, name, lambda descriptor: synced.append(descriptor) or real(descriptor))
    monkeypatch.setattr(storage, "_SYNC_BYTES", 3)
    storage.publish(tmp_path / "file", iter([b"abc", b"def", b"g"]))
    assert (tmp_path / "file").read_bytes() == b"abcdefg" and synced


HOLES = """
from humpback import machine
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
arrays = [bytearray(60_000) for _ in range(5_000)]
kept = arrays[::100] + [bytearray(60_000)]
del arrays
before = resident()
machine.give_back()
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="malloc is not glibc's, which keeps what is freed")
def test_what_is_freed_goes_back_to_the_system():
    """Also what lies between arrays that are still used."""
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) > 200_000_000


TAKES_TOO_MUCH = """
import builtins, sys, time
from humpback import machine
if sys.argv[1] == "hidden":
    def hide(path, *rest, real=open, **more):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return real(path, *rest, **more)
    builtins.open = hide
machine.limit_memory(100)
small = bytearray(20_000_000)
print("small", flush=True)
try:
    large = bytearray(b"x") * 400_000_000
    time.sleep(30)
except MemoryError:
    print("MemoryError")
"""


@pytest.mark.parametrize("hidden", ["", "hidden"])
def test_too_much_memory_ends_the_process_and_not_the_machine(hidden):
    # By way of a shell that forks: on Linux a process' peak of resident memory begins with that of the one that has started it.
    command = ["sh", "-c", '"$0" "$@"; exit $?', sys.executable, "-c", TAKES_TOO_MUCH, hidden]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if hidden:
        assert (done.returncode, done.stdout) == (machine.OUT_OF_MEMORY, "small\n"), done.stderr
    elif sys.platform.startswith("linux"):
        assert (done.returncode, done.stdout) == (0, "small\nMemoryError\n"), done.stderr


def test_a_limit_is_kept_that_is_lower(monkeypatch):
    """The hard limit of whoever has started this may not be raised."""
    if not sys.platform.startswith("linux"):
        pytest.skip("no limit of the address space")
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, 12_345))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    machine.limit_memory(1_000)
    assert given == [(12_345, 12_345)]


def test_nothing_else_needs_linux():
    """Each such call stands in machine.py, or behind a way for those who do not have it."""
    only = {"sched_getaffinity", "sched_setaffinity", "fdatasync", "posix_fadvise", "copy_file_range", "memfd_create", "pidfd_open"}
    for path in sorted((ROOT / "humpback").rglob("*.py")):
        if path.name == "machine.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr in only), f"{path}:{node.lineno}: os.{node.attr}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/proc/"):
                assert path.name == "locks.py" or node.value == "/proc/cpuinfo", f"{path}:{node.lineno}: {node.value}"  # absence is seen to
