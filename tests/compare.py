"""What "the same bytes" means for two runs: record files, manifests and summary.json byte for byte, weights tensor by tensor."""

import pathlib

import jax
import numpy as np

from humpback.models import folders

# Times, rates and hosts; what is compiled and what ran; Orbax's own files, whose names are random, are compared as tensors.
_IGNORED_NAMES = ("timing.json", "checksums.json", "report.md", "report.html", "lock", "digests.json")
_IGNORED_FOLDERS = ("metrics", "events", "weights", "compilation_cache", "sources", "logs")


def differences(a: pathlib.Path, b: pathlib.Path) -> list[str]:
    """The files or tensors that differ between two run directories, by name; [] when they are the same."""
    left, right = _files(a), _files(b)
    found = [f"{name}: only in one" for name in sorted(left.keys() ^ right.keys())]
    found += [name for name in sorted(left.keys() & right.keys()) if left[name].read_bytes() != right[name].read_bytes()]
    if _report(a) != _report(b):
        found.append("report.md")
    for folder in sorted({path.parent.name for path in a.glob("*/weights")} & {path.parent.name for path in b.glob("*/weights")}):
        x, y = (folders.load_model(run / folder).params for run in (a, b))
        same = jax.tree.map(lambda p, q: p.dtype == q.dtype and np.array_equal(p, q), x, y)
        found += [f"{folder}/{jax.tree_util.keystr(path)}" for path, equal in jax.tree.leaves_with_path(same) if not equal]
    return found


def _files(run: pathlib.Path) -> dict[str, pathlib.Path]:
    return {
        str(path.relative_to(run)): path
        for path in run.rglob("*")
        if path.is_file() and path.name not in _IGNORED_NAMES and not set(path.relative_to(run).parts) & set(_IGNORED_FOLDERS)
    }


def _report(run: pathlib.Path) -> str:
    path = run / "report.md"
    return path.read_text().split("## Timing")[0] if path.exists() else ""
