"""`humpback evaluate --task=TASK --input=FILE`: figures from what is written down; `judge` and `benchmarks` ask a model."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from absl import flags
from etils import epath

from humpback import config as configs
from humpback import keys, storage
from humpback.commands import choose_answers, compare_answers
from humpback.commands.generate import parse
from humpback.commands.models import define_base
from humpback.datasets import pair_files
from humpback.datasets.multiple_choice import NAMES
from humpback.errors import UserError
from humpback.evaluation import benchmarks, curation, diversity, scaling, winrate
from humpback.progress import printable, say
from humpback.stages.commandline import define_accept_code

_PARSED = 2_000  # instructions whose verbs and nouns are looked for, at most: parsing takes long
_SHOWN = 3  # rows that are dropped
_JUDGE, _BENCHMARKS = "judge", "benchmarks"
_NO_LENGTH_CONTROL = (
    "no length-controlled rate: --difficulty names no file. AlpacaEval's difficulties are not ours to ship (CC BY-NC 4.0); "
    "docs/evaluation.md says where they are"
)


class _Preference(msgspec.Struct):
    output_1: str
    output_2: str
    preference: float | msgspec.UnsetType | None = msgspec.UNSET
    dataset: str = ""
    instruction: str = ""
    raw_completion: Any = None


class _Won(msgspec.Struct):
    won: bool
    judged: bool


class _Point(msgspec.Struct):
    examples: float
    value: float


class _Label(msgspec.Struct):
    good: bool
    picked: bool
    weight: float = 1.0
    stratum: str = ""


class _Stereotype(msgspec.Struct):
    type: str
    detected: bool | None = None
    stereotype_likelier: bool | None = None


def define_flags() -> None:
    """The command's flags."""
    defaults = configs.Decoding()
    flags.DEFINE_enum("task", None, [*TASKS, _JUDGE, _BENCHMARKS], "what is computed", required=True)
    what = "JSON lines or a JSON list, .gz too; diversity: pairs or prompts in any form; benchmarks: the folder of their files"
    flags.DEFINE_string("input", None, what, required=True)
    flags.DEFINE_string("difficulty", None, "winrate: AlpacaEval's difficulties, a JSON list in the order of the prompts")
    flags.DEFINE_string("labels", None, "winrate: people's labels of some of the judge's wins and losses, which correct its share of wins")
    flags.DEFINE_string("out", None, "a file for the figures as JSON; judge, benchmarks: the folder to make")
    what = "judge: what compares the answers of --input with those of --baseline; benchmarks: what answers"
    flags.DEFINE_string("model", None, what)
    flags.DEFINE_list("benchmarks", [], f"benchmarks: of {', '.join(NAMES)}; default: those whose files are there")
    flags.DEFINE_integer("limit", 0, "benchmarks: the first so many questions of each; 0 is all", lower_bound=0)
    define_base()
    flags.DEFINE_string("baseline", None, "judge: the other answers, as AlpacaEval's model_outputs.json")
    flags.DEFINE_string("pairs", None, "judge: human pairs for its controls, as seed_pairs.source")
    flags.DEFINE_bool("force", False, "judge: a win rate, even by a judge that does not pass the controls")
    flags.DEFINE_integer("seed", 0, "of the drawing: judge, of controls; diversity, of a sample", lower_bound=0, upper_bound=2**32 - 1)
    flags.DEFINE_integer("length", defaults.length, "judge, benchmarks: tokens of what is asked and all answers", lower_bound=64)
    flags.DEFINE_enum("dtype", defaults.compute_dtype, ["float32", "bfloat16"], "judge, benchmarks: what is computed in")
    flags.DEFINE_integer("slots", configs.ANYWHERE["slots"], "judge, benchmarks: sequences at once of a replica", lower_bound=4)
    flags.DEFINE_integer("tensor", 1, "judge, benchmarks: devices that share a model", lower_bound=1)
    together = configs.ANYWHERE["processes_per_replica"]
    flags.DEFINE_integer("processes_per_replica", together, "judge, benchmarks: that hold a model together", lower_bound=1)
    flags.DEFINE_float("publish_seconds", defaults.publish_seconds, "judge, benchmarks: what a kill costs, at most", lower_bound=0)
    define_accept_code()


def main() -> None:
    """Prints the figures, and writes them with --out."""
    values = flags.FLAGS
    if values.task == _JUDGE:
        if values.baseline is None:
            raise UserError("--baseline is missing: --task=judge compares two files of answers")
        answers = (read_rows(str(values[name].value), compare_answers.Answer, name) for name in ("input", "baseline"))
        report = compare_answers.compare(*answers)
        print(printable("\n".join(compare_answers.show(report))))
        compare_answers.end(report)
        return
    if values.task == _BENCHMARKS:
        report = choose_answers.measure()
        print(printable("\n".join([*choose_answers.show(report), *_bias_lines(report.get("bias", {}))])))
        return
    kind, compute = TASKS[values.task]
    found, lines = compute(_instructions(values.input) if kind is str else read_rows(values.input, kind))
    print(printable("\n".join(lines)))
    if values.out:
        storage.publish_json(values.out, found, replace=True)


