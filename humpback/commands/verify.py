"""`humpback verify --source=MODEL --target=MODEL`: whether two models, in whatever formats, are the same, and where they differ.

Hyper-parameters, tokens that are added or special, filler, chat template, ends of a text, every tensor; and on given texts: ids, logits,
KL divergence, the likeliest next tokens, greedy text. Exit code 0 when they are the same, 3 when they are not.
"""

import sys

from absl import flags
from etils import epath

from humpback.convert import comparison, sources
from humpback.errors import UserError
from humpback.model.weights import leaves
from humpback.progress import Bar

DIFFERENT = 3  # exit code
_SHOWN = 20  # of many differences


def define_flags() -> None:
    """The command's flags."""
    what = "GGUF file, Hugging Face folder, Meta's original folder, model folder, or package:NAME/GLOB."
    flags.DEFINE_string("source", None, what, required=True)
    flags.DEFINE_string("target", None, what, required=True)
    flags.DEFINE_string("base", None, "The base of a side that holds adapters alone, where its folder does not say where that is.")
    flags.DEFINE_string("text", "", "Also run both models on this text; @FILE for each line of a file. Takes the memory of a whole model.")
    flags.DEFINE_integer("tokens", 32, "How long the greedy continuation of each text is.", lower_bound=0)
    flags.DEFINE_float("tolerance", 1e-4, "How far logits may be apart, with --text, in float32.", lower_bound=0)
    flags.DEFINE_enum(
        "runner", "auto", ["auto", "humpback", "transformers"],
        "With --text, what runs a target that is a Hugging Face folder; auto: transformers when it is installed.",
    )  # fmt: skip


def main() -> None:
    """Compares and prints; ends with exit code 3 for a difference."""
    values = flags.FLAGS
    texts, sides = read_texts(values.text), (values.source, values.target)
    if values.base and not any(map(sources.is_adapter, sides)):
        raise UserError(f"--base={values.base}: neither side holds adapters alone")
    source, target = (sources.open_source(path, base=values.base if sources.is_adapter(path) else None) for path in sides)
    for side in (source, target):
        print(f"{side.path}: recognised as {sources.FORMATS[side.format]}")
        print("".join(f"{side.path}: {note}\n" for note in side.notes), end="")
    differences = [
        *comparison.compare_configs(source, target),
        *comparison.compare_tokenizers(source.tokenizer, target.tokenizer, texts),
        *comparison.compare_chat(source, target),
        *by_transformers(source, target, texts),
    ]
    if source.config == target.config:
        differences += tensors(source, target)
        if texts:
            differences += on_texts(source, target, texts)
    for line in differences[:_SHOWN]:
        print(line)
    if len(differences) > _SHOWN:
        print(f"and {len(differences) - _SHOWN} more")
    print("NOT the same model" if differences else "the same model")
    if differences:
        sys.exit(DIFFERENT)


def by_transformers(source: sources.Source, target: sources.Source, texts: list[str]) -> list[str]:
    """What comparison.compare_auto finds; says so where it cannot look."""
    if target.format == "huggingface" and comparison.has_transformers():
        return list(comparison.compare_auto(source, target, texts))
    why = "transformers is not installed" if target.format == "huggingface" else "the target is no Hugging Face folder"
    print(f"not checked: ids by transformers' AutoTokenizer ({why})")
    return []


def tensors(source: sources.Source, target: sources.Source) -> list[str]:
    """What comparison.compare_tensors finds, with progress and a line of what was looked at."""
    count = sum(1 for _ in leaves(source.config))
    with Bar("verify", "tensor", count, shown=None) as bar:
        differences = list(comparison.compare_tensors(source, target, lambda name: bar.advance()))
    kinds = [sorted({side.dtype(leaf) for leaf, _ in leaves(side.config)}) for side in (source, target)]
    rounded = "" if kinds[0] == kinds[1] else f" (the wider of {' and '.join(kinds[0])} and {' and '.join(kinds[1])} rounded to the other)"
    print(f"tensors: {count - len(differences)} of {count} have the same bits{rounded}")
    return differences


def on_texts(source: sources.Source, target: sources.Source, texts: list[str]) -> list[str]:
    """Runs both models, one after the other, prints what they make of each text, and returns what differs."""
    values, tokenizer = flags.FLAGS, source.tokenizer
    ids = [tokenizer.encode_alone(text) for text in texts]
    longest = max(map(len, ids)) + values.tokens
    if longest > source.config.max_positions:
        raise UserError(f"--text and --tokens come to {longest} tokens, more than the model's {source.config.max_positions}")
    run, name = _runner(target, values.runner)
    before = comparison.run_here(source, ids, values.tokens)
    after = run(target, ids, values.tokens)
    differences, special = [], {token: text for text, token in tokenizer.specials.items()}
    for text, a, b in zip(texts, before, after, strict=True):
        result = comparison.compare_outcomes(a, b, values.tolerance)
        print(f"\n{text[:100]!r}, the target run by {name}: logits differ by up to {result.apart:.3g}; KL divergence "
              f"{result.kl[0]:.3g} nats a token, at most {result.kl[1]:.3g}")  # fmt: skip
        print(f"{'next token':>20} {'source':>10} {'target':>10}")
        for token, p, q in result.top:
            print(f"{special.get(token, tokenizer.decode([token]))!r:>20} {p:>10.6f} {q:>10.6f}")
        for side, outcome in (("source", a), ("target", b)):
            end = ", and there it ends" if tokenizer.eos_id in outcome.greedy else ""
            print(f"greedy, {side}: {tokenizer.decode(outcome.greedy)!r}{end}")
        if not result.apart <= values.tolerance:
            differences.append(f"{text[:60]!r}: logits differ by {result.apart:.3g}, more than --tolerance={values.tolerance:g}")
        if result.greedy_differs is not None:
            differences.append(f"{text[:60]!r}: the greedy texts differ from token {result.greedy_differs} on")
    return differences


def _runner(target: sources.Source, runner: str):
    """(what runs the target, its name). UserError when transformers is asked for and cannot do it."""
    if runner == "transformers" and (target.format != "huggingface" or not comparison.has_transformers()):
        raise UserError(
            "--runner=transformers needs a target that is a Hugging Face folder, and torch and transformers: "
            "pip install -c launch/constraints.txt -e '.[parity]'"
        )
    if target.format == "huggingface" and runner != "humpback" and comparison.has_transformers():
        return comparison.run_transformers, "transformers"
    return comparison.run_here, "humpback"


def read_texts(given: str) -> list[str]:
    """The texts of --text. UserError for a file that is not there or has nothing in it."""
    if not given.startswith("@"):
        return [given] if given else []
    path = epath.Path(given[1:])
    if not path.exists():
        raise UserError(f"--text={given}: no such file")
    texts = [line for line in path.read_text().splitlines() if line.strip()]
    if not texts:
        raise UserError(f"--text={given}: no text is in this file")
    return texts
