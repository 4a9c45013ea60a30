"""One writer for each place: a file `lock` there says who it is, and is renewed while it works. Readers need none.

Who finds another holder waits for it, and takes over from one that has given no sign for STALE_SECONDS, or at once from a process of
this machine that is gone. Every write of the file asks for what was read: on gs:// by the object's generation, locally under flock. So
of two one wins, and a holder that finds another's word there ends at once. Each holder has a number of its own, which parts bear.
"""

import contextlib
import fcntl
import json
import os
import platform
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, Protocol, cast

from etils import epath

from humpback import storage
from humpback.background import Background
from humpback.errors import PREEMPTED

NAME = "lock"
BEAT_SECONDS, STALE_SECONDS = 20.0, 90.0
_LOOK_SECONDS = 1.0
_SURE_SECONDS = 1.25 * BEAT_SECONDS  # a holder that lives is seen within it, whatever the clocks of two machines say
_BYTES = 1_024  # of a lock on a disk, always: so that a full disk does not end who holds it

_held: dict[str, "Lock"] = {}


def lock_of(folder: storage.PathLike) -> "Lock":
    """The lock of a folder; one object for all of a process."""
    key = os.fspath(folder) if not storage.is_local(folder) else os.path.realpath(folder)
    return _held.setdefault(key, Lock(epath.Path(folder) / NAME))


def release_all(seconds: float | None = None) -> None:
    """Gives up what this process holds; takes at most so many seconds of a store that does not answer."""
    locks = [lock for lock in _held.values() if lock.number]
    if not locks:
        return
    threads = [threading.Thread(target=lock.release, daemon=True) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)


class Lock:
    """The right to write in a folder. number: that of this holder, 0 while it is none."""

    def __init__(self, path: epath.Path):
        self.path, self.number = path, 0
        self._store: _Store = _Local(path) if storage.is_local(path) else _Remote(path)
        self._key, self._token = "", cast(Any, None)  # a token is the store's own
        self._over = threading.Event()
        self._mutex = threading.Lock()

    def acquire(self) -> bool:
        """Returns when this process is the holder, and whether it had to become that; waits for another as long as it gives signs."""
        if self.number:
            return False
        self._key, waiting = secrets.token_hex(8), _Waiting(self.path)
        while True:
            token, holder = self._store.read()
            if holder is not None and holder.get("key") == self._key:  # the answer to our write was lost
                break
            if waiting.seconds_left(token, holder) <= 0:
                number = int((holder or {}).get("number", 0)) + 1
                self.path.parent.mkdir(parents=True, exist_ok=True)
                token = self._store.swap(token, self._word(number))
                holder = {"number": number}
                if token is not None:
                    break
            else:
                time.sleep(_LOOK_SECONDS)
        waiting.close()
        self.number, self._token = holder["number"], token
        self._over.clear()
        threading.Thread(target=self._beat, name="lock", daemon=True).start()
        return True

    def check(self) -> None:
        """Ends the process when another one holds the lock by now."""
        with self._mutex:
            if self.number and (holder := self._store.read()[1]) is not None and holder.get("key") != self._key:
                _end(self.path, holder)

    def release(self) -> None:
        """Lets the next one have it without waiting."""
        with self._mutex:
            if not self.number:
                return
            self._over.set()
            with contextlib.suppress(OSError):
                self._store.swap(self._token, {"number": self.number, "released": True})
            self.number = 0

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # of a network or a disk, say: the next time may find it well again
                self._renew()

    def _renew(self) -> None:
        with self._mutex:
            if not self.number:
                return
            try:
                token = self._store.swap(self._token, self._word(self.number))
                if token is None:
                    token, holder = self._store.read()
                    if holder is None:  # somebody has deleted it
                        token = self._store.swap(token, self._word(self.number))
                    elif holder.get("key") != self._key:
                        _end(self.path, holder)
                self._token = token or self._token
            except FileNotFoundError:  # the whole folder is gone
                return

    def _word(self, number: int) -> dict[str, Any]:
        return {"number": number, "key": self._key, "time": time.time(), **_me()}


class _Store(Protocol):
    """Where a lock's word lies: `swap` writes another one if the token is still the last word's, and returns the new one's."""

    def read(self) -> tuple[Any, dict[str, Any] | None]: ...

    def swap(self, token: Any, word: dict[str, Any]) -> Any: ...


class Maker(Protocol):
    """Who makes parts of something: what from, which each part says, and what parts that are there already may say.

    lock: the number of the lock that it holds. background: writes the parts. find: takes what was found that holds for all further
    attempts, held: what those before have found so. begin: is called before the first part is written. check: ends the process when
    another one holds the lock by now.
    """

    @property
    def identity(self) -> str: ...

    @property
    def identities(self) -> Collection[str]: ...

    @property
    def lock(self) -> int: ...

    @property
    def background(self) -> Background: ...

    @property
    def held(self) -> Mapping[str, Any]: ...

    def find(self, values: Mapping[str, Any]) -> None: ...

    def begin(self) -> None: ...

    def check(self) -> None: ...


