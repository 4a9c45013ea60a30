"""The human pairs: read by the paper's rule (section 3.1) and dealt, by content, into those that train and those that measure."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from humpback import distributed
from humpback.config import Seed
from humpback.convert.sources import resolve
from humpback.corpus.duplicates import normalised
from humpback.datasets.pair_files import BAD_LINE
from humpback.datasets.seed_pairs import read_pairs
from humpback.errors import UserError
from humpback.progress import say, warn_of_many
from humpback.records import Example, write_shards
from humpback.stages import commandline
from humpback.stages.directory import Run, Stage

STRICT = "strict"


def define_flags() -> None:
    """The stages' flags and --strict."""
    commandline.define_flags()
    flags.DEFINE_bool(STRICT, False, "end at the first bad line of the human pairs instead of dropping it")


def seed(run: Run, strict: bool = False) -> None:
    """Makes seed/: the training pairs, the held-out ones and those of the dev set, as Examples of kind `seed`."""
    stage = run.stage("seed", ("seed_pairs.",), module=__name__)
    if stage.complete:
        return
    found = distributed.by_first("seed", lambda: _deal(run.cfg.seed_pairs, stage, strict))
    stage.finish(**found)
    for reason, what in (("duplicate", "pairs are there twice"), (BAD_LINE, "lines hold no pair")):
        lost = found["dropped"].get(reason, 0)
        warn_of_many("seed", lost, found["counts"]["read"] + lost, what)


def _deal(cfg: Seed, stage: Stage, strict: bool) -> dict[str, Any]:
    """Writes the shards; returns what the manifest says of them."""
    tell = lambda text: say(f"seed: {text}")  # noqa: E731
    read = functools.partial(read_pairs, single_reply=cfg.single_reply, language=cfg.language, strict=strict, say=tell)
    pairs, counts, unread = read(resolve(cfg.source))
    kept, dropped = counts.pop("kept"), dict(counts)
    measured: dict[str, list[Example]] = {"held_out": [], "dev": []}
    for name, source in (("held_out", cfg.held_out_source), ("dev", cfg.dev_source)):
        if source:
            measured[name], counts, _ = read(resolve(source))
            dropped |= {f"{name}: {reason}": count for reason, count in counts.items() if reason != "kept"}
    dev = measured["dev"]
    stage.check_contents()
    train, held_out, counts = split_seed(pairs, measured["held_out"], cfg, dev)
    stage.begin()
    files = []
    for name, examples in (("seed", train), ("held_out", held_out), ("dev", dev)):
        files += write_shards(stage.path, name, sorted(examples, key=lambda example: example.id), len(examples))
    dropped |= {name: counts.pop(name) for name in ("instruction_held_out", "over_limit")}
    return {"counts": {"read": kept, **counts}, "dropped": dropped, "files": files, "unread_fields": unread}


def split_seed(
    examples: list[Example], held_out_examples: list[Example], cfg: Seed, dev: Sequence[Example] = ()
) -> tuple[list[Example], list[Example], dict[str, int]]:
    """Returns (training pairs, held-out pairs, counts), both in an order that follows from their texts alone.

    So neither the order of the source decides who is where, nor its name. Without a `held_out_source` the first `held_out` of `examples`
    in that order are held out; with one, the first `held_out` of `held_out_examples` (all for 0). Of the other `examples` the first `limit`
    train (all for 0), without those whose instruction is also a held-out one's or one of `dev`, up to case, whitespace and punctuation.
    UserError when nothing is left to train on or too few are there to hold out.
    """
    rest = sorted(examples, key=_content)
    if cfg.held_out_source:
        pool = sorted(held_out_examples, key=_content)
        size = cfg.held_out or len(pool)
    else:
        pool, size = rest, cfg.held_out
    if size > len(pool) or (cfg.held_out_source and not pool):
        raise UserError(
            f"config field seed_pairs.held_out: {cfg.held_out} pairs cannot be held out of the {len(pool)} of "
            f"{cfg.held_out_source or cfg.source}"
        )
    held_out = pool[:size]
    if not cfg.held_out_source:
        rest = rest[size:]
    measured = {normalised(example.instruction) for example in [*held_out, *dev]}
    free = [example for example in rest if normalised(example.instruction) not in measured]
    train = free[: cfg.limit] if cfg.limit else free
    if not train:
        raise UserError(
            f"seed_pairs.source: {cfg.source}: of {len(examples)} pairs none is left to train on ({len(held_out)} are held out); "
            "give more pairs or lower seed_pairs.held_out"
        )
    counts = {
        "held_out": len(held_out),
        "instruction_held_out": len(rest) - len(free),
        "over_limit": len(free) - len(train),
        "train": len(train),
    }
    return train, held_out, counts


def _content(example: Example) -> bytes:
    """What the order of the pairs follows from."""
    return hashlib.sha256(f"{example.instruction}\0{example.response}".encode()).digest()


def main() -> None:
    """`humpback seed`."""
    seed(commandline.open_run(), bool(flags.FLAGS[STRICT].value))
