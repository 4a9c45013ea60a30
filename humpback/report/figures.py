"""Figures that `humpback evaluate --out=RUN/figures/NAME.json` and `humpback review --agreement` have left beside a run's stages."""

from typing import Any

import msgspec
from etils import epath

from humpback import storage
from humpback.errors import UserError

FOLDER = "figures"
_PAIRS = 40  # verbs with nouns that are shown


class _Rate(msgspec.Struct):
    win_rate: float
    standard_error: float | None
    wins: int
    losses: int
    draws: int
    n: int
    missing: int


class _WinRates(msgspec.Struct):
    all: _Rate
    datasets: dict[str, _Rate] = {}


class _Scaling(msgspec.Struct):
    alpha: float
    standard_error: float | None
    per_doubling: float
    constant: float
    points: int


class _Accuracy(msgspec.Struct):
    right: int
    questions: int
    share: float
    interval: tuple[float, float]


class _Benchmarks(msgspec.Struct):
    benchmarks: dict[str, dict[str, _Accuracy]]


class _VerbNoun(msgspec.Struct):
    verb: str
    noun: str
    count: int


class _VerbNouns(msgspec.Struct):
    texts: int
    parsed: int
    share: float
    pairs: list[_VerbNoun]
    of: int = 0  # from how many the texts are drawn


class _Diversity(msgspec.Struct):
    verb_nouns: _VerbNouns | None = None


class _Share(msgspec.Struct):
    value: float
    interval: tuple[float, float]


class _At(msgspec.Struct):
    threshold: float
    precision: _Share | None
    recall: _Share | None
    f1: float


class _Suggested(msgspec.Struct):
    threshold: float
    interval: tuple[float, float]


class _Judge(msgspec.Struct):
    curve: list[_At]
    suggested: _Suggested | None


class _Faithful(msgspec.Struct):
    kept: int
    of: int
    interval: tuple[float, float]


class _Preferred(_Rate):
    interval: tuple[float, float]


class _Agreement(msgspec.Struct):
    labelled: int
    undecided: int = 0
    judges: dict[str, _Judge] = {}
    faithful: _Faithful | None = None
    win_rate: _Preferred | None = None


TASKS: dict[str, type[Any]] = {"winrate": _WinRates, "benchmarks": _Benchmarks, "scaling": _Scaling, "diversity": _Diversity}


def read(run: epath.Path) -> dict[str, dict[str, Any]]:
    """Task → what NAME says behind it in TASK.json or TASK-WHAT.json → its figures. UserError for a file that is not of its task."""
    found: dict[str, dict[str, Any]] = {task: {} for task in TASKS}
    for name in storage.list_files(run / FOLDER):
        task, _, what = name.removesuffix(".json").partition("-")
        if task in TASKS and name.endswith(".json"):
            made_by = f"humpback evaluate --task={task}"
            found[task][what] = msgspec.to_builtins(read_file(run / FOLDER / name, TASKS[task], made_by))
    for one in found["diversity"].values():
        if one["verb_nouns"]:
            del one["verb_nouns"]["pairs"][_PAIRS:]
    return found


def labels(run: epath.Path) -> dict[str, dict[str, Any]]:
    """Review → what people's labels say: of its candidates and the judges, of two models' answers, or of what a rewriter made."""
    found = {}
    for name in storage.list_files(run / "review"):
        review = name.removesuffix(".json").removeprefix("agreement-")
        if name == f"agreement-{review}.json":
            found[review] = msgspec.to_builtins(read_file(run / "review" / name, _Agreement, "humpback review --agreement"))
    return found


def read_file(path: epath.Path, kind: Any, made_by: str) -> Any:
    """A JSON file as a type. UserError for one that is not what `made_by` writes."""
    try:
        return msgspec.convert(storage.read_json(path), kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: not what `{made_by}` writes ({error}); make it again, or remove it") from error