def read_rows(path: str, kind: type[Any], flag: str = "input") -> list[Any]:
    """The rows of a file. UserError names the file and the row that is not as the task needs it."""
    file = epath.Path(path)
    if not file.exists() or file.is_dir():
        raise UserError(f"--{flag}={path}: no such file")
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if path.endswith(".gz") else data).decode()
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"--{flag}={path}: neither JSON lines nor a JSON list ({error})") from error
    read = []
    for number, row in enumerate(rows, 1):
        try:
            read.append(msgspec.convert(row, kind))
        except msgspec.ValidationError as error:
            raise UserError(f"--{flag}={path}: row {number}: {error}") from error
    if not read:
        raise UserError(f"--{flag}={path}: no row is in it")
    return read


def _instructions(path: str) -> list[str]:
    """What the records of a file or folder ask, in all forms that `humpback generate` takes; those that ask nothing are dropped and told.
    UserError when none asks."""
    if not epath.Path(path).exists():
        raise UserError(f"--input={path}: no such file")
    found, wrong = [], []
    for row in pair_files.read_rows(path):
        try:
            if row.error:
                raise UserError(f"{row.where}: {row.error}")
            turns = parse(json.dumps(row.value, default=str), row.where).turns
            if not turns:
                raise UserError(f"{row.where}: asks with ids alone, where a text is needed")
            found.append(turns[-1])
        except UserError as error:
            wrong.append(str(error))
    if not found:
        raise UserError(wrong[0] if wrong else f"--input={path}: no row is in it")
    for told in wrong[:_SHOWN]:
        say(f"evaluate: dropped, {told}")
    if len(wrong) > _SHOWN:
        say(f"evaluate: {len(wrong)} of {len(wrong) + len(found)} rows are dropped")
    return found


def _winrate(rows: Sequence[_Preference]) -> tuple[dict[str, Any], list[str]]:
    plain, lines = _preferences(rows)
    found: dict[str, Any] = {"all": winrate.win_rate([row["preference"] for row in plain])}
    if any(row.dataset for row in rows):
        found["datasets"] = winrate.by_dataset(plain)
    lines += [_rate_line("win rate", found["all"]), *(_rate_line(f"  {name}", part) for name, part in found.get("datasets", {}).items())]
    if given := flags.FLAGS.difficulty:
        found["length_controlled_unregularised"] = fit = winrate.fit_length_control(plain, _difficulties(given))
        weights = ", ".join(f"{name} {value:.4f}" for name, value in fit["weights"].items())
        lines.append(f"length-controlled, our unregularised fit, not AlpacaEval's figure: {fit['win_rate']:.2f} % (weights: {weights})")
    else:
        lines.append(_NO_LENGTH_CONTROL)
    if given := flags.FLAGS.labels:
        found["corrected"] = corrected = _corrected(found["all"], read_rows(given, _Won, "labels"))
        low, high = corrected["interval"]
        lines.append(
            f"corrected by {corrected['labels']} labels: {100 * corrected['share']:.2f} % (95 %: {100 * low:.2f} … {100 * high:.2f}); "
            f"the judge's sensitivity is {corrected['sensitivity']:.2f}, its specificity {corrected['specificity']:.2f}"
        )
    return found, lines


