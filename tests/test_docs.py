"""The documents: links and anchors resolve, command lines parse, what is named is there, and pages keep their size."""

import json
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from humpback import config as configs

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "third_party" / "README.md", *DOCS]
NAMES = ("results", "benchmarks", "corpus", "method", "training", "decoding", "weights", "tpu", "planning", "reliability",
         "architecture", "tests", "faq", "export", "evaluation", "free_tpu")  # fmt: skip

README_LINES, README_WORDS, PROSE_CHARACTERS, PAGE_LINES = 200, 1_600, 100, 250
STATUS_WITHIN = 60  # lines of README

LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```(\w*)$")
# A command in the middle of a sentence, a path of this repository, a config field.
COMMAND = re.compile(r"(?:\.venv/bin/)?humpback |(?:\.venv/bin/)?python -m humpback|(?:\./)?launch/\S+ ")
PATH = re.compile(r"(?:humpback|tests|configs|launch|docs|third_party)/[\w./-]*")
FIELD = re.compile(rf"((?:{'|'.join(sorted({name.split('.')[0] for name, _ in configs.leaves(configs.Config())}))})\.[a-z_]+)(?:=\S*)?")
FLAG = re.compile(r"--([a-z]\w*)(?:[= ].*)?")


def lines(page: pathlib.Path) -> Iterator[tuple[int, str, str | None]]:
    """(number, line, language of the code block that it is in or None) of each line; the fences are left out."""
    block = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if fence := FENCE.match(line):
            block = fence[1] if block is None else None
        else:
            yield number, line, block


def place(page: pathlib.Path, number: int) -> str:
    return f"{page.relative_to(ROOT)}:{number}"


def spans(page: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(place, text) of each piece of code inside a sentence or a table."""
    for number, line, block in lines(page):
        if block is None:
            yield from ((place(page, number), span) for span in CODE.findall(line))


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    found: set[str] = set()
    for _, line, block in lines(page):
        if block is None and (heading := re.match(r"#+ +(.*)", line)):
            text = re.sub(r"[^\w\- ]", "", CODE.sub(r"\1", LINK.sub("", heading[1])).lower()).replace(" ", "-")
            found.add(next(name for name in (text, *(f"{text}-{n}" for n in range(1, 99))) if name not in found))
    return found


def commands(page: pathlib.Path) -> Iterator[tuple[str, list[str], bool]]:
    """(place, words, whole) of each command of the page's shell blocks, which must be whole, and of those inside sentences."""
    begun, text = 0, ""
    for number, line, block in lines(page):
        if block != "bash":
            continue
        begun, text = begun or number, text + line
        if text.endswith("\\"):
            text = text[:-1]
            continue
        for words in split(text):
            yield place(page, begun), words, True
        begun, text = 0, ""
    for where, span in spans(page):
        if COMMAND.match(span):
            yield where, shlex.split(span.replace("=T", "=1")), False  # T is an iteration


def split(line: str) -> Iterator[list[str]]:
    """The words of each command of a shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if re.fullmatch(r"[();|&]+", word):
            yield words
            words = []
        else:
            words.append(word)


def test_the_pages_are_there():
    assert {page.stem for page in DOCS} == set(NAMES)
    assert not [name for name in NAMES if f"(docs/{name}.md" not in README.read_text()], "README leads to each"


def test_readme_keeps_its_size():
    text = README.read_text()
    assert len(text.splitlines()) <= README_LINES and len(text.split()) <= README_WORDS
    prose = [(n, line) for n, line, block in lines(README) if block is None and not line.startswith("|")]
    assert not [n for n, line in prose if len(line) > PROSE_CHARACTERS]
    tables = [n for n, line, _ in lines(README) if line.startswith("| a TPU |")]
    assert tables and tables[0] <= STATUS_WITHIN, "the table of what was verified where"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_pages_keep_their_size_and_open_with_what_a_reader_gains(page):
    text = page.read_text().splitlines()
    assert len(text) <= PAGE_LINES
    assert text[0].startswith("# ") and text[1] == "" and text[2].startswith("After this page you ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    broken = []
    for number, line, block in lines(page):
        for target in LINK.findall(CODE.sub("", line)) if block is None else []:
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{place(page, number)}: {target}")
    assert not broken, "\n".join(broken)


def test_command_lines_parse():
    found = [given for page in PAGES for given in commands(page)]
    # `--config.FIELD=VALUE` alone is a flag of `humpback run`.
    found += [(where, ["humpback", "run", span], False) for page in PAGES for where, span in spans(page) if span.startswith("--config.")]
    assert len(found) > 50
    given = json.dumps([(words, whole) for _, words, whole in found])
    done = subprocess.run([sys.executable, "-m", "tests.command_lines"], cwd=ROOT, input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    faults = zip(found, json.loads(done.stdout), strict=True)
    assert not (wrong := [f"{where}: {shlex.join(words)}: {fault}" for (where, words, _), fault in faults if fault]), "\n".join(wrong)


def test_the_tree_of_architecture_has_every_module():
    """Each room of humpback/ names its modules, and no others."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = re.search(r"^humpback/\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]
    shown: dict[str, set[str]] = {"": set()}
    room = ""
    for line in tree.splitlines():
        if line[2] != " ":  # the package itself, or a new room
            room = folder[1] if (folder := re.match(r"  (\w+)/", line)) else ""
        shown.setdefault(room, set()).update(re.findall(r"\w+\.py\b", line))
    package = ROOT / "humpback"
    there = {room: {file.name for file in (package / room).glob("*.py")} - {"__init__.py", "__main__.py"} for room in shown}
    assert {room: names - {"__init__.py", "__main__.py"} for room, names in shown.items()} == there
    assert set(shown) - {""} == {folder.name for folder in package.iterdir() if folder.is_dir() and folder.name != "__pycache__"}


def test_every_kind_of_soak_is_told():
    told = re.search(r"^## The soak tests\n(.*?)^## ", (ROOT / "docs" / "tests.md").read_text(), re.DOTALL | re.MULTILINE)[1]
    there = {file.stem.removeprefix("test_") for file in (ROOT / "tests" / "soak").glob("test_*.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE)) == there


def test_what_is_named_is_there():
    """Paths, config fields and flags that stand in a sentence."""
    fields = {name for name, _ in configs.leaves(configs.Config())}
    sources = [*(ROOT / "humpback").rglob("*.py"), *(ROOT / "launch").glob("*"), *(ROOT / "tests" / "benchmarks").glob("*.py")]
    code = "\n".join(source.read_text() for source in sources if source.is_file())
    switches = set(re.findall(r'DEFINE_bool\(\s*"(\w+)"', code))
    flags = {*re.findall(r'(?:DEFINE_\w+\(\s*"|add_argument\(\s*"--|^ *--)(\w+)', code, re.MULTILINE), *(f"no{name}" for name in switches)}
    wrong = []
    for page in PAGES:
        for where, span in spans(page):
            if PATH.fullmatch(span) and not (ROOT / span).exists():
                wrong.append(f"{where}: there is no {span}")
            elif (field := FIELD.fullmatch(span)) and field[1] not in fields and not span.endswith((".py", ".json")):
                wrong.append(f"{where}: the config has no field {field[1]}")
            elif (flag := FLAG.fullmatch(span)) and flag[1] not in flags:
                wrong.append(f"{where}: nothing declares --{flag[1]}")
    assert not wrong, "\n".join(wrong)


# Modules that replace files -> how docs/reliability.md calls these.
REPLACED = {
    "stages/summary.py": "`summary.json` `timing.json` `report.md`", "report/write.py": "`report.html`",
    "stages/study.py": "`study.json` `study.md` `study.svg` `held_out.jsonl`", "review/agreement.py": "`agreement-*.json`",
    "stages/commandline.py": "`config.json`", "digests.py": "`digests.json`", "locks.py": "`lock`",
    "stages/directory.py": "`stage.json` `inputs.json` `timing.json`", "stages/finetune.py": "`held_out.jsonl`",
    "stages/segment.py": "`yield.json` `samples.json`", "stages/samples.py": "`samples.json`",
    "commands/compare_answers.py": "`annotations.json` `report.json`",
    "commands/choose_answers.py": "`report.json`", "models/checksums.py": "`checksums.json`", "training/checkpoint.py": "`meta.json`",
    "training/events.py": "events", "training/profile.py": "profiles", "planning/cache.py": "cache",
    **dict.fromkeys(["commands/review.py", "commands/pack.py", "commands/evaluate.py"], "`--out`"),
}  # fmt: skip


def test_what_may_be_replaced_is_listed():
    package = ROOT / "humpback"
    writes = re.compile(r"publish(?:_json)?\(.*replace=True")
    replacing = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if writes.search(path.read_text())}
    assert replacing | {"locks.py"} == REPLACED.keys()  # a lock is renewed in a way of its own
    told = (ROOT / "docs" / "reliability.md").read_text().partition("may be\nreplaced:")[2].partition("\n## ")[0]
    assert [(module, name) for module, names in REPLACED.items() for name in names.split() if name not in told] == []
