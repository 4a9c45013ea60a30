"""What is labelled, drawn once: candidates from every stratum of their ratings, so that few labels say something about all; answers of
two models; or rewritten responses beside the texts that they were made of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from etils import epath

from humpback import keys, storage
from humpback.errors import UserError
from humpback.evaluation import statistics
from humpback.records import Rated, Record, Rewrite, half_surrogate, read_shards
from humpback.rounding import ceil_div

FOLDER = "review"
CANDIDATES: Literal["candidates"] = "candidates"
ANSWERS: Literal["answers"] = "answers"
REWRITES: Literal["rewrites"] = "rewrites"
_AGAIN = 10  # of so many items one is shown twice
Answers = Mapping[str, tuple[str, str, str]]  # id → instruction, the model's answer, the baseline's; or, of rewrites, text and answer


class Item(Record, frozen=True):
    """What is to be labelled: an instruction and one response, or the model's and the baseline's, or a text and the answer made of it.

    weight: how many of all it stands for; stratum: a candidate's rating in half points.
    """

    instruction: str
    texts: tuple[str, ...]
    weight: float
    stratum: str


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is labelled in a review. of: how many there are whom the items stand for; seed: of orders and sides."""

    kind: Literal["candidates", "answers", "rewrites"]
    seed: int
    of: int
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """What a file of labels names its review by."""
        return storage.sha256_json(msgspec.to_builtins(self))


class Shown(NamedTuple):
    """An item as a person sees it. name: of the label; turned: the baseline's answer stands first."""

    name: str
    item: Item
    turned: bool


def path_of(run: epath.Path, name: str) -> epath.Path:
    """Where a review's sample is."""
    return run / FOLDER / f"sample-{name}.json"


def read(run: epath.Path, name: str) -> Sample | None:
    """The sample of a review that has begun. UserError for a file that is none."""
    path = path_of(run, name)
    if not path.exists():
        return None
    try:
        return msgspec.convert(storage.read_json(path), Sample)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: not the sample of a review ({error})") from error


def of_candidates(run: epath.Path, iteration: int, count: int, seed: int) -> Sample:
    """The sample of an iteration's ratings; what is there already stays. UserError when there are no ratings."""
    if there := read(run, str(iteration)):
        return there
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
    items = tuple(
        Item(rated.id, rated.candidate.instruction, (rated.candidate.segment.text,), *weights[rated.id])
        for rated in read_shards(run / f"ratings-{iteration}", "ratings", Rated)
        if rated.id in weights
    )
    return _publish(run, str(iteration), Sample(CANDIDATES, seed, sum(map(len, strata.values())), items))


def rewrites(run: epath.Path, iteration: int, compared: bool) -> Answers:
    """The responses of rewritten-t/ that took a text's place. compared: as the model's answers, with the texts as the baseline's; otherwise
    each behind its text. UserError when the stage is not complete."""
    folder = run / f"rewritten-{iteration}"
    if not (folder / "manifest.json").exists():
        raise UserError(f"{folder}: not complete; `humpback rewrite --iteration={iteration}` makes it, where rewrite.by says who rewrites")
    found = {}
    for one in read_shards(folder, "rewrites", Rewrite):
        if not one.reason:
            texts = (one.example.response, one.draft) if compared else (one.draft, one.example.response)
            found[one.id] = (one.example.instruction, *texts)
    return found


def of_answers(
    run: epath.Path, name: str, answers: Answers, count: int, seed: int, kind: Literal["answers", "rewrites"] = ANSWERS
) -> Sample:  # fmt: skip
    """The sample of answers to the same instructions, without equal ones, which no person need compare; what is there already stays.

    UserError when there is nothing to compare, or when the review was begun with other answers.
    """
    different = {i: texts for i, texts in answers.items() if texts[1] != texts[2] and not any(map(half_surrogate, texts))}
    if there := read(run, name):
        if any(different.get(item.id) != (item.instruction, *item.texts) for item in there.items):
            raise UserError(f"{path_of(run, name)}: this review was begun with other answers; give it another --name")
        return there
    if not different:
        raise UserError(f"none of {len(answers)} pairs of answers differs, so that there is nothing to label")
    drawn = sorted(_drawn(seed, f"review {name}", list(different), count))
    weight = len(different) / len(drawn)
    items = tuple(Item(i, different[i][0], different[i][1:], weight, "") for i in drawn)
    return _publish(run, name, Sample(kind, seed, len(different), items))


def _publish(run: epath.Path, name: str, made: Sample) -> Sample:
    try:
        storage.publish_json(path_of(run, name), msgspec.to_builtins(made))
    except FileExistsError:  # somebody else began at the same moment, perhaps with another --count: theirs was first
        made = read(run, name) or made
    return made


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


def order(sample: Sample, reviewer: str) -> Iterator[Shown]:
    """The items in an order of the reviewer's own, sides as well; every tenth comes again at the end, on other sides, as a check on the
    person."""
    by_id = {item.id: item for item in sample.items}
    names = _drawn(sample.seed, f"review by {reviewer}", list(by_id), len(by_id))
    words: Any = keys.record_words(sample.seed, f"review sides by {reviewer}", names)
    turned = {name: sample.kind == ANSWERS and bool(word & 1) for name, word in zip(names, words.tolist(), strict=True)}
    yield from (Shown(name, by_id[name], turned[name]) for name in names)
    again = names[: ceil_div(len(names), _AGAIN)]
    yield from (Shown(f"{name}-again", by_id[name], sample.kind == ANSWERS and not turned[name]) for name in again)


def _drawn(seed: int, purpose: str, ids: list[str], count: int) -> list[str]:
    return [f"{number:016x}" for number in keys.drawn(seed, purpose, [int(i, 16) for i in ids])[:count].tolist()]
