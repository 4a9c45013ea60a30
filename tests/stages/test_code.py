"""The version of the code that makes a stage."""

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


def test_the_real_modules_are_found():
    found = code.reached("humpback.stages.seed")
    assert {"humpback.stages.seed", "humpback.datasets.pair_files", "humpback.datasets.oasst_seed", "humpback.storage"} < found
    assert not {"humpback.training.loop", "humpback.stages.finetune", "humpback.corpus.readers"} & found
    assert code.version("humpback.stages.seed").keys() == {"humpback", "jax", "jaxlib", "libtpu"}
