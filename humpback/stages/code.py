"""Which version of the code makes something: what a half-done stage may be continued by."""

import ast
import functools
import gc
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Iterator

_PACKAGE = pathlib.Path(__file__).parents[1]
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_VERSIONS = ("jax", "jaxlib", "libtpu")  # what compiles and runs the programs


def _read() -> dict[str, bytes]:
    """Module -> its source."""
    found = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_bytes()
    return found


_SOURCES = _read()  # as it is now: what is edited while this process works is not what it runs


@functools.cache
def version(module: str) -> dict[str, str]:
    """{"humpback": a hash of the modules of the package that a module reaches by imports, "jax", "jaxlib", "libtpu": their versions}.

    Imports anywhere count, lazy ones too. Comments and docstrings do not.
    """
    digest = hashlib.sha256()
    for name in sorted(reached(module)):
        digest.update(f"{name}\0{_parsed(name)[0]}\0".encode())
    return {"humpback": digest.hexdigest()[:16], **{name: _installed(name) for name in _VERSIONS}}


def reached(module: str) -> set[str]:
    """The modules of the package that a module reaches by imports, itself among them."""
    found: set[str] = set()
    waiting = _with_packages(module)
    while waiting:
        name = waiting.pop()
        if name in _SOURCES and name not in found:
            found.add(name)
            waiting += _parsed(name)[1]
    return found


@functools.cache
def _parsed(name: str) -> tuple[str, list[str]]:
    """What a module says, and what it imports."""
    tree = _tree(_SOURCES[name])
    imported = [part for node in ast.walk(tree) for part in _imported(node)]
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return _text(tree), imported


def _tree(source: bytes) -> ast.Module:
    """A module's tree, made without a collection of garbage in between.

    JAX runs Python code at every collection, in which another thread may begin to parse, too: a formatted traceback does. Python 3.11
    counts one depth for both trees, and then refuses them (python/cpython issue 106905).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()


def _text(node: object) -> str:
    """A tree as a text, without what is empty, so that Python 3.11 to 3.13 say the same, as they do not by ast.dump or ast.unparse."""
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 ends a width within an f-string by an empty text
        return f"JoinedStr({_text([part for part in node.values if getattr(part, 'value', None) != ''])})"
    if isinstance(node, ast.AST):
        fields = ",".join(f"{name}={_text(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({fields})"
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"
    return ascii(node)  # what repr shows of a letter changes with Unicode


def _imported(node: ast.AST) -> Iterator[str]:
    """What an import names: modules, the packages that they are in, and names that may be modules."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    for name in names:
        if name.partition(".")[0] == _PACKAGE.name:
            yield from _with_packages(name)


def _with_packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
