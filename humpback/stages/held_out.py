"""The pairs that measure every model, set by set, and what is asked of them; evaluation/paired.py says what comes of the answers.

seed/ holds each set: `held_out`, and `set-NAME` for each of evaluation.sets.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from etils import epath

from humpback import keys, prompts
from humpback.evaluation.paired import HELD_OUT, ROTATIONS
from humpback.records import Example, read_shards

Question = dict[str, Any]  # set, rotation, id


def shards_of(name: str) -> str:
    """The name of a set's shards in seed/."""
    return name if name == HELD_OUT else f"set-{name}"


def set_names(given: str) -> list[str]:
    """All sets of a run, of its evaluation.sets."""
    return [HELD_OUT, *(entry.partition("=")[0].strip() for entry in given.split(",") if entry.strip())]


def read_sets(workdir: epath.Path, given: str) -> dict[str, list[Example]]:
    """The pairs of each set, in the order of their ids."""
    return {name: list(read_shards(workdir / "seed", shards_of(name), Example)) for name in set_names(given)}


def rotated(pairs: Sequence[Example], rotations: int = ROTATIONS) -> Iterable[tuple[int, list[Example]]]:
    """Yields (r, the pairs, each under the instruction of the one r places further on) for r = 1 … rotations, fewer for a small set; a
    pair whose instruction that is, too, is not there."""
    asked = [prompts.bare(pair.instruction) for pair in pairs]
    for rotation in range(1, min(rotations, len(pairs) - 1) + 1):
        others = [(place + rotation) % len(pairs) for place in range(len(pairs))]
        yield rotation, [
            msgspec.structs.replace(pair, instruction=pairs[other].instruction)
            for place, (pair, other) in enumerate(zip(pairs, others, strict=True))
            if asked[other] != asked[place]
        ]


def partners(pairs: Sequence[tuple[str, str]], seed: int, purpose: str) -> list[int | None]:
    """Of each (id, instruction) the place of another one with another instruction, which its own key draws; None where there is none."""
    asked = [prompts.bare(instruction) for _, instruction in pairs]
    same: dict[str, list[int]] = {}
    for place, instruction in enumerate(asked):
        same.setdefault(instruction, []).append(place)
    words = keys.record_words(seed, purpose, [record_id for record_id, _ in pairs])
    found: list[int | None] = []
    for instruction, word in zip(asked, words.tolist(), strict=True):
        others = len(pairs) - len(same[instruction])
        place = word * others >> 32
        for taken in same[instruction]:  # the place among all of that among the others
            place += taken <= place
        found.append(place if others else None)
    return found


def question(name: str, pair: str, rotation: int = 0) -> Question:
    """What is asked of a pair of a set: its own prompt, or that of the `rotation`-th pair further on."""
    if rotation:
        return {"set": name, "rotation": rotation, "id": pair}
    return {"id": pair} if name == HELD_OUT else {"set": name, "id": pair}
