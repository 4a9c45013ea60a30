"""Parses command lines as they stand in the documents, each by the program's own declaration of its flags; nothing is run.

`python -m tests.command_lines` reads a JSON list of [words, whole] and prints the list of what is wrong with each, "" for nothing. It
is a process of its own, because absl's flags are global. `whole`: required flags must be there, as in a line that a reader copies.
"""

import contextlib
import importlib
import io
import json
import pathlib
import re
import sys

from absl import flags

from humpback import cli
from humpback import config as configs
from humpback.datasets import __main__ as datasets

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "--config=configs/demo.py"
MISSING = "must have a value other than None"  # absl's words for a required flag
PYTHON = re.compile(r"(?:.*/)?python3?$")
# How a shell script declares a flag (a pattern of its `case`), and how argparse is told of one.
DECLARED = {
    ".sh": re.compile(r"^\s*(?:-h \| )?(--\w+)(?:=\*)?\)", re.MULTILINE),
    ".py": re.compile(r'add_argument\(\s*"(--\w+)"'),
}


def wrong(words: list[str], whole: bool) -> str:
    """What is wrong with a command line, "" for nothing or for a program that is not this project's."""
    while words and re.fullmatch(r"\w+=.*", words[0]):  # variables
        words = words[1:]
    words = [word for word in words if word != "…"]
    if not words:
        return ""
    name, arguments = words[0].removeprefix("./"), words[1:]
    if PYTHON.fullmatch(name) and arguments:
        if arguments[:1] == ["-m"]:
            name, arguments = "-m " + arguments[1], arguments[2:]
        else:
            name, arguments = arguments[0], arguments[1:]
    if name in ("humpback", ".venv/bin/humpback", "-m humpback"):
        return command(arguments, whole)
    if name == "-m humpback.datasets":
        return dataset(arguments)
    if name == "launch/tpu.py":
        return tpu(arguments, whole)
    if name.startswith(("launch/", "tests/")) and "*" not in name:
        return script(ROOT / name, arguments, whole)
    return ""


def command(arguments: list[str], whole: bool) -> str:
    """`humpback COMMAND --flags`, config fields and their values included."""
    if not arguments or arguments[0] not in cli.COMMANDS:
        return f"humpback has no command {' '.join(arguments[:1])!r}"
    if arguments[1:] == ["--help"]:
        return ""
    before = set(flags.FLAGS)
    importlib.import_module(cli.COMMANDS[arguments[0]][0]).define_flags()
    for flag in cli.PLACE_FLAGS:
        flags.DEFINE_string(flag, None, "")
    try:
        return parsed(arguments, whole)
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)


def parsed(arguments: list[str], whole: bool) -> str:
    """What absl says of arguments whose flags are defined."""
    if any(word.startswith("--config.") for word in arguments) and not any(word.startswith("--config=") for word in arguments):
        arguments = [arguments[0], CONFIG, *arguments[1:]]
    sys.argv = arguments  # where ml_collections looks for the fields
    try:
        rest = flags.FLAGS(arguments)
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            configs.finish(flags.FLAGS.config)
    except Exception as error:
        return "" if MISSING in str(error) and not whole else f"{type(error).__name__}: {error}"
    finally:
        flags.FLAGS.unparse_flags()
    return f"unexpected argument {rest[1]!r}" if len(rest) > 1 else ""


def dataset(arguments: list[str]) -> str:
    """`python -m humpback.datasets NAME --flags`; what it would prepare is left out."""
    datasets.prepare_oasst_seed = datasets.prepare_segments = lambda *_, **__: None
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return "" if datasets.main(arguments) == 0 else told.getvalue()
    except SystemExit:
        return told.getvalue()


def tpu(arguments: list[str], whole: bool) -> str:
    """`launch/tpu.py VERB --flags -- COMMAND --flags`."""
    (verb, *options), given = halves(arguments)
    if given and (fault := command(given, whole)):
        return fault
    before = set(flags.FLAGS)
    for name in [name for name in sys.modules if name.startswith("launch.")]:
        del sys.modules[name]  # its flags are defined when it is imported
    module = importlib.import_module("launch.tpu")
    try:
        if not re.search(rf"^    tpu\.py {verb} ", module.__doc__, re.MULTILINE):
            return f"launch/tpu.py has no verb {verb!r}"
        return parsed(["tpu.py", *options], whole)
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)


def halves(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and behind it."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def declared(path: pathlib.Path) -> set[str]:
    """The flags that a script declares."""
    more = [path.parent / "common.py"] if path.parent.name == "benchmarks" else []
    return {"--help", *(flag for file in (path, *more) for flag in DECLARED[path.suffix].findall(file.read_text()))}


def script(path: pathlib.Path, arguments: list[str], whole: bool) -> str:
    """Another script of this repository: it is there, may be started, and declares the flags."""
    if not path.exists():
        return f"there is no {path.relative_to(ROOT)}"
    if path.suffix == ".sh" and not path.stat().st_mode & 0o111:
        return f"{path.relative_to(ROOT)} is not executable"
    if path.suffix not in DECLARED:
        return ""
    arguments, given = halves(arguments)
    own = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    unknown = own - declared(path)
    if path.name == "reproduce.sh" and unknown:  # the rest is for tpu.py
        told = [word for word in arguments if word.partition("=")[0] in unknown]
        return tpu(["supervise", "--name=n", *told], whole) if "--rehearse" not in own else f"--rehearse takes no {sorted(unknown)}"
    if path.name == "soak.sh":
        kinds = {file.stem.removeprefix("test_") for file in (ROOT / "tests" / "soak").glob("test_*.py")}
        unknown |= {word for word in arguments if not word.startswith("--")} - kinds
    if path.name == "test.sh":
        unknown |= {word for word in arguments if not word.startswith("-") and not (ROOT / word).exists()}
    if unknown:
        return f"{path.relative_to(ROOT)} does not know {', '.join(sorted(unknown))}"
    return wrong(given, whole) if given else ""


if __name__ == "__main__":
    print(json.dumps([wrong(words, whole) for words, whole in json.load(sys.stdin)]))
