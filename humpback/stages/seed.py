"""The human pairs: read by the paper's rule (section 3.1) and dealt, by id, into those that train and those that measure."""

from collections.abc import Sequence
from typing import Any

from humpback import distributed
from humpback.config import Seed
from humpback.convert.sources import resolve
from humpback.corpus.duplicates import normalised
from humpback.datasets.seed_pairs import read_pairs
from humpback.errors import UserError
from humpback.records import Example, write_shards
from humpback.stages import commandline
from humpback.stages.directory import Run, Stage

define_flags = commandline.define_flags


def seed(run: Run) -> None:
    """Makes seed/: the training pairs, the held-out ones and those of the dev set, as Examples of kind `seed`."""
    stage = run.stage("seed", ("seed_pairs.",), module=__name__)
    if not stage.complete:
        stage.finish(**distributed.by_first("seed", lambda: _deal(run.cfg.seed_pairs, stage)))


def _deal(cfg: Seed, stage: Stage) -> dict[str, Any]:
    """Writes the shards; returns what the manifest says of them."""
    pairs, dropped = read_pairs(resolve(cfg.source), cfg.single_reply)
    held_out: list[Example] = []
    if cfg.held_out_source:
        held_out, _ = read_pairs(resolve(cfg.held_out_source), cfg.single_reply)
    dev = read_pairs(resolve(cfg.dev_source), cfg.single_reply)[0] if cfg.dev_source else []
    stage.check_contents()
    train, held_out, counts = split_seed(pairs, held_out, cfg, dev)
    stage.begin()
    files = []
    for name, examples in (("seed", train), ("held_out", held_out), ("dev", sorted(dev, key=lambda example: example.id))):
        files += write_shards(stage.path, name, examples, len(examples))
    read = dropped.pop("kept")
    dropped |= {name: counts.pop(name) for name in ("instruction_held_out", "over_limit")}
    return {"counts": {"read": read, **counts}, "dropped": dropped, "files": files}


def split_seed(
    examples: list[Example], held_out_examples: list[Example], cfg: Seed, dev: Sequence[Example] = ()
) -> tuple[list[Example], list[Example], dict[str, int]]:
    """Returns (training pairs, held-out pairs, counts), both sorted by id, so that the order of the source does not matter.

    Without a `held_out_source` the first `held_out` ids of `examples` are held out; with one, the first `held_out` of
    `held_out_examples` (all for 0). Of the other `examples` the first `limit` train (all for 0), without those whose instruction
    is also a held-out one's or one of `dev`, up to case, whitespace and punctuation. UserError when nothing is left to train on or
    too few are there to hold out.
    """
    rest = sorted(examples, key=lambda example: example.id)
    if cfg.held_out_source:
        pool = sorted(held_out_examples, key=lambda example: example.id)
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


def main() -> None:
    """`humpback seed`."""
    seed(commandline.open_run())
