"""One writer for each place: who waits, who takes over, and who ends."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from humpback import locks
from humpback.locks import Lock

ROOT = pathlib.Path(__file__).parents[1]
# A process that holds a lock and says so; with times as short as a test's.
HOLDER = """
import sys, time
from humpback import locks
locks.BEAT_SECONDS, locks.STALE_SECONDS, locks._SURE_SECONDS, locks._LOOK_SECONDS = 0.1, 2.0, 0.3, 0.05
lock = locks.lock_of(sys.argv[1])
lock.acquire()
print(lock.number, flush=True)
sys.stdin.readline() if len(sys.argv) < 3 else exec(sys.argv[2])
locks.release_all()
"""


@pytest.fixture
def start(tmp_path):
    """start(*code): a process that holds tmp_path's lock until it is told to go, or does `code`."""
    started = []

    def begin(*code: str) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), *code], cwd=ROOT, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Seconds for minutes."""
    for name, value in (("BEAT_SECONDS", 0.1), ("STALE_SECONDS", 2.0), ("_SURE_SECONDS", 0.3), ("_LOOK_SECONDS", 0.05)):
        monkeypatch.setattr(locks, name, value)


def tell(holder: subprocess.Popen) -> None:
    """Lets it go."""
    holder.stdin.write("go\n")
    holder.stdin.flush()


def word(folder: pathlib.Path, **changes) -> dict:
    """What the lock says, changed."""
    path = folder / "lock"
    found = json.loads(path.read_text()) | changes
    if changes:
        path.write_bytes(json.dumps(found).encode().ljust(locks._BYTES))
    return found


def another(folder: pathlib.Path, **changes) -> None:
    """A lock that a process of another machine has left."""
    lock = Lock(folder / "lock")
    lock.acquire()
    lock.release()
    word(folder, **{**lock._word(4), "machine": "elsewhere", "host": "elsewhere", "released": False, **changes})


def seconds(lock: Lock) -> float:
    """How long it takes to get it."""
    began = time.monotonic()
    assert lock.acquire()
    return time.monotonic() - began


def test_one_after_another_without_waiting_each_with_its_number(tmp_path):
    for number in (1, 2, 3):
        lock = Lock(tmp_path / "run" / "lock")
        assert seconds(lock) < 1 and lock.number == number
        assert not lock.acquire()  # it has it
        lock.release()
        assert lock.number == 0


def test_all_of_a_process_share_one(tmp_path, monkeypatch):
    assert locks.lock_of(tmp_path).acquire()
    monkeypatch.chdir(tmp_path)
    assert not locks.lock_of(".").acquire() and locks.lock_of(".").number == 1
    locks.release_all()
    assert locks.lock_of(".").number == 0 and word(tmp_path)["released"]


def test_who_lives_is_waited_for_until_it_ends(tmp_path, start, capsys):
    holder = start()
    assert holder.stdout.readline() == "1\n"
    lock, before = Lock(tmp_path / "lock"), time.monotonic()

    threading.Timer(3, lambda: tell(holder)).start()  # more than the time after which silence is death
    lock.acquire()
    assert 3 < time.monotonic() - before < 10 and lock.number == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"(process {holder.pid} of " in told and "waiting for it, or 2 s if it stays silent" in told
    lock.release()


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(tmp_path, start):
    holder = start()
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    lock = Lock(tmp_path / "lock")
    assert seconds(lock) < 1 and lock.number == 2
    lock.release()


def test_nor_is_one_whose_number_another_process_has_got(tmp_path):
    another(tmp_path, machine=locks._me()["machine"], pid=os.getpid(), born="1")
    lock = Lock(tmp_path / "lock")
    assert seconds(lock) < 1 and lock.number == 5
    lock.release()


@pytest.mark.parametrize(("age", "least", "most"), [(0, 1.9, 4), (1, 0.9, 2), (60, 0.2, 1.5), (-600, 1.9, 4)])
def test_silence_is_waited_for_by_what_the_clocks_say_and_by_what_is_seen(tmp_path, age, least, most):
    """A clock that is wrong by minutes gains or loses nothing that matters."""
    another(tmp_path, time=time.time() - age)
    lock = Lock(tmp_path / "lock")
    assert least <= seconds(lock) <= most and lock.number == 5
    lock.release()


def test_a_torn_word_is_waited_for_like_any_other(tmp_path):
    (tmp_path / "lock").write_bytes(b"\0" * 300)
    lock = Lock(tmp_path / "lock")
    assert 1.9 <= seconds(lock) <= 4 and lock.number == 1
    lock.release()


def test_who_was_silent_and_finds_another_ends_at_once(tmp_path, start):
    holder = start()
    holder.stdout.readline()
    holder.send_signal(signal.SIGSTOP)
    lock = Lock(tmp_path / "lock")
    assert 1 <= seconds(lock) <= 5 and lock.number == 2
    holder.send_signal(signal.SIGCONT)
    assert holder.wait(5) == 75
    said = holder.stderr.read().strip()
    assert said.startswith(f"humpback: {tmp_path}: `") and "writes there now" in said and "\n" not in said
    assert lock.number == 2 and word(tmp_path)["key"] == lock._key
    lock.release()


def test_before_it_completes_something_a_holder_looks(tmp_path, start):
    """Though its next sign is not due."""
    holder = start("locks.BEAT_SECONDS = 60; time.sleep(0.3); sys.stdin.readline(); lock.check(); print('wrote', flush=True)")
    holder.stdout.readline()
    time.sleep(0.5)
    word(tmp_path, key="somebody else's")
    tell(holder)
    assert holder.wait(5) == 75 and "wrote" not in holder.stdout.read()


def test_of_many_one_has_it_at_a_time(tmp_path, start):
    code = f"""
import pathlib
with open({str(tmp_path / "log")!r}, "a") as log:
    for word in ("in", "out"):
        log.write(f"{{word}} {{lock.number}}\\n"); log.flush(); time.sleep(0.05)
"""
    holders = [start(code) for _ in range(6)]
    for holder in holders:
        assert holder.wait(60) == 0, holder.stderr.read()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [f"{word} {number}" for number in range(1, 7) for word in ("in", "out")]


def test_a_lock_that_was_deleted_is_written_again_and_one_whose_folder_is_gone_is_not(tmp_path):
    (tmp_path / "run").mkdir()
    lock = Lock(tmp_path / "run" / "lock")
    lock.acquire()
    (tmp_path / "run" / "lock").unlink()
    time.sleep(0.4)
    assert word(tmp_path / "run")["key"] == lock._key
    (tmp_path / "run" / "lock").unlink()
    (tmp_path / "run").rmdir()
    time.sleep(0.4)
    assert not (tmp_path / "run").exists()
    lock.release()
