"""`humpback generate --model=MODEL --input=FILE.jsonl --out=DIR`: the engine as a tool of its own, for any prompts.

A line of the input is {"prompt": text}, {"instruction": text}, {"messages": [{"role": …, "content": …}, …]} or {"ids": [token ids]}, with
an "id", a text or a whole number, if the user has one. The other kinds of files and forms that seed pairs come in are taken as well; of a
pair only what it asks is. The same prompts, flags and model give the same lines, in the order of the input,
however many replicas share the work and whatever was killed.
"""

import hashlib
import json
from collections import Counter
from typing import Any

import msgspec
from absl import flags
from etils import epath

from humpback import config as configs
from humpback import distributed, prompts, records, storage
from humpback.commands.models import OpenModel, define_base, open_model
from humpback.datasets import containers, forms, pair_files
from humpback.decoding import offline
from humpback.decoding.answers import NAME, Message, PromptLine, Writer, count_answers
from humpback.decoding.sampling import Sampler
from humpback.decoding.serving import serve
from humpback.errors import UserError
from humpback.models import folders
from humpback.progress import say, warn_of_many
from humpback.rounding import round_up
from humpback.stages.commandline import define_accept_code
from humpback.stages.directory import Place, Stage, check_shared

_WRAPPED = {"forward": prompts.forward_prompt, "base": prompts.forward_prompt, "backward": prompts.backward_prompt}

_ASKS = ("prompt", "instruction", "messages", "ids")  # the fields of which a line of the input has one
_SPECIAL = 8  # tokens that no byte of a prompt stands for, such as the one that begins a text, at most
_GRAIN = 128  # lengths are multiples of it


