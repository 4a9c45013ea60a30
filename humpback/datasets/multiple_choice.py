"""Benchmarks of multiple choice as their publishers, the Hub and people's collections keep them, to one form."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from humpback.datasets.containers import open_container
from humpback.errors import UserError

CROWS_PAIRS = "crows_pairs"
# What a file's name begins with, letters and digits alone, in lower case.
NAMES = {
    "piqa": "piqa", "arc_easy": "arceasy", "arc_challenge": "arcchallenge", "openbookqa": "openbookqa", "social_iqa": "socialiqa",
    CROWS_PAIRS: "crowspairs",
}  # fmt: skip
_LABELS = "labels"  # in the name of a file that has the right answers, one a line
_LETTERS = ("A", "B", "C")
_IN_ONE_TEXT = re.compile(
    r"\s*Please choose the correct answer to the question:\s*(.*?)\s*\n\s*Answer1: (.*?)\s*\n\s*Answer format:.*", re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Choices:
    """A question, the answers to choose from, and the place of the right one. kind: the type of stereotype, of CrowS-Pairs alone, whose
    first text is the more stereotypical one."""

    question: str
    choices: tuple[str, ...]
    answer: int
    kind: str = ""


def find(folder: str, name: str) -> epath.Path | None:
    """The file of a benchmark in a folder; None where there is none. UserError for several."""
    found = [path for path in _of(folder, name) if _LABELS not in path.name.lower()]
    if len(found) > 1:
        raise UserError(f"{folder}: has several files of {name}: {', '.join(path.name for path in found)}; keep one of them there")
    return found[0] if found else None


def read(folder: str, name: str) -> list[Choices]:
    """The questions of a benchmark. UserError names the line of what is none, and a file of answers that is missing or is not as long."""
    path = find(folder, name)
    if path is None:
        raise UserError(f"{folder}: has no file of {name}; its name must begin like {name}, see docs/evaluation.md")
    labels = [label for file in _of(folder, name) if _LABELS in file.name.lower() for label in _lines(file)]
    found = []
    for number, row in enumerate(open_container(path).rows()):
        if labels and number >= len(labels):
            raise UserError(f"{row.where}: has no answer, as the file of labels beside it has {len(labels)} lines")
        try:
            if row.error:
                raise ValueError(row.error)
            found.append(_checked(_choices(name, row.value, labels[number] if labels else None)))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            missing = "; where is the file of labels?" if isinstance(error, KeyError) and error.args == ("label",) else ""
            raise UserError(f"{row.where}: no question of {name} in a form that is known ({error!r}){missing}") from error
    if not found or len(labels) not in (0, len(found)):
        raise UserError(f"{path}: {len(found)} questions, and {len(labels)} answers in the file of labels beside it")
    return found


def _of(folder: str, name: str) -> list[epath.Path]:
    path = epath.Path(folder)
    if not path.is_dir():
        raise UserError(f"--input={folder}: no such folder")
    return sorted(file for file in path.iterdir() if re.sub(r"[\W_]", "", file.name.lower()).startswith(NAMES[name]))


def _lines(path: epath.Path) -> list[str]:
    return [str(row.value if not row.error else row.error) for row in open_container(path).rows()]


def _checked(found: Choices) -> Choices:
    if len(found.choices) < 2 or not 0 <= found.answer < len(found.choices) or not all(found.choices):
        raise ValueError(f"{len(found.choices)} choices, of which number {found.answer + 1} is the right one")
    return found


def _choices(name: str, row: Mapping[str, Any], label: str | None) -> Choices:
    """KeyError, ValueError … for a row in no form that is known."""
    if name == CROWS_PAIRS:
        return Choices("", (row["sent_more"], row["sent_less"]), 0, row["bias_type"])
    form = next((form for fields, form in _FORMS if all(field in row for field in fields)), None)
    if form is None:
        raise ValueError(f"has the fields {', '.join(map(str, row))}")
    return form(row, label)


def _two_solutions(row: Mapping[str, Any], label: str | None) -> Choices:
    return Choices(row["goal"], (row["sol1"], row["sol2"]), int(row["label"] if label is None else label))


def _three_answers(row: Mapping[str, Any], label: str | None) -> Choices:
    given = str(row["label"] if label is None else label).strip()
    place = _LETTERS.index(given) if given in _LETTERS else int(given) - 1
    return Choices(f"{row['context']} {row['question']}", tuple(row[f"answer{letter}"] for letter in _LETTERS), place)


def _keyed(row: Mapping[str, Any], label: str | None) -> Choices:
    """AI2's own lines, where `question` has stem and choices, and the Hub's, where choices are two columns."""
    question = row.get("question_stem", row.get("question"))
    nested = question if isinstance(question, dict) else {"stem": question, "choices": row["choices"]}
    choices = nested["choices"]
    pairs = [(c["text"], c["label"]) for c in choices] if isinstance(choices, list) else zip(choices["text"], choices["label"], strict=True)
    texts, labels = zip(*pairs, strict=True)
    return Choices(nested["stem"], tuple(texts), labels.index(row["answerKey"].strip()))


def _in_one_text(row: Mapping[str, Any], label: str | None) -> Choices:
    """LLM-Adapters' form: the question and its answers in one text."""
    match = _IN_ONE_TEXT.fullmatch(row["instruction"])
    if match is None:
        raise ValueError("the instruction is not of the form: question, Answer1: …, Answer format: …")
    return Choices(match[1], tuple(re.split(r"\s+Answer\d: ", match[2])), int(row["answer"].removeprefix("answer")) - 1)


# The fields of a form, and who reads it.
_FORMS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any], str | None], Choices]], ...] = (
    (("goal", "sol1", "sol2"), _two_solutions),
    (("context", "question", "answerA"), _three_answers),
    (("answerKey",), _keyed),
    (("instruction", "answer"), _in_one_text),
)
