"""Plants the faults of faults.toml, one after another, in a copy of the working tree, and runs of each the test that must turn red.

`python -m tests.faults.plant [NAME…]` plants the named ones, or all; exit code 1 when one stays green. The tree itself is never touched.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

REPOSITORY = pathlib.Path(__file__).parents[2]
TABLE = pathlib.Path(__file__).with_name("faults.toml")
SECONDS = 300  # for a test; the slowest takes a tenth of it on a core of its own
# What a slip in the table itself makes of a test: no fault was seen then.
_SLIP = re.compile(r"(?:ImportError|ModuleNotFoundError|SyntaxError|IndentationError|NameError)\b")


@dataclass(frozen=True)
class Fault:
    """One entry of the table: `old` becomes `new`, and the test of this name (with parameters, or all of it) turns red."""

    name: str
    why: str
    old: str
    new: str
    test: str

    def places(self, sources: dict[pathlib.Path, str]) -> list[pathlib.Path]:
        """The files that hold `old`, each as often as it does; it must be one."""
        return [path for path, text in sources.items() for _ in range(text.count(self.old))]


class Outcome(NamedTuple):
    """How a test went: `passed`, `failed`, `error` (before or after the test itself) or `skipped`, and what it said."""

    result: str
    message: str


class Ran(NamedTuple):
    """A run of pytest: its exit code, None when the time was over; each test's outcomes, one a parameter; its last lines."""

    code: int | None
    outcomes: dict[str, list[Outcome]]
    output: str


def read_faults() -> list[Fault]:
    """The table, in its order."""
    return [Fault(name, **entry) for name, entry in tomllib.loads(TABLE.read_text()).items()]


def sources(root: pathlib.Path = REPOSITORY) -> dict[pathlib.Path, str]:
    """The text of every module that a fault may be in."""
    return {path: path.read_text() for path in sorted((root / "humpback").rglob("*.py"))}


def files_of_tests(root: pathlib.Path = REPOSITORY) -> dict[str, list[str]]:
    """Name of a test function → the files that have one of it."""
    files: dict[str, list[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE):
            files.setdefault(name, []).append(str(path.relative_to(root)))
    return files


class Copy:
    """A copy of what git knows of the working tree, and of new files that it does not ignore."""

    def __init__(self, folder: pathlib.Path):
        self._root, self._report = folder / "tree", folder / "report.xml"
        listed = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
            if (REPOSITORY / name).is_file():
                (self._root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, self._root / name)
        self._sources, self._tests = sources(self._root), files_of_tests(self._root)

    @contextlib.contextmanager
    def planted(self, fault: Fault) -> Iterator[None]:
        """With the fault in it. AssertionError when its text is not there exactly once."""
        places = fault.places(self._sources)
        assert len(places) == 1, f"{fault.name}: its old text stands {len(places)} times in humpback/"
        text = self._sources[places[0]]
        places[0].write_text(text.replace(fault.old, fault.new))
        try:
            yield
        finally:
            places[0].write_text(text)

    def run(self, tests: Collection[str]) -> Ran:
        """Runs tests, all in one process."""
        nodes = [f"{self._tests[test.partition('[')[0]][0]}::{test}" for test in tests]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={self._report}", *nodes]
        # Without bytecode: Python would take it for that of another file of the same size and second.
        environment = {**os.environ, "PYTHONPATH": str(self._root), "PYTHONDONTWRITEBYTECODE": "1", "JAX_PLATFORMS": "cpu"}
        self._report.unlink(missing_ok=True)
        outcomes: dict[str, list[Outcome]] = {test: [] for test in tests}
        try:
            done = subprocess.run(command, cwd=self._root, env=environment, capture_output=True, text=True, timeout=SECONDS * len(tests))
        except subprocess.TimeoutExpired:
            return Ran(None, outcomes, "")
        for case in ElementTree.parse(self._report).iter("testcase") if self._report.exists() else ():
            name = case.get("name", "")
            for test in {name, name.partition("[")[0]} & outcomes.keys():
                outcomes[test].append(_outcome(case))
        return Ran(done.returncode, outcomes, (done.stdout + done.stderr)[-2000:])


def _outcome(case: ElementTree.Element) -> Outcome:
    for tag, result in (("error", "error"), ("failure", "failed"), ("skipped", "skipped")):
        if (element := case.find(tag)) is not None:
            return Outcome(result, element.get("message", ""))
    return Outcome("passed", "")


def verdict(ran: Ran, test: str) -> str:
    """What is wrong with a test that had to turn red; "" when it did, by what it says itself and not by a slip in the table."""
    if ran.code is None:
        return f"its test was not done after {SECONDS} s"
    for result, message in ran.outcomes[test]:
        if result in ("error", "skipped") or _SLIP.match(message):
            return f"its test did not fail, it ended in {result}: {message:.200}"
    if ran.code == 0:
        return "its test does not see it"
    red = ran.code == 1 and any(result == "failed" for result, _ in ran.outcomes[test])
    return "" if red else f"its test was not run (pytest's exit code is {ran.code}): {ran.output}"


def plant(faults: Sequence[Fault], folder: pathlib.Path) -> list[str]:
    """Plants the faults one after another, prints how each went, and returns what is wrong, [] when all are red.

    folder: an empty one, for the copy. Before, all their tests are run without a fault, and must pass.
    """
    copy, started = Copy(folder), time.monotonic()
    tests = list(dict.fromkeys(fault.test for fault in faults))
    clean = copy.run(tests)
    wrong = [f"{test} does not pass without a fault" for test in tests if {o.result for o in clean.outcomes[test]} != {"passed"}]
    print(f"{len(tests)} tests without a fault: {len(tests) - len(wrong)} pass ({time.monotonic() - started:.1f} s)", flush=True)
    if wrong:
        return [*wrong, clean.output]
    for number, fault in enumerate(faults, 1):
        started = time.monotonic()
        with copy.planted(fault):
            ran = copy.run([fault.test])
        missed = verdict(ran, fault.test)
        said = next((message for result, message in ran.outcomes[fault.test] if result == "failed"), "").partition("\n")[0]
        print(f"{number}/{len(faults)} {fault.name} ({time.monotonic() - started:.1f} s): {missed or f'red, {said:.80}'}", flush=True)
        if missed:
            wrong.append(f"{fault.name}: {missed}")
    return wrong


def main() -> None:
    """The command line."""
    faults = {fault.name: fault for fault in read_faults()}
    names = sys.argv[1:] or list(faults)
    if unknown := [name for name in names if name not in faults]:
        sys.exit(f"no fault {', '.join(unknown)}; there are: {', '.join(faults)}")
    with tempfile.TemporaryDirectory() as folder:
        wrong = plant([faults[name] for name in names], pathlib.Path(folder))
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
