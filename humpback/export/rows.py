"""Records to the rows of a dataset: `messages` and the two texts, beside everything that leads back to where they come from."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from etils import epath

from humpback import prompts
from humpback.corpus.filters import count_emails
from humpback.errors import UserError
from humpback.records import Example, numbered_lines, read_shards, shard_paths

Row = dict[str, Any]

# Column → its type, as pyarrow names it. Of every dataset, of curated pairs, of answers.
_COMMON = {
    "messages": "list<struct<role: string, content: string>>", "instruction": "string", "response": "string", "kind": "string",
    "id": "string", "text_sha256": "string",
}  # fmt: skip
PAIR_COLUMNS = {
    **_COMMON,
    "score": "double", "scores": "list<double>", "probabilities": "list<double>", "label_mass": "double", "rating_texts": "list<string>",
    "likelihood": "double", "iteration": "int32", "header": "string", "header_path": "list<string>", "url": "string", "source": "string",
    "start": "int64", "end": "int64", "language": "string", "confidence": "double", "instruction_model": "string",
    "instruction_seed": "int64", "instruction_prompt_cut": "bool", "instruction_log_prob": "double", "rating_model": "string",
    "rating_seed": "int64", "rating_prompt_cut": "bool", "likelihood_model": "string", "likelihood_prompt_cut": "bool",
}  # fmt: skip
ANSWER_COLUMNS = {
    **_COMMON, "sample": "int32", "finish": "string", "log_prob": "double", "prompt_tokens": "int32", "output_tokens": "int32",
    "model": "string",
}  # fmt: skip
WITHHELD = ("messages", "response", "header", "header_path")  # of a page, by reference; the hash of the response stays
NO_TEXT, EMPTY = "prompt of ids, without a text", "empty answer"


def pair_rows(curated: epath.Path, iteration: int, with_seed: bool, tags: bool) -> Iterator[Row]:
    """The curated pairs of an iteration in their order, then the seed pairs they were trained with, if asked for."""
    for example in read_shards(curated, "curated", Example):
        yield _pair(example, iteration, tags)
    for example in read_shards(curated.parent / "seed", "seed", Example) if with_seed else ():
        yield _pair(example, None, tags)


def _pair(example: Example, iteration: int | None, tags: bool) -> Row:
    rated, likely = example.rated, example.likely
    history = rated or likely
    row_id = history.candidate.segment.id if history else example.id  # the segment's, by which its text can be found again
    row = _row(question(example.instruction, example.kind, tags), example.instruction, example.response, example.kind, row_id)
    row |= {"source": example.source, "iteration": iteration}
    if rated is not None:
        row |= {
            "score": rated.score, "scores": list(rated.scores), "probabilities": list(rated.probabilities),
            "label_mass": rated.mass, "rating_texts": list(rated.texts),
            "rating_model": rated.model, "rating_seed": rated.seed, "rating_prompt_cut": rated.prompt_cut,
        }  # fmt: skip
    if likely is not None:
        row |= {"likelihood": likely.score, "likelihood_model": likely.model, "likelihood_prompt_cut": likely.prompt_cut}
    if history:
        candidate, segment = history.candidate, history.candidate.segment
        row |= {
            "instruction_model": candidate.model, "instruction_seed": candidate.seed, "instruction_prompt_cut": candidate.prompt_cut,
            "instruction_log_prob": candidate.log_prob,
            "header": segment.header, "header_path": list(segment.header_path), "url": segment.url, "source": segment.source,
            "start": segment.start, "end": segment.end, "language": segment.language, "confidence": segment.confidence,
        }  # fmt: skip
    return row


def answer_rows(folder: epath.Path, model: str, drop: Counter[str]) -> Iterator[Row]:
    """What `humpback generate` wrote, a row for each sample; `drop` counts those without a text to show. UserError for a bad line."""
    for path in shard_paths(folder, "generated"):
        for where, line in numbered_lines(path):
            yield from _answers(line, where, model, drop)


def _answers(text_line: str, where: str, model: str, drop: Counter[str]) -> Iterator[Row]:
    try:
        line = json.loads(text_line)
        turns = line.get("messages") or []
        asked = line.get("prompt") or line.get("instruction") or (turns[-1]["content"] if turns else "")
        samples = list(zip(line["texts"], line["finish"], line["log_probs"], line["output_tokens"], strict=True))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not a line of `humpback generate` ({error!r})") from error
    for sample, (text, finish, log_prob, tokens) in enumerate(samples):
        if not asked or not text.strip():
            drop[EMPTY if asked else NO_TEXT] += 1
            continue
        row = _row(asked, asked, text, "generated", str(line["id"]))
        row["messages"] = [*turns[:-1], *row["messages"]]
        yield row | {"sample": sample, "finish": finish, "log_prob": log_prob, "prompt_tokens": line["prompt_tokens"],
                     "output_tokens": tokens, "model": model}  # fmt: skip


def _row(asked: str, instruction: str, response: str, kind: str, name: str) -> Row:
    return {
        "messages": chat(asked, response), "instruction": instruction, "response": response, "kind": kind, "id": name,
        "text_sha256": text_digest(response),
    }  # fmt: skip


def question(instruction: str, kind: str, tags: bool) -> str:
    """What the user says: the instruction, and with `tags` the one that training put after it."""
    tag = prompts.SEED_TAG if kind == "seed" else prompts.WEB_TAG
    return prompts.forward_training_prompt(instruction, tag).content if tags else instruction


def chat(asked: str, response: str) -> list[dict[str, str]]:
    """The two turns."""
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": response}]


def withheld(row: Row) -> Row:
    """A row by reference: of a page's pair without the page's text; a human pair as it is."""
    return row | dict.fromkeys(WITHHELD) if row["kind"] == "augmented" else row


def text_digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def holds_address(row: Row) -> bool:
    """Whether an e-mail address is in the texts."""
    return any(count_emails(row[name]) for name in ("instruction", "response"))
