"""setup.py and launch/constraints.txt: everything that can be installed has one tested version on every Python."""

import importlib.metadata
import pathlib
import re
import sys
import types

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from humpback import internals

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def metadata(monkeypatch):
    """The arguments of setup.py's call to setup()."""
    calls = []
    fake = types.SimpleNamespace(setup=lambda **arguments: calls.append(arguments), find_packages=lambda **_: [])
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    path = ROOT / "setup.py"
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__file__": str(path), "__name__": "__main__"})
    return calls[0]


def constraints(python: str) -> dict[str, str]:
    """name -> version of the lines that hold on this Python (Linux, x86-64)."""
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    versions: dict[str, str] = {}
    for line in (ROOT / "launch" / "constraints.txt").read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        requirement = Requirement(line)
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)) and not requirement.extras and not requirement.url, line
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in versions, f"{name} twice on Python {python}"
            versions[name] = str(requirement.specifier)[2:]
    return versions


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        ("3.11", {"jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8"}),
        ("3.12", {"jax": "0.12.0", "jaxlib": "0.12.0", "flax": "0.12.12"}),
        ("3.13", {"jax": "0.12.0", "jaxlib": "0.12.0", "flax": "0.12.12"}),
    ],
)
def test_each_requirement_has_one_version(metadata, python, expected):
    pinned = constraints(python)
    assert {name: pinned[name] for name in expected} == expected
    for extra, requirements in {"": metadata["install_requires"], **metadata["extras_require"]}.items():
        missing = [r for r in requirements if canonicalize_name(Requirement(r).name) not in pinned]
        assert not missing, f"{extra}: {missing}"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_each_requirement_is_bounded_and_its_tested_version_is_within(metadata, python):
    pinned, extras = constraints(python), dict(metadata["extras_require"])
    if python == "3.11":
        tpu = Requirement(extras.pop("tpu")[0])  # for it pip refuses the extra: there is no JAX with a libtpu that does
        assert not tpu.specifier.contains(pinned[tpu.name])
    for requirements in (metadata["install_requires"], *extras.values()):
        for requirement in map(Requirement, requirements):
            assert {"<", ">="} == {bound.operator for bound in requirement.specifier}, requirement
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), (requirement, pinned)


def test_what_is_used_beside_promises_is_bounded_closely(metadata):
    """Another minor version may not have it: humpback/internals.py."""
    given = {Requirement(r).name: Requirement(r) for r in [*metadata["install_requires"], *metadata["extras_require"]["gs"]]}
    for package in internals.USED:
        version = constraints("3.13")[package]
        major, minor, *_ = map(int, version.split("."))
        following = f"{major + 1}.1" if major > 2000 else f"{major}.{minor + 1}"
        assert not given[package].specifier.contains(following), (package, version, following)


def test_what_those_bring_is_pinned_too(metadata):
    """Follows the installed packages' own requirements from setup.py's; a package that is not installed ends its branch."""
    pinned = constraints(f"{sys.version_info.major}.{sys.version_info.minor}")
    extras = [r for extra in ("test", "lint") for r in metadata["extras_require"][extra]]
    waiting, seen = [Requirement(r) for r in [*metadata["install_requires"], *extras]], set()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            children = [Requirement(r) for r in importlib.metadata.requires(requirement.name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue
        for child in children:
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in ["", *requirement.extras]):
                waiting.append(child)
    assert len(seen) > 40  # the walk went somewhere
    missing = sorted({name for name, _ in seen} - set(pinned))
    assert not missing, f"launch/constraints.txt has no version of {missing}"


def test_metadata(metadata):
    assert metadata["entry_points"]["console_scripts"] == ["humpback = humpback.__main__:main"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    heavy = {"torch", "transformers"}
    for extra in ("corpus", "demo", "test", "lint", "tpu"):
        assert not heavy & {Requirement(r).name for r in metadata["extras_require"][extra]}, extra
    assert not heavy & {Requirement(r).name for r in metadata["install_requires"]}


def test_the_demo_is_shipped_whole(metadata):
    package = ROOT / "humpback"
    shipped = {p for pattern in metadata["package_data"]["humpback"] for p in package.glob(pattern) if p.is_file()}
    data = {p for p in (package / "demo").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert len(data) >= 42 and data | {package / "py.typed"} == shipped
