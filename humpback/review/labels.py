"""Labels, one file each: RUN/review/labels-T/REVIEWER/NAME.N.json, of which the highest N counts; nothing is ever overwritten."""

import re
from typing import Any

from etils import epath

from humpback import storage
from humpback.errors import UserError

LABELS = ("yes", "no", "skip")
_REVIEWER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_FILE = re.compile(r"([0-9a-f]{16}(?:-again)?)\.(\d+)\.json")


class Labels:
    """The labels of one person."""

    def __init__(self, run: epath.Path, iteration: int, reviewer: str):
        if not _REVIEWER.fullmatch(reviewer):
            raise UserError(f"--reviewer={reviewer!r}: a name of at most 32 letters, digits, - and _")
        self.folder = run / "review" / f"labels-{iteration}" / reviewer
        storage.clean(self.folder)

    def read(self) -> dict[str, str]:
        """Name → label, of several the last."""
        found: dict[str, tuple[int, str]] = {}
        for file in storage.list_files(self.folder):
            if match := _FILE.fullmatch(file):
                found[match[1]] = max(found.get(match[1], (-1, "")), (int(match[2]), file))
        return {name: self._label(file) for name, (_, file) in found.items()}

    def add(self, name: str, label: str) -> None:
        """On disk when it returns. ValueError for what is no label."""
        if label not in LABELS or not _FILE.fullmatch(f"{name}.0.json"):
            raise ValueError(f"{name}: {label!r} is no label")
        number = 0
        while (file := self.folder / f"{name}.{number}.json").exists():
            number += 1
        try:
            storage.publish_json(file, {"label": label})
        except FileExistsError:  # the same person's other window was faster
            self.add(name, label)

    def _label(self, file: str) -> str:
        content: Any = storage.read_json(self.folder / file)
        label = content.get("label") if isinstance(content, dict) else None
        if label not in LABELS:
            raise UserError(f"{self.folder / file}: no label, which is one of {', '.join(LABELS)}")
        return str(label)


def self_agreement(labels: dict[str, str]) -> tuple[int, int]:
    """(how many were labelled the same again, of how many), without those that were skipped."""
    twice = [(labels[name.removesuffix("-again")], label) for name, label in labels.items() if name.endswith("-again") and
             name.removesuffix("-again") in labels]  # fmt: skip
    both = [pair for pair in twice if "skip" not in pair]
    return sum(a == b for a, b in both), len(both)
