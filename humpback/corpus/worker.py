"""One unit of input to one part of the output, in a process of its own, which a hostile page may hang or kill.

`Worker` is the guard: it gives jobs to a child (`main`, in a process of its own), watches at which page the child is, kills it when a page
takes too long, and starts another that goes on behind that page. The child writes what it has of a job to a spool file, page by page,
so nothing is done twice, and publishes the part when the input is at its end: NAME.jsonl, NAME.npy and, last, NAME.json.
"""

import base64
import contextlib
import ctypes
import functools
import gc
import io
import json
import math
import mmap
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from etils import epath

from humpback import machine, storage
from humpback.config import Segments
from humpback.corpus import duplicates, readers
from humpback.corpus.contamination import Contamination
from humpback.corpus.fields import Keys
from humpback.corpus.segments import PageDropped, Tree, choose, cut
from humpback.corpus.tally import SAMPLE_CHARS, Tally
from humpback.digests import Digest, check_unchanged
from humpback.errors import UserError
from humpback.records import Page, Segment, from_json, to_json

_STATE = struct.Struct("<qqqq")  # pages begun, bytes of them, bytes of the input up to them, and what is done:
_READING, _AT_PAGE, _PUBLISHING = range(3)
_GRACE = 2.0  # a page that the child's own alarm does not end, since it is in C code, is ended from outside after so many times its limit
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_SILENT = 300.0  # seconds in which a child may read on without a page
GARBAGE_THRESHOLD = 100_000  # objects between two searches for cycles: a page makes ten thousand objects, and hardly any cycle
_TRIES = 2  # at one place; a third is not made, and what is behind it stays unread


@dataclass(frozen=True)
class Job:
    """Part `number` of a corpus: what to read, by which rules, and the folder of the parts."""

    number: int
    given: readers.Input
    cfg: Segments
    out: str
    identity: str = ""  # of what the part is made from, which it says
    before: Mapping[str, Digest] = field(default_factory=dict)  # the files' digests, by path

    @property
    def name(self) -> str:
        """The part's name."""
        return f"{self.number:06d}"

    @property
    def done(self) -> bool:
        """Whether the part is complete."""
        return (epath.Path(self.out) / f"{self.name}.json").exists()

    def part(self) -> duplicates.Part:
        """Where its segments are."""
        folder = epath.Path(self.out)
        return duplicates.Part(folder / f"{self.name}.jsonl", folder / f"{self.name}.npy")


