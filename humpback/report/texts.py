"""What a page shows of texts: unique trigrams and repeated instructions of samples of the same size, examples, what was dropped, and what
the models say to the same prompts."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from humpback import storage
from humpback.corpus.tally import SAMPLE_CHARS, SAMPLES_FILE
from humpback.decoding.answers import NAME, Generated
from humpback.decoding.parts import REJECTED, Reject, number_of
from humpback.evaluation import diversity
from humpback.records import Candidate, Example, Rated, Rewrite, read_lines, read_rows, read_shards
from humpback.report import figures
from humpback.report.probes import LIKELIHOOD, RUBRIC

PROMPTS = "prompts"  # of the pairs whose instructions all models are asked
_SAMPLE = 10_000  # pairs of a set, at most
_BYTES = 10_000_000  # of examples' texts
_EXTREMES, _RANDOM, _OF_A_REASON, _FIRST_WORDS = 5, 10, 3, 10

Draw = Callable[[Any, str], np.ndarray]
Pair = tuple[str, str, str]  # id, instruction, response
Dropped = dict[str, list[dict[str, Any]]]  # stage and reason → samples


def trigrams(run: epath.Path, done: Mapping[str, Any], sets: Mapping[str, Any], draw: Draw) -> dict[str, Any] | None:
    """Of equally many pairs of each set: word trigrams, how many of them differ, and instructions that another one repeats."""
    sizes = [len(one.ids) for one in sets.values() if len(one.ids)]
    if not sizes:
        return None
    size = min(_SAMPLE, *sizes)
    rows: dict[str, dict[str, Any]] = {}
    for name, one in sets.items():
        chosen = set(draw(one.ids, f"report trigrams {name}")[:size].tolist())
        pairs = [(instruction, response) for i, instruction, response in _pairs(run, name) if number_of(i) in chosen]
        rows[name] = {
            field: {"trigrams": found["all"], "unique": found["unique"], "share": found["unique"] / found["all"] if found["all"] else None}
            for place, field in enumerate(("instruction", "response"))
            for found in [diversity.trigrams(pair[place] for pair in pairs)]
        }
        wordings = [diversity.words(instruction) for instruction, _ in pairs]
        rows[name]["repeated_instructions"] = len(pairs) - len({" ".join(words) for words in wordings})
        first = Counter(words[0] for words in wordings if words)
        rows[name]["first_words"] = [list(row) for row in sorted(first.items(), key=lambda item: (-item[1], item[0]))[:_FIRST_WORDS]]
    return {"pairs_of_each_set": size, "sets": rows}


def _pairs(run: epath.Path, name: str) -> Iterator[Pair]:
    if name == "candidates":
        for candidate in read_shards(run / name, name, Candidate):
            if not candidate.reason:
                yield candidate.id, candidate.instruction, candidate.segment.text
        return
    for example in read_shards(run / name, name.partition("-")[0], Example):
        yield example.id, example.instruction, example.response


def examples(
    run: epath.Path, done: Mapping[str, Any], sets: Mapping[str, Any], scored: Mapping[int, Any], draw: Draw
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]], dict[str, Any] | None]:
    """(candidates to be shown, samples of what was dropped by stage and reason, what the page's JSON says of them).

    Shown are the five that the last judge rated best and worst, ten drawn by chance, and as many more, in the same order of chance, as
    find room: all of a small run.
    """
    dropped = _samples(run, done)
    if "candidates" not in done:
        return [], dropped, None
    last = scored[max(scored)] if scored else None
    best, worst = (_first(last, sign) if last else [] for sign in (-1, 1))
    ids: list[int] = []
    for candidate in read_shards(run / "candidates", "candidates", Candidate):
        ids.append(number_of(candidate.id))
        if candidate.reason:
            _add(dropped, f"candidates: {candidate.reason}", _of_candidate(candidate))
    shuffled = draw(ids, "report examples").tolist()
    wanted = list(dict.fromkeys([*best, *worst, *shuffled[: _SAMPLE]]))
    found = _read(run, scored, set(wanted), dropped)
    _add_drafts(run, done, dropped)
    _add_rejects(run, done, dropped)
    shown, room = [], _BYTES
    for number in wanted:
        row = found[number]
        room -= sum(len(value.encode("utf-8", "replace")) for value in (row["instruction"], row["text"], *row["texts"].values()))
        if room < 0:
            break
        shown.append(row)
    named = {
        "best": [f"{number:016x}" for number in best], "worst": [f"{number:016x}" for number in worst],
        "random": [f"{number:016x}" for number in shuffled[:_RANDOM]], "shown": len(shown), "of": len(ids),
        "scores": {row["id"]: row["scores"] for row in shown},
    }  # fmt: skip
    return shown, dropped, named


def _first(rated: Any, sign: int) -> list[int]:
    """The ids of the lowest scores times `sign`, ties by id."""
    numbers = np.array(rated.texts.ids, np.uint64)
    return [int(numbers[place]) for place in np.lexsort((numbers, sign * np.array(rated.scores)))[:_EXTREMES]]


def _read(run: epath.Path, scored: Mapping[int, Any], wanted: set[int], dropped: Dropped) -> dict[int, dict[str, Any]]:
    """The wanted candidates, with each iteration's score, rating text and reason; adds to `dropped` what judges gave no score."""
    found = {
        number_of(candidate.id): _of_candidate(candidate)
        for candidate in read_shards(run / "candidates", "candidates", Candidate)
        if number_of(candidate.id) in wanted
    }
    for t in scored:
        for rated in read_shards(run / f"ratings-{t}", "ratings", Rated):
            if (row := found.get(number_of(rated.id))) is not None:
                row["scores"][str(t)] = rated.score
                row["texts"][str(t)] = "\n\n".join(rated.texts)
                row["why"][str(t)] = rated.reason
            if rated.reason and not rated.candidate.reason:
                _add(dropped, f"ratings-{t}: {rated.reason}", _of_candidate(rated.candidate) | {"text": "\n\n".join(rated.texts)})
        if (run / f"curated-{t}" / "manifest.json").exists():
            for example in read_shards(run / f"curated-{t}", "curated", Example):
                if (row := found.get(number_of(example.id))) is not None:
                    row["curated"].append(t)
    return found


def _of_candidate(candidate: Candidate) -> dict[str, Any]:
    segment = candidate.segment
    return {
        "id": candidate.id, "instruction": candidate.instruction, "text": segment.text, "header": " › ".join(segment.header_path),
        "url": segment.url, "place": f"{segment.source}, {segment.start} to {segment.end}", "reason": candidate.reason,
        "scores": {}, "texts": {}, "why": {}, "curated": [],
    }  # fmt: skip


def _samples(run: epath.Path, done: Mapping[str, Any]) -> Dropped:
    """What stages kept of what they dropped, by stage and reason."""
    found: Dropped = {}
    for name in done:
        file = run / name / SAMPLES_FILE
        rows_of = figures.read_file(file, Dropped, "humpback run") if file.exists() else {}
        found |= {f"{name}: {reason}": rows[:_OF_A_REASON] for reason, rows in rows_of.items()}
    return found


def _add_drafts(run: epath.Path, done: Mapping[str, Any], dropped: Dropped) -> None:
    """Adds what rewriters wrote in vain: texts that stayed as they were, by stage and reason."""
    for name in (name for name in done if name.partition("-")[0] == "rewritten"):
        for made in read_shards(run / name, "rewrites", Rewrite):
            if made.reason:
                row = {"header": made.example.source, "instruction": made.example.instruction, "text": made.output or made.draft}
                _add(dropped, f"{name}: draft kept: {made.reason}", row)


def _add_rejects(run: epath.Path, done: Mapping[str, Any], dropped: Dropped) -> None:
    """Adds those records that had no room, and where they stand: the file, which the stage or an earlier one has made, and the line."""
    for name, stage in done.items():
        if any(reason.startswith(REJECTED) and count for reason, count in stage["dropped"].items()):
            for folder in (run / name, run / name / RUBRIC, run / name / LIKELIHOOD):  # the latter two of a judge
                for file in (file for file in storage.list_files(folder) if file.startswith("rejects-")):
                    for reject in read_lines(folder / file, Reject):
                        of_reason = f"{name}: {REJECTED}{reject.reason}"
                        if len(dropped.get(of_reason, ())) < _OF_A_REASON:
                            place = reject.where.rpartition("/")[2]
                            _add(dropped, of_reason, {"header": place, "text": _read_text(run, done, reject.where)})


def _read_text(run: epath.Path, done: Mapping[str, Any], where: str) -> str:
    """What a record of a stage says, as far as a page shows it; it stands in WORKDIR/STAGE/FILE:LINE, wherever WORKDIR was then."""
    found = re.search(r"([^/]+)/([^/]+):([1-9]\d*)$", where)
    if found is None or found[1] not in done:
        return ""
    rows = read_rows(run / found[1] / found[2])
    return "\n\n".join(_texts(next(itertools.islice(rows, int(found[3]) - 1, None), {})))[:SAMPLE_CHARS]


def _texts(record: Mapping[str, Any]) -> Iterator[str]:
    """Instructions and responses of a record, and of those that it holds."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _texts(value)
        elif name in ("instruction", "response", "text") and isinstance(value, str) and value:
            yield value


def _add(dropped: Dropped, reason: str, row: dict[str, Any]) -> None:
    """Adds a sample, unless there are enough. Records are in the order of their ids, which are hashes, so the first are by chance."""
    rows = dropped.setdefault(reason, [])
    if len(rows) < _OF_A_REASON:
        rows.append(row)


def answers(run: epath.Path, done: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each prompt that models were asked, with a person's answer, and of each model what it said; null where the prompt had no room."""
    stages = [name for name in done if name.partition("-")[0] == "answers"]
    said = {name: {one.id: one for one in read_shards(run / name, NAME, Generated)} for name in stages if done[name]["counts"].get("in")}
    asked = {pair.id: pair for name in said for pair in read_shards(run / name, PROMPTS, Example)}
    return [
        {
            "id": pair.id, "instruction": pair.instruction, "people": pair.response,
            "models": {name.removeprefix("answers-"): _said(of.get(pair.id)) for name, of in said.items()},
        }
        for pair in asked.values()
    ]  # fmt: skip


def _said(one: Generated | None) -> dict[str, Any] | None:
    return None if one is None else {"text": one.output, "finish": one.finish[0], "tokens": one.output_tokens[0]}
