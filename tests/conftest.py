"""Eight simulated CPU devices for every test, and the folder of real test data."""

import gc
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import jax
import pytest

from humpback import locks, machine
from tests import compilation
from tests.forks import Humpback

# Before anything asks for a device: afterwards the number is fixed for the process.
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder HUMPBACK_TEST_DATA names (stories260k, oasst, …); the test is skipped without it."""
    folder = os.environ.get("HUMPBACK_TEST_DATA")
    if not folder:
        pytest.skip("HUMPBACK_TEST_DATA is not set: it names the folder with stories260k, oasst and the other test data")
    if not pathlib.Path(folder).is_dir():
        pytest.skip(f"HUMPBACK_TEST_DATA={folder} is not a folder")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def llama_cpp() -> pathlib.Path:
    """The folder HUMPBACK_LLAMA_CPP names, which tests/golden/llama_cpp.py makes; the test is skipped without it."""
    folder = os.environ.get("HUMPBACK_LLAMA_CPP")
    if not folder:
        pytest.skip("HUMPBACK_LLAMA_CPP is not set: it names the folder that tests/golden/llama_cpp.py makes")
    return pathlib.Path(folder)


@pytest.fixture(autouse=True)
def no_locks() -> Iterator[None]:
    """What a test's runs hold is given up, or this process would go on renewing it."""
    yield
    locks.release_all()


@pytest.fixture(scope="module", autouse=True)
def freed_memory() -> Iterator[None]:
    """What a file's tests have freed goes back to the system: three processes kept up to 11 GB of it."""
    yield
    machine.give_back()


@pytest.fixture(scope="session")
def humpback() -> Iterator[Humpback]:
    """Runs `humpback …` in a fork, for tests of what a command says."""
    command = Humpback()
    yield command
    command.end()


# The files that run whole commands, kill them, or train: they begin first, so that at the end no process waits for one of them, and
# `launch/test.sh --fast` leaves them out.
LONG = ("stages/test_kill.py", "training/test_pod.py", "decoding/test_offline_pod.py", "launch/test_tpu.py", "launch/test_money.py",
        "training/test_loop.py", "decoding/test_engine.py", "training/test_checkpoint.py", "launch/test_local_pod.py")  # fmt: skip
# Folders that run apart from the suite, with all that users compile.
AS_A_USERS = ("soak", "parity", "planning")


def pytest_configure(config: pytest.Config) -> None:
    """What any process of this run of the tests has compiled is read by all others: many tests need the same programs.

    Not in a soak: what it kills compiles for itself, as a user's run does.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR") and "HUMPBACK_SOAK_SEED" not in os.environ:
        folder = tempfile.mkdtemp(prefix="humpback-programs-")
        config.add_cleanup(lambda: shutil.rmtree(folder))
        compilation.share(folder)


@pytest.hookimpl(optionalhook=True)  # an environment without pytest-xdist runs some of the tests, too
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait most of their time, for processes and for a simulated gcloud."""
    return machine.cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the long files and sorts them to the front; within a file, tests of one kind of compilation come together, since what is
    compiled is forgotten between the kinds."""
    for item in items:
        if item.path.as_posix().endswith(LONG):
            item.add_marker("long")
        if item.path.parent.name in AS_A_USERS:
            item.add_marker("optimized")
    files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}

    def place(item: pytest.Item) -> tuple[bool, int, bool]:
        return item.get_closest_marker("long") is None, files[item.path], item.get_closest_marker("optimized") is not None

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before a test's fixtures: what they and the test compile is compiled quickly, or as for a user."""
    compilation.choose(quick=item.get_closest_marker("optimized") is None)
