"""The human pairs: read by the paper's rule (section 3.1) and dealt, by content, into those that train and those that measure."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from humpback import distributed
from humpback.config import Config, Seed
from humpback.convert.sources import resolve
from humpback.corpus.contamination import REASON as CONTAMINATION
from humpback.corpus.contamination import Contamination
from humpback.corpus.duplicates import normalised
from humpback.datasets.pair_files import BAD_LINE
from humpback.datasets.seed_pairs import read_pairs
from humpback.errors import UserError
from humpback.evaluation import paired
from humpback.progress import say, warn_of_many
from humpback.prompts import bare
from humpback.records import Example, write_shards
from humpback.stages import commandline, contents, held_out
from humpback.stages.directory import Run, Stage
from humpback.stages.samples import Samples

STRICT = "strict"
HELD_OUT, OVER_LIMIT = "instruction_held_out", "over_limit"  # why a pair does not train


def define_flags() -> None:
    """The stages' flags and --strict."""
    commandline.define_flags()
    flags.DEFINE_bool(STRICT, False, "end at the first bad line of the human pairs instead of dropping it")


def seed(run: Run, strict: bool = False) -> None:
    """Makes seed/: the training pairs, the held-out ones and those of the dev set, as Examples of kind `seed`."""
    stage = run.stage("seed", ("seed_pairs.", "evaluation.sets"), module=__name__)
    if stage.complete:
        return
    found = distributed.by_first("seed", lambda: _deal(run.cfg, stage, strict))
    stage.finish(**found)
    for reason, what in (("duplicate", "pairs are there twice"), (BAD_LINE, "lines hold no pair")):
        lost = found["dropped"].get(reason, 0)
        warn_of_many("seed", lost, found["counts"]["read"] + lost, what)


def _deal(config: Config, stage: Stage, strict: bool) -> dict[str, Any]:
    """Writes the shards; returns what the manifest says of them."""
    cfg = config.seed_pairs
    tell = lambda text: say(f"seed: {text}")  # noqa: E731
    read = functools.partial(read_pairs, single_reply=cfg.single_reply, language=cfg.language, strict=strict, say=tell)
    samples = Samples()
    pairs, counts, unread = read(resolve(cfg.source), on_drop=samples.drop)
    kept, dropped = counts.pop("kept"), dict(counts)
    if cfg.contamination:
        evaluated = Contamination(",".join(path for _, path in contents.comma_separated(cfg.contamination)))
        clean = [pair for pair in pairs if not _holds(pair, evaluated, samples)]
        dropped[CONTAMINATION] = len(pairs) - len(clean)
        pairs = clean
    sets = [(held_out.shards_of(name), source) for name, source in contents.named_sources(config.evaluation.sets)]
    sources = {paired.HELD_OUT: cfg.held_out_source, "dev": cfg.dev_source, **dict(sets)}
    measured: dict[str, list[Example]] = {name: [] for name in sources}
    for name, source in sources.items():
        if source:
            measured[name], counts, _ = read(resolve(source), on_drop=functools.partial(samples.drop, of=f"{name}: "))
            dropped |= {f"{name}: {reason}": count for reason, count in counts.items() if reason != "kept"}
    stage.check_contents()
    others = [example for name, examples in measured.items() if name != paired.HELD_OUT for example in examples]
    train, measured[paired.HELD_OUT], counts = split_seed(pairs, measured[paired.HELD_OUT], cfg, others, samples.drop_pair)
    counts |= {name: len(measured[name]) for name, _ in sets}
    stage.begin()
    files = []
    for name, examples in {"seed": train, **measured}.items():
        files += write_shards(stage.path, name, sorted(examples, key=lambda example: example.id), len(examples))
    files.append(samples.publish(stage))
    dropped |= {name: counts.pop(name) for name in (HELD_OUT, OVER_LIMIT)}
    return {"counts": {"read": kept, **counts}, "dropped": dropped, "files": files, "unread_fields": unread}


def _holds(pair: Example, evaluated: Contamination, samples: Samples) -> bool:
    """Whether a pair holds an evaluation prompt."""
    instruction = bare(pair.instruction)
    found = evaluated.is_prompt(instruction) or any(map(evaluated.reason, (instruction, pair.response)))
    if found:
        samples.drop_pair(CONTAMINATION, pair)
    return found


def split_seed(
    examples: list[Example], held_out_examples: list[Example], cfg: Seed, others: Sequence[Example] = (),
    on_drop: Callable[[str, Example], None] = lambda reason, pair: None,
) -> tuple[list[Example], list[Example], dict[str, int]]:  # fmt: skip
    """Returns (training pairs, held-out pairs, counts), both in an order that follows from their texts alone.

    So neither the order of the source decides who is where, nor its name. Without a `held_out_source` the first `held_out` of `examples`
    in that order are held out; with one, the first `held_out` of `held_out_examples` (all for 0). Of the other `examples` the first `limit`
    train (all for 0), without those whose instruction is also a held-out one's or one of `others`, up to case, whitespace and punctuation.
    `on_drop` hears of these, and why. UserError when nothing is left to train on or too few are there to hold out.
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
    measured = pool[:size]
    if not cfg.held_out_source:
        rest = rest[size:]
    known = {normalised(example.instruction) for example in [*measured, *others]}
    free = [example for example in rest if normalised(example.instruction) not in known]
    train = free[: cfg.limit] if cfg.limit else free
    for reason, left_out in (
        (HELD_OUT, [pair for pair in rest if normalised(pair.instruction) in known]), (OVER_LIMIT, free[len(train) :])
    ):  # fmt: skip
        for pair in left_out:
            on_drop(reason, pair)
    if not train:
        raise UserError(
            f"seed_pairs.source: {cfg.source}: of {len(examples)} pairs none is left to train on ({len(measured)} are held out); "
            "give more pairs or lower seed_pairs.held_out"
        )
    counts = {
        "held_out": len(measured),
        HELD_OUT: len(rest) - len(free),
        OVER_LIMIT: len(free) - len(train),
        "train": len(train),
    }
    return train, measured, counts


def _content(example: Example) -> bytes:
    """What the order of the pairs follows from."""
    return hashlib.sha256(f"{example.instruction}\0{example.response}".encode()).digest()


def main() -> None:
    """`humpback seed`."""
    seed(commandline.open_run(), bool(flags.FLAGS[STRICT].value))
