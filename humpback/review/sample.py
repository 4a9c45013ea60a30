"""What is labelled: candidates drawn from every stratum of their ratings, so that few labels say something about all of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from etils import epath

from humpback import keys, storage
from humpback.errors import UserError
from humpback.evaluation import statistics
from humpback.records import Rated, Record, half_surrogate, read_shards
from humpback.rounding import ceil_div

FOLDER = "review"
_AGAIN = 10  # of so many items one is shown twice


class Item(Record, frozen=True):
    """A candidate that is to be labelled. weight: how many of the rated candidates it stands for; stratum: its rating in half points."""

    instruction: str
    response: str
    weight: float
    stratum: str


def sample(run: epath.Path, iteration: int, count: int, seed: int) -> list[Item]:
    """The items of a run's review, drawn once: what is there already stays. UserError when there are no ratings."""
    path = run / FOLDER / f"sample-{iteration}.json"
    if path.exists():
        return msgspec.convert(storage.read_json(path), list[Item])
    if not (run / f"ratings-{iteration}" / "manifest.json").exists():
        raise UserError(f"{run}/ratings-{iteration}: not complete; `humpback curate --iteration={iteration}` makes it")
    strata: dict[str, list[str]] = {}
    for rated in read_shards(run / f"ratings-{iteration}", "ratings", Rated):
        if rated.score is not None and not half_surrogate(rated.candidate.instruction):
            strata.setdefault(stratum_of(rated.score), []).append(rated.id)
    if not strata:
        raise UserError(f"{run}/ratings-{iteration}: no candidate has a valid rating")
    drawn = {name: _drawn(seed, f"review {iteration} {name}", ids, size) for (name, ids), size in zip(
        strata.items(), shares([len(ids) for ids in strata.values()], count), strict=True)}  # fmt: skip
    weights = {record_id: (len(strata[name]) / len(ids), name) for name, ids in drawn.items() for record_id in ids}
    items = [
        Item(rated.id, rated.candidate.instruction, rated.candidate.segment.text, *weights[rated.id])
        for rated in read_shards(run / f"ratings-{iteration}", "ratings", Rated)
        if rated.id in weights
    ]
    storage.publish_json(path, msgspec.to_builtins(items))
    return items


def stratum_of(score: float) -> str:
    """A rating in half points, as a histogram counts it."""
    return next(name for name, count in statistics.histogram([score]).items() if count)


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many are drawn from strata of these sizes: equally many from each, and what a small one lacks from the others."""
    found = [0] * len(sizes)
    for _ in range(min(count, sum(sizes))):
        place = min((n for n, size in enumerate(sizes) if found[n] < size), key=lambda n: (found[n], n))
        found[place] += 1
    return found


def order(items: Sequence[Item], reviewer: str, seed: int) -> Iterator[tuple[str, Item]]:
    """(name of the label, item) in an order of the reviewer's own; every tenth item comes again at the end, as a check on the person."""
    by_id = {item.id: item for item in items}
    names = _drawn(seed, f"review by {reviewer}", list(by_id), len(by_id))
    yield from ((name, by_id[name]) for name in names)
    yield from ((f"{name}-again", by_id[name]) for name in names[: ceil_div(len(names), _AGAIN)])


def _drawn(seed: int, purpose: str, ids: list[str], count: int) -> list[str]:
    words: Any = keys.record_keys(seed, purpose, ids)
    return [ids[place] for place in np.lexsort((np.array(ids), words[:, 1], words[:, 0]))[:count]]
