"""The launch scripts: syntax, wrong flags, and that nothing names one particular machine."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "launch").rglob("*.sh")), ROOT / ".ci" / "run"]


def run(*command, env=None, cwd=None):
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    result = run("bash", "-n", str(script))
    assert result.returncode == 0, result.stderr
    assert os.access(script, os.X_OK) == (script.name != "common.sh")  # that one is only sourced


@pytest.mark.parametrize("script", ["quickstart.sh", "soak.sh", "real_pages.sh", "study.sh"])
def test_unknown_flags_are_refused_before_anything_is_installed(script):
    if script == "soak.sh" and not list((ROOT / "tests" / "soak").glob("test_*.py")):
        pytest.skip("tests/soak is not part of this copy")
    result = run(str(ROOT / "launch" / script), "--wrong")
    assert result.returncode == 1 and "--wrong" in result.stderr and not result.stdout


def text_files():
    """Every file of the repository that git would keep (or, without git, that .gitignore does not name)."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT) if shutil.which("git") else None
    if listed and listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    else:
        paths = [p for p in ROOT.rglob("*") if not re.search(r"/(\.git|\.venv[^/]*|runs|build|dist|\.?__?\w*cache\w*|.*egg-info)/", str(p))]
    for path in sorted(paths):
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            yield path.relative_to(ROOT).as_posix(), data.decode("utf-8", errors="replace")


def test_no_file_names_one_machine():
    # Written in pieces so that this file does not match itself.
    patterns = [
        r"(?<![\w.~])/(?:wo" r"rk|ro" r"ot|ho" r"me/\w+|Us" r"ers/\w+)/",
        r"(?:extra-)?index" r"-url|find" r"-links|pythonho" r"sted|pypi\.o" r"rg",
        r"\b(?:10\.\d+|192\.16" r"8|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b",
    ]
    found = []
    for name, text in text_files():
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{name}:{number}: {line.strip()[:120]}" for pattern in patterns if re.search(pattern, line)]
    assert not found, "\n".join(found)


def test_only_ci_knows_where_test_data_lies():
    assert [script.name for script in SCRIPTS if "shar" + "ed/" in script.read_text()] == ["run"]
