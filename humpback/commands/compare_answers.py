"""`humpback evaluate --task=judge`: a model compares two files of answers, if it passes the gate (evaluation/pairwise.py).

Every two answers, and every control, are shown in both orders. OUT/ is a folder like `humpback generate`'s: comparisons-….jsonl,
compared-….jsonl, manifest.json; beside them annotations.json in AlpacaEval's form, and report.json.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from absl import flags
from etils import epath

from humpback import distributed, prompts, storage
from humpback.commands.models import OpenModel, open_model, open_out, serve_shards
from humpback.convert.sources import resolve
from humpback.datasets.seed_pairs import read_pairs
from humpback.decoding import offline
from humpback.decoding.serving import fit_prompt
from humpback.errors import UserError
from humpback.evaluation import pairwise, winrate
from humpback.evaluation.pairwise import Asked, Control, Judgement
from humpback.models import folders
from humpback.records import Record, read_shards, record_id
from humpback.stages import held_out
from humpback.stages.curate import label_ids, label_mass, softmax
from humpback.stages.directory import Stage, check_shared

NO_WIN_RATE = 3  # exit code
_ANSWERS = "answers"  # the kind of a comparison that is no control
_FLAGS = flags.FLAGS


class Answer(msgspec.Struct):
    """A row of AlpacaEval's model_outputs.json."""

    instruction: str
    output: str
    generator: str = ""
    dataset: str = ""


class Comparison(Record, frozen=True):
    """Two responses in one order. `pair` names what both orders are of; `forward`: the model's, or the better one, is shown first."""

    pair: str
    kind: str
    forward: bool
    instruction: str
    first: str
    second: str


class Compared(Record, frozen=True):
    """The probability that the judge prefers the first one, of the two labels, and what these have of the whole probability."""

    comparison: Comparison
    first: float
    mass: float


def compare(model_rows: Sequence[Answer], baseline_rows: Sequence[Answer]) -> dict[str, Any]:
    """Asks, and reports {controls, gate, win_rate}, the last one only when the gate is open, or with --force."""
    values = _FLAGS
    for name in ("model", "pairs", "out"):
        if values[name].value is None:
            raise UserError(f"--{name} is missing: --task=judge needs a model, human pairs for its controls, and a folder to write")
    check_shared("out", values.out)
    answers = match(model_rows, baseline_rows)
    opened = open_model(values.model, {"forward", "base"}, values.base)
    files = {"--input": values.input, "--baseline": values.baseline, "--pairs": resolve(values.pairs)}
    if not epath.Path(files["--pairs"]).exists():
        raise UserError(f"--pairs={values.pairs}: no such file")
    decided = {name: f"sha256 {storage.sha256_file(path)}" for name, path in files.items()}
    decided |= {"--model": f"sha256 {opened.digest()}", "--length": values.length, "--dtype": values.dtype, "--seed": values.seed}
    stage = open_out(decided, __name__)
    if not stage.complete:
        _serve(stage, opened, answers, *_controls(files["--pairs"], values.seed))
    return distributed.by_first("report of the judge", lambda: _report(stage, answers, values.force))


def match(model_rows: Sequence[Answer], baseline_rows: Sequence[Answer]) -> dict[str, tuple[Answer, Answer]]:
    """(model's, baseline's) of each instruction, by a hash of it, in an order that no file decides. UserError for an instruction that one
    of the files lacks, or has twice."""
    sides = []
    for name, rows in (("input", model_rows), ("baseline", baseline_rows)):
        found = {row.instruction: row for row in rows}
        if len(found) != len(rows):
            twice = next(row.instruction for row in rows if sum(row.instruction == other.instruction for other in rows) > 1)
            raise UserError(f"--{name}={_FLAGS[name].value}: has the instruction {twice!r:.80} twice")
        sides.append(found)
    for one, other, name in ((sides[0], sides[1], "baseline"), (sides[1], sides[0], "input")):
        if missing := [text for text in one if text not in other]:
            raise UserError(f"--{name}={_FLAGS[name].value}: lacks {len(missing)} instructions, the first is {missing[0]!r:.80}")
    named = {hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]: (sides[0][text], sides[1][text]) for text in sides[0]}
    return dict(sorted(named.items()))


def _controls(path: str, seed: int) -> tuple[list[Control], dict[str, int]]:
    """Of the human pairs, each beside one of another instruction that its key draws; how many pairs have none, by reason."""
    found = read_pairs(path)
    pairs = sorted(found.pairs, key=lambda pair: pair.id)
    texts = [(record_id("", 0, 0, pair.id), pair.instruction, pair.response) for pair in pairs]
    others = held_out.partners([text[:2] for text in texts], seed, "control")
    made = pairwise.controls(texts, others)
    dropped = {f"--pairs: {why}": count for why, count in found.counts.items() if why != "kept"}
    return made, dropped | {"--pairs: no pair with another instruction": others.count(None)}