def define_flags() -> None:
    """The command's flags."""
    defaults = configs.Decoding()
    flags.DEFINE_string("model", None, "a model folder, GGUF file, Hugging Face or Meta folder", required=True)
    define_base()
    what = 'JSON lines of {"prompt"}, {"instruction"}, {"messages"} or {"ids"}; "id" optional; or any file that seed pairs are read from'
    flags.DEFINE_string("input", None, what, required=True)
    flags.DEFINE_string("out", None, "the folder to make: generated-….jsonl, rejects-….jsonl, manifest.json", required=True)
    flags.DEFINE_float("temperature", 0.7, "0 is greedy", lower_bound=0)
    flags.DEFINE_float("top_p", 0.9, "nucleus", lower_bound=0, upper_bound=1)
    flags.DEFINE_integer("top_k", 0, "only the k likeliest tokens; 0 is all", lower_bound=0)
    flags.DEFINE_integer("max_new_tokens", 256, "the longest answer, in tokens", lower_bound=1)
    flags.DEFINE_integer("samples", 1, "answers to each prompt", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of the sampling", lower_bound=0, upper_bound=2**32 - 1)
    flags.DEFINE_multi_string("stop", [], "an answer ends before this text; may be given several times")
    flags.DEFINE_bool("wrap", None, "put the chat wrapper and both tags around a prompt; default: unless it is a base model")
    flags.DEFINE_integer("length", 0, "tokens of prompt and answer together; 0: what the prompts need, at most 2,048", lower_bound=0)
    flags.DEFINE_enum("dtype", defaults.compute_dtype, ["float32", "bfloat16"], "what is computed in")
    flags.DEFINE_integer("slots", configs.ANYWHERE["slots"], "sequences decoded at once by a replica", lower_bound=4)
    flags.DEFINE_integer("tensor", 1, "devices that share a model", lower_bound=1)
    flags.DEFINE_integer("processes_per_replica", configs.ANYWHERE["processes_per_replica"], "that hold a model together", lower_bound=1)
    define_accept_code()
    flags.DEFINE_float("publish_seconds", defaults.publish_seconds, "what a kill costs, at most", lower_bound=0)


def main() -> None:
    """Makes the folder, or completes it."""
    values = flags.FLAGS
    check_shared("out", values.out)
    opened = open_model(values.model, folders.DIRECTIONS, values.base)
    info = opened.info
    length = values.length or min(info.config.max_positions, configs.Decoding().length)
    for wrong, text in (
        (length > info.config.max_positions, f"--length={length} is more than the model's {info.config.max_positions} positions"),
        (values.max_new_tokens >= length, f"--max_new_tokens={values.max_new_tokens} leaves no room for a prompt in {length} tokens"),
        (not epath.Path(values.input).exists(), f"--input={values.input}: no such file"),
        ("" in values.stop, "--stop= is empty; it would end every answer before it begins"),
    ):
        if wrong:
            raise UserError(text)
    wrap = info.direction != "base" if values.wrap is None else values.wrap
    decided = {f"--{name}": values[name].value for name in ("temperature", "top_p", "top_k", "max_new_tokens", "samples", "seed", "stop")}
    decided |= {"--length": length, "--dtype": values.dtype, "--wrap": wrap}
    decided |= {
        "--input": f"sha256 {digest_of(values.input)}",
        "--model": f"sha256 {opened.digest()}",
    }
    recorded = {f"--{name}": values[name].value for name in ("slots", "tensor", "processes_per_replica")}
    place = Place(values.out, decided, accept_code=values.accept_code)
    stage = Stage(place.path, decided, recorded, place=place, module=__name__)
    if not stage.complete:
        generate(stage, opened, length, wrap)


def digest_of(source: str) -> str:
    """sha256 of a file, or of those of a folder that is read."""
    digests = [storage.sha256_file(path) for _, path in containers.list_files(source)]
    return digests[0] if len(digests) == 1 else storage.sha256_json(digests)


def generate(stage: Stage, opened: OpenModel, length: int, wrap: bool) -> None:
    """Serves the prompts that the flags name."""
    values, info = flags.FLAGS, opened.info
    # before the model is loaded, as a line may be wrong
    inputs = offline.Inputs([values.input], parse, any_id=True, read=pair_files.numbered_records)
    template = _WRAPPED[info.direction] if wrap else None
    decoding = configs.Decoding(
        length=values.length or min(length, room_for(inputs, info, template, values.max_new_tokens)),
        compute_dtype=values.dtype,
        processes_per_replica=values.processes_per_replica,
        slots=values.slots,
        publish_seconds=values.publish_seconds,
    )
    model, engine = opened.engine(decoding, values.tensor, template)
    writer = Writer(model, template, tuple(values.stop))
    task = offline.Task(
        writer.encode,
        writer.make,
        max_new=values.max_new_tokens,
        samples=values.samples,
        seed=values.seed,
        purpose="generate",
        sampler=Sampler(values.temperature, values.top_p, values.top_k),
        stop_ids=frozenset([model.tokenizer.eos_id]),
    )
    unread = distributed.by_first("fields that are not read", lambda: unread_fields(values.input))
    if unread:
        fields = ", ".join(f"{name!r} ({count} lines)" for name, count in unread.items())
        say(f"{values.input}: fields that are not read: {fields}")
    done = serve(engine, task, inputs, offline.Output(stage.path, NAME, stage.name, stage.metrics, stage), decoding)
    answers, cut_off = distributed.by_first("answers counted", lambda: count_answers(stage.path))
    counts = {**done.counts, "answers": answers, "answers cut": cut_off}
    stage.finish(counts=counts, dropped=done.rejected, files=done.files, tokens=done.tokens, unread_fields=unread)
    warn_of_many(stage.name, cut_off, answers, f"answers are cut at --max_new_tokens={values.max_new_tokens}")


def unread_fields(path: storage.PathLike) -> dict[str, int]:
    """In how many lines of the input, whose form `parse` has checked, stands a field that is not read."""
    found: Counter[str] = Counter()
    for _, line in pair_files.numbered_records(path):
        row = forms.named(json.loads(line))
        asked = "".join(name for name in _ASKS if name in row)
        if asked not in _ASKS or is_pair(row):
            found.update(row.keys() - {"id"} - forms.fields_of(row))
            continue
        found.update(row.keys() - {"id", asked, *(forms.CONTEXTS if asked == "instruction" else ())})
        turns = row["messages"] if asked == "messages" else ()
        found.update({f"messages.{name}" for turn in turns for name in turn} - {"messages.role", "messages.content"})
    return dict(sorted(found.items()))


def room_for(inputs: offline.Inputs, info: folders.ModelInfo, template: Any, max_new: int) -> int:
    """A length in which every prompt and its answer fit, counted in bytes, of which a token has at least one: for short prompts there
    are fewer programs to compile than for 2,048 tokens."""
    around = "".join([*prompts.WRAPPERS[info.wrapper], template("").content]) if template else ""

    def size(line: PromptLine) -> int:
        if line.ids is not None:
            return len(line.ids)
        texts = sum(len((around + turn).encode("utf-8", "surrogatepass")) for turn in line.turns)
        return texts + _SPECIAL * (len(line.turns) - 1)

    most = max((size(line) for _, _, line in inputs), default=0)
    return round_up(most + max_new + _SPECIAL, _GRAIN)


def parse(line: str, where: str) -> PromptLine:
    """A line of the input; UserError with its place. Without an "id" it is a hash of the line's number and what it asks."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    try:
        row = forms.named(row) if isinstance(row, dict) else row
        asked = [name for name in _ASKS if isinstance(row, dict) and name in row]
        pair = len(asked) != 1 or is_pair(row)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if pair:
        try:
            row, asked = {"instruction": forms.prompt_of(row), **({"id": row["id"]} if "id" in row else {})}, ["instruction"]
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{where}: must be an object with one of {', '.join(map(repr, _ASKS))}, or a pair ({error})") from error
    [name] = asked
    content, number = row[name], where.rpartition(":")[2]
    if name in ("prompt", "instruction") and not isinstance(content, str):
        raise UserError(f'{where}: "{name}" must be a text, not {content!r:.60}')
    if name == "ids" and not (isinstance(content, list) and all(type(token) is int for token in content)):
        raise UserError(f'{where}: "ids" must be a list of whole numbers, not {content!r:.60}')
    default = hashlib.sha256(json.dumps([number, content]).encode()).hexdigest()[:16]
    record_id = str(row["id"]) if type(row.get("id")) is int else row.get("id", default)
    if not isinstance(record_id, str) or not record_id or records.half_surrogate(record_id):
        raise UserError(f'{where}: "id" must be a whole number, or a text in valid Unicode that is not empty, not {record_id!r:.60}')
    if name == "messages":
        content = messages(content, where)
    if name == "instruction":
        try:
            content = forms.instruction_of(row)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
    fields: dict[str, Any] = {"prompt": None, "ids": None, name: tuple(content) if isinstance(content, list) else content}
    return PromptLine(record_id, **fields)


def is_pair(row: dict[str, Any]) -> bool:
    """Whether an object that asks is a record of human pairs: a tree, or a chat that has its last answer."""
    return forms.is_answered(row.get("messages")) or isinstance(row.get("prompt"), dict)


def messages(turns: Any, where: str) -> tuple[Message, ...]:
    """The turns of a conversation, the user's first and last. UserError with their place; no training example had a system turn."""
    try:
        read = msgspec.convert(turns, tuple[Message, ...])
    except msgspec.ValidationError as error:
        raise UserError(f'{where}: "messages" must be a list of {{"role": …, "content": text}} ({error})') from error
    roles = [message.role for message in read]
    if len(roles) % 2 == 0 or roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        raise UserError(f'{where}: the roles of "messages" must be user, assistant, … and end with user, not {", ".join(roles) or "none"}')
    return read