class Anybody:
    """A maker without a lock, of parts that say nothing."""

    identity, identities, lock = "", ("",), 0
    held: Mapping[str, Any] = {}

    def find(self, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def __init__(self) -> None:
        self.background = Background()

    def begin(self) -> None:
        """Nothing."""

    def check(self) -> None:
        """Nothing."""


class _Waiting:
    """How long another holder has given no sign; told on one line."""

    def __init__(self, path: epath.Path):
        self._path, self._token, self._since, self._told = path, None, 0.0, ""

    def seconds_left(self, token: Any, holder: dict[str, Any] | None) -> float:
        """Until the lock may be taken over; 0 when it is free."""
        if holder is None or holder.get("released"):
            return 0.0
        if holder.get("machine") == _me()["machine"] and _born(holder["pid"]) != holder["born"]:
            return 0.0
        now = time.monotonic()
        if token != self._token:
            self._token, self._since = token, now
        silent = now - self._since
        age = time.time() - holder.get("time", time.time())
        left = max(min(STALE_SECONDS - silent, max(STALE_SECONDS - age, _SURE_SECONDS - silent)), 0.0)
        self._tell(holder, left)
        return left

    def close(self) -> None:
        """Ends the line."""
        if self._told and sys.stderr.isatty():
            print(file=sys.stderr)

    def _tell(self, holder: dict[str, Any], left: float) -> None:
        who = f"{self._path.parent}: {_name(holder)} writes there; waiting for it"
        if sys.stderr.isatty():
            print(f"\r\033[K{who}, or {left:.0f} s if it stays silent", end="", file=sys.stderr, flush=True)
        elif who != self._told:
            print(f"{who}, or {left:.0f} s if it stays silent", file=sys.stderr, flush=True)
        self._told = who


class _Local:
    """A file of a fixed size, written in place under flock. A token is what it holds."""

    def __init__(self, path: epath.Path):
        self._path = os.fspath(path)

    def read(self) -> tuple[bytes | None, dict[str, Any] | None]:
        try:
            with open(self._path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                data = file.read()
        except FileNotFoundError:
            return None, None
        return data, _parsed(data)

    def swap(self, token: bytes | None, word: dict[str, Any]) -> bytes | None:
        """Writes a word where `token` is still what there is, and returns the new one; None where it is not."""
        data = json.dumps(word).encode().ljust(_BYTES)
        flags = os.O_RDWR | (os.O_CREAT if token is None else 0)
        try:
            descriptor = os.open(self._path, flags, 0o666)
        except FileNotFoundError:
            if token is None:
                raise
            return None
        with open(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.read() != (token or b""):
                return None
            os.pwrite(file.fileno(), data, 0)
            os.ftruncate(file.fileno(), len(data))
        return data


class _Remote:
    """An object. A token is its generation."""

    def __init__(self, path: epath.Path):
        self._path = path

    def read(self) -> tuple[str, dict[str, Any] | None]:
        data, generation = storage.read_generation(self._path)
        return generation, None if data is None else _parsed(data)

    def swap(self, token: str, word: dict[str, Any]) -> str | None:
        return storage.replace_generation(self._path, json.dumps(word).encode(), token)


def _parsed(data: bytes) -> dict[str, Any]:
    """A word; {} for what is none, which a machine may have left that lost its power."""
    with contextlib.suppress(ValueError):
        word = json.loads(data)
        if isinstance(word, dict):
            return word
    return {}


def _me() -> dict[str, Any]:
    """This process, as others can tell whether it is still there."""
    boot = ""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip() + os.readlink("/proc/self/ns/pid")  # process ids count within a container
    command = f"humpback {sys.argv[1]}" if len(sys.argv) > 1 else os.path.basename(sys.argv[0])
    machine = f"{platform.node()} {boot}"
    return {"host": platform.node(), "machine": machine, "pid": os.getpid(), "born": _born(os.getpid()), "command": command}


def _born(pid: int) -> str:
    """When a process was started; "" when it is not there."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if os.path.exists("/proc/self/stat"):
            return ""
    return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()  # not Linux


def _name(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "somebody"
    return f"`{holder['command']}` (process {holder['pid']} of {holder['host']})"


def _end(path: epath.Path, holder: dict[str, Any]) -> NoReturn:
    """Not an exception: the thread that works may be anywhere, and must write no more."""
    text = f"{path.parent}: {_name(holder)} writes there now, as this process gave no sign for long; it ends, and the same command waits"
    with contextlib.suppress(OSError):
        os.write(2, f"\nhumpback: {text}\n".encode())
    os._exit(PREEMPTED)
