"""Jobs to answers: from the cache, or by a child process with the TPU's compiler.

The cache is a folder of two sorts of files. compiled-PROGRAM.json is what the compiler said of a program, by the hash of the lowered
program, topology and versions. asked-KEY.json names the program of a job, by the hash of the job, of the source it comes from and of the
versions: with it nothing need be lowered. When the source has changed, the child lowers again (seconds) and only compiles what is
another program. Files appear whole, so a kill costs the compilation it hits.
"""

import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from humpback import storage
from humpback.errors import UserError
from humpback.planning import jobs
from humpback.planning.compile import INSTALL
from humpback.planning.jobs import Answer, Job

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PACKAGES = ("libtpu", "jax", "jaxlib")
_VERSIONS = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {_PACKAGES}}}))"
_SHOWN = 2_000  # characters of a child's last words


def default_folder() -> pathlib.Path:
    """Below the user's folder for caches."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "humpback" / "plan"


class Compiler:
    """Answers jobs. python: a Python that has libtpu; say: takes a line when something was compiled; expected: how many jobs the caller
    knows of, for the time that is left. May be used from several threads."""

    def __init__(self, folder: storage.PathLike, python: str = sys.executable, say: Callable[[str], None] = lambda line: None):
        self.folder, self.expected, self.compiled = pathlib.Path(folder), 0, 0
        self._python, self._say, self._started = python, say, time.monotonic()
        self._locks: dict[str, threading.Lock] = {}
        self._answered, self._lock = 0, threading.Lock()

    @functools.cached_property
    def versions(self) -> dict[str, str]:
        """Of the packages that decide what a program compiles to. UserError without libtpu."""
        asked = [self._python, "-c", _VERSIONS]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
        except OSError as error:
            raise UserError(f"--python={self._python}: cannot be run ({error.strerror})") from error
        if done.returncode:
            missing = next((name for name in _PACKAGES if f"for {name}" in done.stderr), "libtpu")
            raise UserError(
                f"{self._python} has no {missing}: a plan asks the TPU's compiler. In Humpback's folder: {INSTALL}; or let --python name "
                "a Python that has it beside JAX and Flax, as `python tests/benchmarks/tpu_compile.py --python` makes one"
            )
        return json.loads(done.stdout)

    def ask(self, job: Job, label: str) -> Answer:
        """The compiler's answer; label: what the job is, for the line that says it was compiled."""
        key = self._key(job)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self._look(key)
            answer = found or self._compile(job, key, label)
        with self._lock:
            self._answered += 1
        return answer

    def _key(self, job: Job) -> str:
        asked = [jobs.to_json(job), self.versions, self._source]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    @functools.cached_property
    def _source(self) -> str:
        return jobs.source_digest()

    def _look(self, key: str) -> Answer | None:
        try:
            program = json.loads((self.folder / f"asked-{key}.json").read_text())["program"]
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not asked before, or a file that somebody cut
        values = jobs.compiled_before(self.folder, program)
        return jobs.answer_of(values) if values else None

    def _compile(self, job: Job, key: str, label: str) -> Answer:
        asked = {"job": jobs.to_json(job), "versions": self.versions, "known": str(self.folder)}
        values = self._child(asked, label)
        answer = jobs.answer_of(values)
        storage.publish_json(self.folder / f"compiled-{answer.program}.json", values, replace=True)
        storage.publish_json(self.folder / f"asked-{key}.json", {"program": answer.program, "label": label}, replace=True)
        with self._lock:
            self.compiled += 1
            self._tell(label, answer)
        return answer

    def _tell(self, label: str, answer: Answer) -> None:
        gib = f"{answer.total / 2**30:.2f} of {answer.limit / 2**30:.2f} GiB a chip{'' if answer.fits else ', refused'}"
        text, minutes = f"{label}: {gib}, {answer.seconds:.0f} s", (time.monotonic() - self._started) / 60
        left = max(0, self.expected - self._answered - 1)
        self._say(f"[{minutes:.0f} min, {self._answered + 1} of about {max(self.expected, self._answered + 1)}] {text}"
                  + (f"; about {left * minutes / self.compiled:.0f} min left" if left else ""))  # fmt: skip

    def _child(self, asked: dict[str, Any], label: str) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
        command = [self._python, "-m", "humpback.planning.jobs"]
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:  # what the compiler writes, however it ends
            done = subprocess.run(
                command, input=json.dumps(asked), stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, check=False
            )
            errors.seek(0)
            words = errors.read()[-_SHOWN:]
        if done.returncode:
            told = [line for line in words.splitlines() if line.startswith("humpback.errors.UserError: ")]
            if told:
                raise UserError(f"{label}: {told[-1].partition(': ')[2]}")
            raise UserError(f"{label}: the compiler's process ended with exit code {done.returncode}; its last words:\n{words}")
        return json.loads(done.stdout.splitlines()[-1])
