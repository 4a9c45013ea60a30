"""The version of the code that makes a stage."""

import ast
import contextlib
import gc
import shutil
import subprocess
import sys
import threading
import time

import pytest

from humpback.stages import code

SOURCES = {
    "humpback": b"",
    "humpback.stages": b"",
    "humpback.stages.one": b'"""One."""\nfrom humpback import two\n\n\ndef work():\n    """Works."""\n    import humpback.far.three\n',
    "humpback.two": b"class Two:\n    '''Two.'''\n    x = 1\n",
    "humpback.far": b"",
    "humpback.far.three": b"from os import path  # ours is not os\n",
    "humpback.other": b"from humpback.stages import one\n",
}


@pytest.fixture
def version(monkeypatch):
    """version(module, **changes of the sources' texts)."""

    def of(module: str = "humpback.stages.one", **changes: bytes) -> str:
        monkeypatch.setattr(code, "_SOURCES", SOURCES | {name.replace("__", "."): text for name, text in changes.items()})
        code.version.cache_clear()
        code._parsed.cache_clear()
        return code.version(module)["humpback"]

    yield of
    code.version.cache_clear()
    code._parsed.cache_clear()


def test_what_a_module_reaches(monkeypatch, version):
    assert version()
    assert code.reached("humpback.stages.one") == SOURCES.keys() - {"humpback.other"}
    assert code.reached("humpback.two") == {"humpback", "humpback.two"}


def test_comments_and_docstrings_are_no_code(version):
    assert version(humpback__two=b'# Why.\nclass Two:\n    """Another."""\n\n    x = 1  # so\n') == version()
    assert version(humpback__stages__one=SOURCES["humpback.stages.one"].replace(b"Works.", b"Does it.")) == version()


@pytest.mark.parametrize("name", ["humpback.stages.one", "humpback.two", "humpback.far.three", "humpback.far", "humpback"])
def test_a_change_anywhere_on_the_way_is_another_version(version, name):
    assert version(**{name.replace(".", "__"): SOURCES[name] + b"y = 2\n"}) != version()


def test_a_change_elsewhere_is_not(version):
    assert version(humpback__other=b"y = 2\n") == version()


def test_the_text_of_a_module_is_written_out_here(version):
    """Python 3.12 gives a function `type_params`, 3.13 leaves what is empty out of ast.dump; a width in an f-string has two forms."""
    version(humpback__other=b'def f(a, *, b=None) -> str:\n    return f"{a:<{b}} \xc3\xa9"\n')
    arguments = "args=arguments(args=[arg(arg='a')],kwonlyargs=[arg(arg='b')],kw_defaults=[Constant()])"
    width = "JoinedStr([Constant(value='<'),FormattedValue(value=Name(id='b',ctx=Load()),conversion=-1)])"
    shown = f"FormattedValue(value=Name(id='a',ctx=Load()),conversion=-1,format_spec={width})"
    body = f"body=[Return(value=JoinedStr([{shown},Constant(value=' \\xe9')]))]"
    assert code._parsed("humpback.other")[0] == f"Module(body=[FunctionDef(name='f',{arguments},{body},returns=Name(id='str',ctx=Load()))])"


@pytest.mark.parametrize("other", ["python3.11", "python3.12", "python3.13"])
def test_other_versions_of_python_say_the_same(other):
    """Where this machine has them: of every module of the package."""
    script = f"""
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("code_", {code.__file__!r})
code = importlib.util.module_from_spec(spec)
spec.loader.exec_module(code)
print(hashlib.sha256("".join(code._parsed(name)[0] for name in sorted(code._SOURCES)).encode()).hexdigest())
"""
    if not shutil.which(other) or subprocess.run([other, "--version"], capture_output=True).returncode:
        pytest.skip(f"there is no {other}")
    ours, others = (subprocess.run([name, "-c", script], capture_output=True, text=True) for name in (sys.executable, other))
    assert len(ours.stdout) == 65 and others.stdout == ours.stdout, others.stderr


def test_the_real_modules_are_found():
    found = code.reached("humpback.stages.seed")
    assert {"humpback.stages.seed", "humpback.datasets.pair_files", "humpback.datasets.oasst_seed", "humpback.storage"} < found
    assert not {"humpback.training.loop", "humpback.stages.finetune", "humpback.corpus.readers"} & found
    assert code.version("humpback.stages.seed").keys() == {"humpback", "jax", "jaxlib", "libtpu"}


def test_another_thread_may_parse_while_garbage_is_collected():
    """As JAX does, Python code runs at each collection, and so another thread's turn may come."""
    sources, done = code._read(), threading.Event()

    def parse() -> None:
        while not done.is_set():
            with contextlib.suppress(SystemError):  # its own tree is not what this is about
                ast.parse(sources["humpback.config"])

    def turn(*_: object) -> None:
        time.sleep(0)

    other, interval = threading.Thread(target=parse), sys.getswitchinterval()
    gc.callbacks.append(turn)
    sys.setswitchinterval(1e-6)
    other.start()
    try:
        for source in sources.values():
            assert isinstance(code._tree(source), ast.Module)
    finally:
        done.set()
        other.join()
        sys.setswitchinterval(interval)
        gc.callbacks.remove(turn)
