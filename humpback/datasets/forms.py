"""What a record of human pairs, or a file of them, is: the forms that are read, and the names of those that are not."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from humpback.datasets.oasst import Pair, pair_of_tree
from humpback.records import half_surrogate

# The fields of a pair. Alpaca calls the response output, and has the text that an instruction speaks of as input; Dolly calls it context.
_RESPONSES = ("response", "output")
CONTEXTS = ("input", "context")
KNOWN = frozenset(("instruction", *_RESPONSES, *CONTEXTS))
EXPECTED = 'expected {"instruction": …, "response": …} or an Open Assistant tree ({"prompt": {…}})'
# Fields by which other forms are known.
_OTHER_FORMS = (
    (("message_id",), "a message of Open Assistant's export of messages, take the one of trees"),
    (("messages",), "a chat in `messages`"),
    (("conversations",), "a chat in `conversations` (LIMA, ShareGPT)"),
    (("chosen", "rejected"), "a pair of answers, one chosen and one rejected"),
    (("prompt", "completion"), "a prompt and its completion"),
    (("prompt", "response"), "a prompt and its response"),
    (("question", "answer"), "a question and its answer"),
    (("text",), "one text with both turns in it"),
)
_LOAD = "of it the Python package datasets makes JSON lines: load_dataset({!r}, data_files=FILE, split='train').to_json('pairs.jsonl')"
_LOAD_SAVED = "of it the Python package datasets makes JSON lines: load_from_disk(FOLDER).to_json('pairs.jsonl')"
# The first bytes of files that are no text.
_MAGIC = (
    (b"PAR1", "a Parquet file", _LOAD.format("parquet")),
    (b"ARROW1", "an Arrow file", _LOAD.format("arrow")),
    (b"\xff\xff\xff\xff", "an Arrow file", _LOAD.format("arrow")),
    (b"\xff\xfe", "text in UTF-16", "save it in UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it in UTF-8"),
    (b"\x1f\x8b", "compressed with gzip", "let its name end with .gz"),
    (b"BZh", "compressed with bzip2", "unpack it"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet", "unpack it, or save it as JSON lines"),
)


def pair_of_record(record: Any, single_reply: str = "drop", language: str = "en") -> Pair | str:
    """The pair of one JSON value, or the reason why there is none. ValueError says what is wrong with its form."""
    if not isinstance(record, Mapping):
        raise ValueError(EXPECTED)
    if isinstance(record.get("prompt"), Mapping):
        pair = pair_of_tree(record, single_reply, language)
    elif "instruction" in record:
        pair = _plain_pair(record)
    else:
        for names, form in _OTHER_FORMS:
            if all(name in record for name in names):
                raise ValueError(f"this is {form}; {EXPECTED}")
        raise ValueError(f"{EXPECTED}; its fields are {sorted(map(str, record))}")
    if isinstance(pair, Pair) and any(map(half_surrogate, pair)):
        raise ValueError("half of a surrogate pair, which no UTF-8 can hold")
    return pair


def _plain_pair(record: Mapping[str, Any]) -> Pair:
    responses = {_stripped(record, name) for name in _RESPONSES} - {""}
    if len(responses) > 1:
        raise ValueError(f"{' and '.join(map(repr, _RESPONSES))} differ; leave out one")
    for name, found in (("instruction", _stripped(record, "instruction")), (_RESPONSES[0], responses)):
        if not found:
            raise ValueError(f"{name!r} is empty or missing")
    return Pair(instruction_of(record), responses.pop())


def instruction_of(record: Mapping[str, Any]) -> str:
    """A record's instruction, and its context after a blank line where it has one. ValueError for a field that is no text."""
    return "\n\n".join(filter(None, (_stripped(record, name) for name in ("instruction", *CONTEXTS))))


def foreign_file(path: epath.Path, head: bytes) -> str:
    """What a file, or a folder, is that does not hold JSON lines, by its first bytes, and what to do; "" where it may hold some."""
    if path.is_dir():
        names = {child.name for child in path.iterdir()}
        if {"state.json", "dataset_info.json"} & names or any(name.endswith(".arrow") for name in names):
            return f"a dataset saved with save_to_disk; {_LOAD_SAVED}"
        return "a folder; name a file"
    for magic, name, way_out in _MAGIC:
        if head.startswith(magic):
            return f"{name}; {way_out}"
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0].decode(errors="replace").strip()
    if first.startswith("["):
        return "a JSON array; of it `jq -c '.[]' FILE` makes JSON lines"
    for separator, name in ((",", "CSV"), ("\t", "tab-separated values"), (";", "CSV")):
        columns = [column.strip(" \"'") for column in first.split(separator)]
        if len(columns) > 1 and all(column.isidentifier() for column in columns):
            return f"{name} with the columns {', '.join(columns)}; {_LOAD.format('csv')}"
    return ""


def _stripped(record: Mapping[str, Any], name: str) -> str:
    """A field's text, "" where it is not there. ValueError for one that is no text."""
    text = record.get(name)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{name!r} is not a text: {text!r:.40}")
    return (text or "").strip()
