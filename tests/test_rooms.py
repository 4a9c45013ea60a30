"""The house: which room uses which. Imports inside functions count, and so do names of modules in texts, which are imported later."""

import ast
import graphlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "humpback"
# A room is a folder or a module of the package's own. It uses rooms of the lines above its own, and no others.
ORDER = """
errors rounding machine metadata background languages
internals extras credentials paths rules
gcs tpu_flags
storage prompts chips model
digests
records config keys distributed tokens evaluation locks
watchdog experiments
progress corpus datasets models
convert decoding training export
planning pages report
review
stages
commands api
__init__
cli
__main__
"""
LINES = {room: number for number, line in enumerate(ORDER.split("\n")) for room in line.split()}


def modules(package: pathlib.Path) -> dict[str, pathlib.Path]:
    """Dotted name -> file, a folder under its own name."""
    names = {path: path.relative_to(package.parent).with_suffix("").parts for path in package.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


def imports(package: pathlib.Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports anywhere, or names in a text."""
    files = modules(package)

    def longest(name: str) -> str | None:
        """The module that holds the name."""
        while name not in files and "." in name:
            name = name.rpartition(".")[0]
        return name if name in files else None

    def named(node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            return [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{package.name}."):
            return [node.value] if all(part.isidentifier() for part in node.value.split(".")) else []
        return []

    used = {name: {longest(text) for node in ast.walk(ast.parse(path.read_text())) for text in named(node)} for name, path in files.items()}
    return {name: {other for other in others if other and other != name} for name, others in used.items()}


def room(module: str) -> str:
    """The room of a module."""
    return module.split(".")[1] if "." in module else "__init__"


def wrong_ways(package: pathlib.Path) -> list[str]:
    """Imports that the order does not allow."""
    pairs = sorted((name, other) for name, others in imports(package).items() for other in others if room(name) != room(other))
    return [f"{name} imports {other}" for name, other in pairs if LINES[room(other)] >= LINES[room(name)]]


def circle(package: pathlib.Path) -> list[str]:
    """Modules that import each other in a circle; [] when none do."""
    try:
        graphlib.TopologicalSorter(imports(package)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_every_room_has_its_line():
    assert {room(name) for name in modules(PACKAGE)} == LINES.keys()


def test_rooms_use_only_those_above():
    assert not wrong_ways(PACKAGE)


def test_no_modules_import_each_other():
    assert not circle(PACKAGE)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("from humpback.stages import run", True),
        ("def later():\n    import humpback.stages.run as last\n", True),
        ("if False:\n    from humpback.planning.stage import Stage\n", True),
        ('NAME = "humpback.stages.run.run"', True),
        ("from humpback.decoding.engine import Engine", True),  # of the same line
        ("from humpback import model", False),
        ("from humpback.training import loop", False),
    ],
)
def test_a_wrong_way_is_seen(tmp_path, text, wrong):
    """`text` stands in training/."""
    package = tmp_path / "humpback"
    for name in ("training/loop", "training/batches", "stages/run", "planning/stage", "decoding/engine", "model/llama"):
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        (path.parent / "__init__.py").write_text("")
    (package / "training" / "batches.py").write_text(text)
    assert bool(wrong_ways(package)) is wrong and not circle(package)
    (package / "training" / "loop.py").write_text("def late():\n    from humpback.training import batches\n")
    assert bool(circle(package)) is ("loop" in text)