def _preferences(rows: Sequence[_Preference]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows with their preferences, those that are not written read from the judge's raw completion; what is to be said of these."""
    plain, differ, completions = [], 0, 0
    for number, row in enumerate(rows, 1):
        values: dict[str, Any] = {"output_1": row.output_1, "output_2": row.output_2, "dataset": row.dataset}
        written, read = row.preference, None
        if row.raw_completion is not None:
            completions += 1
            read = winrate.preference_of_completion(row.raw_completion, winrate.is_swapped(row.instruction))
            differ += written is not msgspec.UNSET and (written is None or read is None or abs(written - read) > 1e-6) and written != read
        elif written is msgspec.UNSET:
            raise UserError(f"--input={flags.FLAGS.input}: row {number}: has neither preference nor raw_completion")
        plain.append(values | {"preference": read if written is msgspec.UNSET else written})
    told = f"{differ} of {completions} raw completions say something else than the preference beside them, which is taken"
    return plain, [told] if differ else []


def _corrected(rate: Mapping[str, Any], labels: Sequence[_Won]) -> dict[str, Any]:
    """evaluation/curation.py's θ. UserError without a labelled win, or a labelled loss."""
    won, lost = [row.judged for row in labels if row.won], [not row.judged for row in labels if not row.won]
    if not won or not lost:
        raise UserError(f"--labels={flags.FLAGS.labels}: {len(won)} wins and {len(lost)} losses; some of both are needed")
    share, sensitivity, specificity = rate["discrete"] / 100, sum(won) / len(won), sum(lost) / len(lost)
    theta = curation.corrected_share(share, sensitivity, specificity, (rate["n"], len(won), len(lost)))
    return {"labels": len(labels), "sensitivity": sensitivity, "specificity": specificity, **theta}


def _difficulties(path: str) -> list[float]:
    if not epath.Path(path).exists():
        raise UserError(f"--difficulty={path}: no such file")
    try:
        return msgspec.json.decode(epath.Path(path).read_bytes(), type=list[float])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise UserError(f"--difficulty={path}: not a JSON list of numbers ({error})") from error


def _rate_line(name: str, part: Mapping[str, Any]) -> str:
    error = "" if part["standard_error"] is None else f" ± {part['standard_error']:.2f}"
    missing = f", {part['missing']} missing" if part["missing"] else ""
    counts = f"{part['wins']} wins, {part['losses']} losses, {part['draws']} draws of {part['n']}{missing}"
    return f"{name}: {part['win_rate']:.2f}{error} % ({counts})"


def _scaling(rows: Sequence[_Point]) -> tuple[dict[str, Any], list[str]]:
    found = scaling.fit([(row.examples, row.value) for row in rows])
    error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.3f}"
    return found, [
        f"w = α ln N + C of {found['points']} points: α {found['alpha']:.3f}{error} with the natural logarithm, "
        f"{found['per_doubling']:.3f} a doubling; C {found['constant']:.3f}"
    ]


def _curation(rows: Sequence[_Label]) -> tuple[dict[str, Any], list[str]]:
    found = curation.classify([curation.Label(row.good, row.picked, row.weight, row.stratum) for row in rows])
    lines = [f"{found['labels']} labels: {found['good']} good, {found['picked']} picked, {found['right']} of these good"]
    for name in ("precision", "recall"):
        part = found[name]
        told = "no case" if part is None else f"{part['value']:.3f} (95 %: {part['interval'][0]:.3f} … {part['interval'][1]:.3f})"
        lines.append(f"{name}: {told}")
    return found, lines


def _diversity(texts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    words = diversity.trigrams(texts)
    found: dict[str, Any] = {"trigrams": words}
    lines = [f"{len(texts)} instructions: {words['unique']} unique of {words['all']} word trigrams"]
    places = sorted(keys.drawn(flags.FLAGS.seed, "verbs and nouns", range(len(texts))).tolist()[:_PARSED])
    try:
        found["verb_nouns"] = parsed = diversity.verb_nouns([texts[place] for place in places]) | {"of": len(texts)}
    except UserError as error:
        return found, [*lines, str(error)]
    by_chance = f"; drawn by chance from {len(texts):,}" if len(texts) > _PARSED else ""
    lines.append(f"verb and noun: {parsed['parsed']} of {parsed['texts']} instructions have them ({parsed['share']:.1%})" + by_chance)
    return found, [*lines, *(f"  {pair['verb']} {pair['noun']}: {pair['count']}" for pair in parsed["pairs"][:20])]


def _bias(rows: Sequence[_Stereotype]) -> tuple[dict[str, Any], list[str]]:
    found = benchmarks.crows_pairs([msgspec.to_builtins(row) for row in rows])
    if not found:
        raise UserError(f"--input={flags.FLAGS.input}: no row has detected or stereotype_likelier")
    return found, _bias_lines(found)


def _bias_lines(found: Mapping[str, Any]) -> list[str]:
    names = {
        "detected": "accuracy of detecting, the higher the better",
        "stereotype": "stereotype likelier, 50 is neutral, more is more biased",
    }
    lines = []
    for metric, part in found.items():
        lines.append(f"{names[metric]}: {part['per_question']:.2f} % ({part['right']} of {part['questions']})")
        lines += [f"  {kind}: {share:.2f} %" for kind, share in part["types"].items()]
    return lines


TASKS: dict[str, tuple[type[Any], Callable[[Any], tuple[dict[str, Any], list[str]]]]] = {
    "winrate": (_Preference, _winrate),
    "scaling": (_Point, _scaling),
    "curation": (_Label, _curation),
    "diversity": (str, _diversity),  # of texts that are asked, in any form
    "bias": (_Stereotype, _bias),
}
