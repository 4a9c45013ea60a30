"""Labels, one file each: RUN/review/labels-REVIEW/REVIEWER/NAME.N.json, of which the highest N counts; nothing is ever overwritten."""

import json
import re
from typing import Any

import msgspec
from etils import epath

from humpback import storage
from humpback.errors import UserError
from humpback.review.sample import ANSWERS, CANDIDATES, FOLDER, REWRITES, Sample, Shown, order

SKIP = "skip"
# What a label may be, and what a person gives where two answers stand beside each other, neither of which has a name.
_YES_NO = ("yes", "no", SKIP)
MEANINGS = {CANDIDATES: _YES_NO, ANSWERS: ("model", "baseline", "tie", SKIP), REWRITES: _YES_NO}
GIVEN = {CANDIDATES: _YES_NO, ANSWERS: ("first", "second", "tie", SKIP), REWRITES: _YES_NO}
_REVIEWER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_FILE = re.compile(r"([0-9a-f]{16}(?:-again)?)\.(\d+)\.json")
_MOST_BYTES = 10_000_000  # of a file that a colleague sends back


class Labels:
    """The labels of one person."""

    def __init__(self, run: epath.Path, review: str, reviewer: str, sample: Sample):
        if not _REVIEWER.fullmatch(reviewer):
            raise UserError(f"--reviewer={reviewer!r}: a name of at most 32 letters, digits, - and _")
        self.reviewer, self.sample = reviewer, sample
        self.shown = {shown.name: shown for shown in order(sample, reviewer)}
        self.folder = folder_of(run, review) / reviewer

    def read(self) -> dict[str, str]:
        """Name → label, of several the last."""
        found: dict[str, tuple[int, str]] = {}
        for file in storage.list_files(self.folder):
            if (match := _FILE.fullmatch(file)) and match[1] in self.shown:
                found[match[1]] = max(found.get(match[1], (-1, "")), (int(match[2]), file))
        return {name: self._label(file) for name, (_, file) in found.items()}

    def add(self, name: str, given: str) -> None:
        """On disk when it returns. ValueError for what is no item of this review, or no label of its kind."""
        if name not in self.shown or given not in GIVEN[self.sample.kind]:
            raise ValueError(f"{name}: {given!r} is no label")
        number = 0
        while (file := self.folder / f"{name}.{number}.json").exists():
            number += 1
        try:
            storage.publish_json(file, {"label": _meant(self.shown[name], given)})
        except FileExistsError:  # the same person's other window was faster
            self.add(name, given)

    def take(self, data: bytes, where: str) -> int:
        """Adds the labels of a file that `humpback review --static` had made; how many are new. UserError for anything else in it."""
        returned = _returned(data, where)
        if (returned.review, returned.reviewer) != (self.sample.digest, self.reviewer):
            whose = f"of {returned.reviewer} on another sample" if returned.reviewer == self.reviewer else f"of {returned.reviewer!r}"
            raise UserError(f"{where}: holds labels {whose}; name its own --workdir, --iteration or --name, and reviewer")
        for name, given in returned.labels.items():
            if name not in self.shown:
                raise UserError(f"{where}: {name!r:.80} is no item of this review")
            if given not in GIVEN[self.sample.kind]:
                raise UserError(f"{where}: {name}: {given!r:.80} is no label, which is one of {', '.join(GIVEN[self.sample.kind])}")
        there = self.read()
        new = {name: given for name, given in returned.labels.items() if there.get(name) != _meant(self.shown[name], given)}
        for name, given in new.items():
            self.add(name, given)
        return len(new)

    def _label(self, file: str) -> str:
        content: Any = storage.read_json(self.folder / file)
        label = content.get("label") if isinstance(content, dict) else None
        if label not in MEANINGS[self.sample.kind]:
            raise UserError(f"{self.folder / file}: no label, which is one of {', '.join(MEANINGS[self.sample.kind])}")
        return str(label)


class _Returned(msgspec.Struct, forbid_unknown_fields=True):
    review: str
    reviewer: str
    labels: dict[str, str]


def folder_of(run: epath.Path, review: str) -> epath.Path:
    """Where the labels of a review are, a folder for each person."""
    return run / FOLDER / f"labels-{review}"


def reviewers(run: epath.Path, review: str) -> list[str]:
    """Who has labelled."""
    folder = folder_of(run, review)
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(name for name in names if _REVIEWER.fullmatch(name))


def returned_bytes(path: str) -> bytes:
    """A file that came back. UserError where there is none, or where it is too large to be one."""
    file = epath.Path(path)
    if not file.exists() or file.is_dir():
        raise UserError(f"--import={path}: no such file")
    if file.stat().length > _MOST_BYTES:
        raise UserError(f"--import={path}: {file.stat().length:,} bytes; a file of labels has at most {_MOST_BYTES:,}")
    return file.read_bytes()


def reviewer_of(data: bytes, where: str) -> str:
    """Whose labels a file says it holds. UserError for what is no file of labels."""
    return _returned(data, where).reviewer


def _returned(data: bytes, where: str) -> _Returned:
    try:
        found = msgspec.json.decode(data, type=_Returned)
        json.loads(data, object_pairs_hook=storage.object_of)  # nobody knows which of two labels counts
    except (msgspec.DecodeError, ValueError) as error:
        raise UserError(f"{where}: not a file of labels from `humpback review --static` ({error})") from error
    return found


def _meant(shown: Shown, given: str) -> str:
    """What a label says of the item, which the person has seen on these sides."""
    sides = ("baseline", "model") if shown.turned else ("model", "baseline")
    return dict(zip(("first", "second"), sides, strict=True)).get(given, given)


def self_agreement(labels: dict[str, str]) -> tuple[int, int]:
    """(how many were labelled the same again, of how many), without those that were skipped."""
    twice = [(labels[name.removesuffix("-again")], label) for name, label in labels.items() if name.endswith("-again") and
             name.removesuffix("-again") in labels]  # fmt: skip
    both = [pair for pair in twice if SKIP not in pair]
    return sum(a == b for a, b in both), len(both)