def _both_orders(answers: Mapping[str, tuple[Answer, Answer]], controls: Sequence[Control]) -> Iterator[Comparison]:
    asked = [(pair, _ANSWERS, a.instruction, a.output, b.output) for pair, (a, b) in answers.items() if a.output != b.output]
    asked += [(control.id, control.kind, control.instruction, control.better, control.worse) for control in controls]
    for pair, kind, instruction, one, other in asked:
        for forward, first, second in ((True, one, other), (False, other, one)):
            yield Comparison(record_id(f"{pair} {kind} {forward}", 0, 0, ""), pair, kind, forward, instruction, first, second)


def _serve(
    stage: Stage, opened: OpenModel, answers: Mapping[str, tuple[Answer, Answer]], controls: Sequence[Control], dropped: Mapping[str, int]
) -> None:
    comparisons, length = list(_both_orders(answers, controls)), _FLAGS.length
    written = stage.hand_out("comparisons", comparisons)

    def task_of(model: folders.Model) -> offline.Task:
        labels = label_ids(model.tokenizer, prompts.BETTER_LEAD, prompts.BETTER_LABELS, "--task=judge")
        return offline.Task(lambda c: _encode(model, c, length), _made, read=tuple(labels))

    done = serve_shards(
        stage, opened, "comparisons", Comparison, length, "compared", task_of, lambda text: prompts.pairwise_prompt(text, text, text)
    )
    dropped = {**dropped, "equal answers, a draw": sum(a.output == b.output for a, b in answers.values())} | done.rejected
    stage.finish(counts=done.counts, dropped=dropped, files=[*written, *done.files], tokens=done.tokens)


def _encode(model: folders.Model, comparison: Comparison, length: int) -> np.ndarray | None:
    """Nothing of a response may be cut: then nobody would know which one is better."""
    prompt = prompts.pairwise_prompt(comparison.instruction, comparison.first, comparison.second)
    fitted = fit_prompt(model, prompt, length, prompts.BETTER_LEAD)
    return None if fitted is None or fitted.cut else fitted.ids


def _made(comparison: Comparison, answers: list[np.ndarray]) -> Compared:
    return Compared(comparison.id, comparison, softmax(answers[0])[0], label_mass(answers[0]))


def _report(stage: Stage, answers: Mapping[str, tuple[Answer, Answer]], force: bool) -> dict[str, Any]:
    sides: dict[tuple[str, str], dict[bool, Compared]] = {}
    for compared in read_shards(stage.path, "compared", Compared):
        asked = compared.comparison
        sides.setdefault((asked.pair, asked.kind), {})[asked.forward] = compared
    judged = {key: _judgement(of) for key, of in sides.items() if len(of) == 2}
    shown = {key: of[True].comparison for key, of in sides.items() if len(of) == 2}
    controls = [
        (Control(pair, kind, c.instruction, c.first, c.second), judged[pair, kind]) for (pair, kind), c in shown.items() if kind != _ANSWERS
    ]
    described = pairwise.describe(controls)
    closed = pairwise.gate(described)
    annotations = [_annotation(a, b, judged.get((pair, _ANSWERS))) for pair, (a, b) in answers.items()]
    report: dict[str, Any] = {"controls": described, "gate": closed or "open"}
    if not closed or force:
        report["win_rate"] = winrate.win_rate([row["preference"] for row in annotations])
    storage.publish(stage.path / "annotations.json", json.dumps(annotations, indent=1, ensure_ascii=False) + "\n", replace=True)
    storage.publish_json(stage.path / "report.json", report, replace=True)
    return report


def _judgement(of: Mapping[bool, Compared]) -> Judgement:
    return Judgement(*(Asked(of[forward].first, of[forward].mass) for forward in (True, False)))


def _annotation(model: Answer, baseline: Answer, judgement: Judgement | None) -> dict[str, Any]:
    equal = model.output == baseline.output
    preference = pairwise.preference(model.output, baseline.output, judgement) if equal or judgement else None
    return {
        "instruction": model.instruction, "output_1": baseline.output, "generator_1": baseline.generator, "dataset": model.dataset,
        "output_2": model.output, "generator_2": model.generator, "annotator": _FLAGS.model, "preference": preference,
    }  # fmt: skip


def show(report: Mapping[str, Any]) -> list[str]:
    """What is printed: the controls, then the win rate or why there is none."""
    lines = []
    for kind, of in report["controls"].items():
        mass = of["mass"]
        lines.append(
            f"a human response against {kind}: {of['averaged']['accuracy']:.0%} ± {of['averaged']['standard_error']:.0%} of {of['pairs']}, "
            f"shown first {of['better_first']['accuracy']:.0%}, second {of['better_second']['accuracy']:.0%}; position bias "
            f"{of['position_bias']:+.2f}, flips {of['flips']:.0%}, label mass {mass['median']:.2f} (5th percentile {mass['p5']:.2f})"
        )
    if report["gate"] != "open":
        lines.append(report["gate"])
    if rate := report.get("win_rate"):
        lines.append(f"win rate: {rate['win_rate']:.2f} ± {rate['standard_error'] or 0:.2f} % of {rate['n']}, {rate['missing']} missing")
    return lines


def end(report: Mapping[str, Any]) -> None:
    """Exit code 3 where there is no win rate."""
    if "win_rate" not in report:
        sys.exit(NO_WIN_RATE)