class Worker:
    """A child process for one job after another."""

    def __init__(self) -> None:
        self._child: subprocess.Popen | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="humpback-segment-")
        self._file = open(os.path.join(self._folder.name, "state"), "w+b")  # noqa: SIM115 (open as long as this lives)
        self._file.write(bytes(_STATE.size))
        self._file.flush()
        self._state = mmap.mmap(self._file.fileno(), _STATE.size)

    @property
    def progress(self) -> tuple[int, int, int]:
        """(pages begun so far, their bytes, bytes of the job in progress that are read)."""
        return _STATE.unpack(self._state[:])[:3]

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.pid if self._child is not None else None

    def run(self, job: Job) -> None:
        """Does a job and publishes its part. UserError for a user's mistake; RuntimeError with the child's own words for any other."""
        spool = os.path.join(self._folder.name, job.name)
        begun = self.progress[0]
        blamed: dict[int, str] = {}  # number of a page in the input, from 1 → why it is left out
        tries: Counter[int] = Counter()
        end: int | None = None  # the last page that is read: what is behind it cannot be
        while reason := self._attempt(job, spool, blamed, end):
            pages, size, _, doing = _STATE.unpack(self._state[:])
            page = pages - begun
            tries[page] += 1
            if doing == _PUBLISHING:
                if tries[page] >= _TRIES:
                    raise RuntimeError(f"{job.given.source}: its worker died {_TRIES} times while it wrote part {job.name}")
            else:
                if doing == _AT_PAGE:
                    blamed[page] = reason
                if tries[page] >= _TRIES:
                    end = page - 1 if doing == _AT_PAGE else page
            self._state[:] = _STATE.pack(begun, size, 0, _READING)
        pages, size, _, _ = _STATE.unpack(self._state[:])
        self._state[:] = _STATE.pack(pages, size, 0, _READING)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(spool)

    def close(self) -> None:
        """Ends the child."""
        self._kill()
        self._state.close()
        self._file.close()
        self._folder.cleanup()

    def _attempt(self, job: Job, spool: str, blamed: dict[int, str], end: int | None) -> str:
        """"" when the job is done; otherwise why the child had to be, or was, killed."""
        child = self._child or self._start()
        order = base64.b64encode(pickle.dumps((job, spool, blamed, end, self._file.name))) + b"\n"
        assert child.stdin is not None and child.stdout is not None  # they are pipes
        try:
            child.stdin.write(order)
            child.stdin.flush()
        except BrokenPipeError:
            self._kill()
            return "killed its worker"
        seen, since = b"", time.monotonic()
        while not select.select([child.stdout], [], [], 0.2)[0]:
            state = self._state[:]
            if state != seen:
                seen, since = state, time.monotonic()
                continue
            # Writing a part takes as long as it is large, and has nothing of a page's making in it that could hang.
            allowed = (_SILENT, _GRACE * job.cfg.page_seconds, math.inf)[_STATE.unpack(state)[3]]
            if time.monotonic() - since > allowed:
                self._kill()
                return "took too long"
        answer = child.stdout.readline()
        if not answer:
            self._kill()
            return "killed its worker"
        found = json.loads(answer)
        if found.get("error"):
            raise UserError(found["error"]) if found["user"] else RuntimeError(f"{job.given.source}: {found['error']}")
        return ""

    def _start(self) -> subprocess.Popen:
        # Not a fork, and not multiprocessing's import of the main module: the child needs neither JAX nor its threads.
        self._child = subprocess.Popen(
            [sys.executable, "-c", "from humpback.corpus.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # one core each, and little address space
        )
        return self._child

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None


def main() -> None:
    """The child: an order a line on stdin, an answer a line on stdout, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to all; the parent ends, and its children with it
    _die_with_parent()
    gc.set_threshold(GARBAGE_THRESHOLD)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    signal.signal(signal.SIGALRM, _out_of_time)
    for line in sys.stdin.buffer:
        job, spool, blamed, end, state = pickle.loads(base64.b64decode(line))
        error, user = "", False
        try:
            _Child(job, spool, blamed, end, state).work()
        except UserError as problem:
            error, user = str(problem), True
        except Exception as problem:
            error = f"{problem!r}\n{traceback.format_exc()}"
        answers.write(json.dumps({"error": error, "user": user}) + "\n")
        answers.flush()


class _OutOfTime(Exception):
    """A page has had its time."""


def _out_of_time(_signal: int, _frame: Any) -> None:
    raise _OutOfTime


class _Child:
    """One job, as the child does it."""

    def __init__(self, job: Job, spool: str, blamed: dict[int, str], end: int | None, state: str) -> None:
        self.job, self.spool, self.blamed, self.end = job, spool, blamed, end
        with open(state, "r+b") as file:
            self.state = mmap.mmap(file.fileno(), _STATE.size)
        self.begun, self.size, _, _ = _STATE.unpack(self.state[:])
        self.read = 0  # bytes of the input
        self.contaminated = _contamination(job.cfg.contamination)
        self.seen = Tally()  # only to know which drops may become samples
        self.page: dict[str, Any] = {}  # what became of what was read since the last page
        self._clear()
        _limit_memory(job.cfg.page_megabytes)

    def work(self) -> None:
        """Reads what is not in the spool yet, and publishes the part."""
        done = _complete_pages(self.spool)
        number = 0
        with open(self.spool, "ab") as spool:
            if self.end != 0:
                pages = readers.read_pages(self.job.given, self._left_out, self._warn, Keys.of(self.job.cfg))
                for number, page in enumerate(pages, 1):
                    if number > done:
                        self.size += len(page.html)
                        self.read = page.end if self.job.given.kind in readers.STREAMS else self.read + len(page.html)
                        self._mark(number, _AT_PAGE)
                        spool.write(self._extracted(number, page))
                        spool.flush()
                    self._mark(number, _READING)
                    self._clear()
                    if number == self.end:
                        break
            if number >= done:
                if self.end is not None:
                    self._left_out(self.job.given.source, "unreadable")
                spool.write(self._marker(number + 1, 0))
        check_unchanged(self.job.before)
        self._mark(number, _PUBLISHING)
        self._publish()

    def _mark(self, number: int, doing: int) -> None:
        self.state[:] = _STATE.pack(self.begun + number, self.size, self.read, doing)

    def _clear(self) -> None:
        self.page = {"drops": [], "warnings": [], "counts": Counter()}

    def _warn(self, text: str) -> None:
        self.page["warnings"].append(text)

    def _left_out(self, source: str, reason: str) -> None:
        self.page["drops"].append((reason, {"source": source}, ""))

    def _drop(self, page: Page, reason: str, tree: Tree | None) -> None:
        where = {"source": page.source, "start": page.start, "end": page.end, "url": page.url}
        if tree is not None:
            where["header"] = tree.header
        sample = ""

        def show() -> str:
            nonlocal sample
            sample = tree.text[:SAMPLE_CHARS] if tree else ""
            return sample

        self.seen.drop(reason, where, show)  # a tree may be the whole page, and only few are shown
        self.page["drops"].append((reason, where, sample))

    def _extracted(self, number: int, page: Page) -> bytes:
        """The page's lines for the spool: its segments, then what became of the rest of it."""
        found, before = [], len(self.page["drops"])
        reason = self.blamed.get(number, "")
        if not reason:
            try:
                signal.setitimer(signal.ITIMER_REAL, self.job.cfg.page_seconds)
                try:
                    address, trees = cut(page, self.job.cfg, self.page["counts"])
                    drop = functools.partial(self._drop, page)
                    found = choose(page, address, trees, self.job.cfg, drop, self.contaminated, self.page["counts"])
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except PageDropped as dropped:
                reason = str(dropped)
            except _OutOfTime:
                reason = "took too long"
            except MemoryError:
                reason = "too much memory"
            except Exception as error:  # a page that shows a fault in these rules costs itself, too
                reason, place = "program fault", traceback.extract_tb(error.__traceback__)[-1]
                self._warn(f"program fault: {error!r}, {os.path.basename(place.filename)}:{place.lineno}; please report it with the page")
        if reason:
            del self.page["drops"][before:]
            self.page["counts"].clear()
            found = []
            self._drop(page, reason, None)
        lines = [to_json(segment, errors="replace") for segment in found]
        return b"".join([*lines, self._marker(number, len(page.html))])

    def _marker(self, number: int, size: int) -> bytes:
        """The line that ends a page in the spool; one of no bytes is the end of the input."""
        return b"#" + json.dumps({"page": number, "bytes": size, **self.page}).encode() + b"\n"

    def _publish(self) -> None:
        part, total, rows = self.job.part(), Tally(), []

        def lines() -> Iterator[bytes]:
            offset = 0
            for line in _spooled(self.spool):
                if line.startswith(b"#"):
                    total.add_page(json.loads(line[1:]))
                    continue
                rows.append(duplicates.row(from_json(Segment, line), offset, len(line)))
                offset += len(line)
                yield line

        storage.publish(part.lines, lines())
        buffer = io.BytesIO()
        np.save(buffer, np.array(rows, duplicates.ROW))
        storage.publish(part.index, buffer.getvalue())
        found = {"source": self.job.given.source, "identity": self.job.identity, "segments": len(rows), **total.to_json()}
        storage.publish_json(epath.Path(self.job.out) / f"{self.job.name}.json", found)


@functools.lru_cache(maxsize=1)
def _contamination(paths: str) -> Callable[[str], str] | None:
    return Contamination(paths).reason if paths else None


def _spooled(spool: str) -> Iterator[bytes]:
    """The whole lines of a spool up to its last marker."""
    with open(spool, "rb") as file:
        pending: list[bytes] = []
        for line in file:
            if not line.endswith(b"\n"):
                return
            pending.append(line)
            if line.startswith(b"#"):
                yield from pending
                pending.clear()


def _complete_pages(spool: str) -> int:
    """How many pages are whole in a spool; cuts off what a killed child has begun behind them."""
    if not os.path.exists(spool):
        return 0
    size, page = 0, 0
    for line in _spooled(spool):
        size += len(line)
        if line.startswith(b"#"):
            page = json.loads(line[1:])["page"]
    os.truncate(spool, size)
    return page


def _die_with_parent() -> None:
    """Linux is to kill this process when the thread that has started it ends: who takes over from its parent is to be the only writer."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@functools.cache  # once, when the process has nothing of a page yet
def _limit_memory(megabytes: int) -> None:
    """A page that asks for more than this beyond what the process has gets a MemoryError, or ends the process, but not the machine."""
    machine.limit_memory(megabytes)
