"""What a record of human pairs is: the forms that are read, and the names of those that are not (the files: containers.py)."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from humpback.datasets.oasst import Pair, pair_of_tree
from humpback.records import half_surrogate


class Fields(NamedTuple):
    """A form of two texts: the field of the instruction, those that may hold the response, and those of a text that it speaks of."""

    instruction: str
    responses: tuple[str, ...]
    contexts: tuple[str, ...] = ()


# Alpaca calls the response output, and has the text that an instruction speaks of as input; Dolly calls it context.
CONTEXTS = ("input", "context")
_PLAIN = Fields("instruction", ("response", "output"), CONTEXTS)
_TEXTS = (_PLAIN, Fields("prompt", ("completion",)), Fields("prompt", ("response",)), Fields("question", ("answer",), ("context",)))
_NAMES = {"instruction/input/output": "Alpaca", "instruction/output": "Alpaca", "instruction/context/response": "Dolly"}
_CHATS = ("messages", "conversations", "conversation")
_SPLIT_CHAT = ("prompt", "completion")  # TRL's, where both are lists of turns
TREE = "Open Assistant's tree"
_SPEAKERS, _SAID = ("role", "from"), ("content", "value", "text")  # the fields of a turn
_USERS, _SYSTEMS = {"user", "human", "prompter"}, {"system", "developer"}
_ASSISTANTS = ("assistant", "gpt", "chatgpt", "bard", "bing", "claude", "gemini", "llama", "bot", "ai", "model")  # or gpt-4, …
# Fields whose names may have capitals, as columns of a spreadsheet have them: of a record, of a turn.
_FIELDS = frozenset((*(name for form in _TEXTS for name in (form.instruction, *form.responses, *form.contexts)), *_CHATS))
_TURN_FIELDS = frozenset((*_SPEAKERS, *_SAID))
EXPECTED = (
    "expected the fields instruction and response (or output), prompt and completion or response, question and answer, messages, "
    "conversations, or Open Assistant's trees"
)
# Fields by which other forms are known.
_OTHER_FORMS = (
    (("message_id",), "a message of Open Assistant's, of which only a file with all of a tree is read"),
    (("chosen", "rejected"), "a pair of answers, one chosen and one rejected"),
    (("text",), "one text with both turns in it"),
)


class Ambiguous(ValueError):
    """A record in two forms with different texts: which is meant, nobody can know."""


class Found(NamedTuple):
    """A record's pair, its form, the fields that were read, how many turns of a chat were not, by kind, and which fields of its turns
    ("messages.weight")."""

    pair: Pair
    form: str
    read: frozenset[str]
    turns: Mapping[str, int] = {}
    unread: frozenset[str] = frozenset()


def read_record(record: Any, single_reply: str = "drop", language: str = "en") -> Found | str:
    """The pair of one JSON value, or the reason why there is none.

    Of a chat it is the first user's turn and the assistant's that follows. ValueError says what is wrong with its form; Ambiguous when
    it is in several forms with different texts.
    """
    if not isinstance(record, Mapping):
        raise ValueError(EXPECTED)
    given, record = record, named(record)
    if isinstance(record.get("prompt"), Mapping):
        pair = pair_of_tree(record, single_reply, language)
        found = [Found(pair, TREE, frozenset(record))] if isinstance(pair, Pair) else []
        if not found:
            return str(pair)
    else:
        found = _all_forms(record)
    first = found[0]
    for other in found[1:]:
        if other.pair != first.pair:
            raise Ambiguous(f"its {first.form} and its {other.form} differ: {first.pair!r:.120} and {other.pair!r:.120}; leave out one")
    if any(map(half_surrogate, first.pair)):
        raise ValueError("half of a surrogate pair, which no UTF-8 can hold")
    read, unread = (frozenset().union(*parts) for parts in zip(*((one.read, one.unread) for one in found), strict=True))
    turns = sum((Counter(one.turns) for one in found), Counter())
    return first._replace(read=frozenset(key for key in given if _name(key, _FIELDS) in read), turns=turns, unread=unread)


def named(record: Mapping[str, Any], fields: frozenset[str] = _FIELDS) -> dict[str, Any]:
    """A record, or with the fields of one a turn, with their names as they are known, without capitals. Ambiguous when two are the same
    field and differ."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        name = _name(key, fields)
        if name in found and found[name] != value:
            raise Ambiguous(f"{name!r} stands in it with and without capitals, and differs; leave out one")
        found[name] = value
    return found


def _name(key: str, fields: frozenset[str]) -> str:
    plain = key.strip().lower()
    return plain if plain in fields else key


def instruction_of(record: Mapping[str, Any], form: Fields = _PLAIN) -> str:
    """A record's instruction, and its context after a blank line where it has one. ValueError for a field that is no text."""
    return "\n\n".join(filter(None, (_stripped(record, name) for name in (form.instruction, *form.contexts))))


def prompt_of(record: Any, language: str = "en") -> str:
    """What a record of human pairs asks, whatever its answer: of a tree its first message. ValueError as `read_record`."""
    plain = named(record) if isinstance(record, Mapping) else {}
    if "question" in plain and "answer" not in plain:
        return instruction_of(plain, _TEXTS[-1])
    if isinstance(plain.get("prompt"), Mapping) and (asked := _stripped(plain["prompt"], "text")):
        return asked
    found = read_record(record, "reviewed", language)
    if isinstance(found, str):
        raise ValueError(found)
    return found.pair.instruction


def fields_of(record: Mapping[str, Any]) -> frozenset[str]:
    """The fields of a record that `prompt_of` takes, and those of its answer, without capitals."""
    if "question" in record and "answer" not in record:
        return frozenset((_TEXTS[-1].instruction, *_TEXTS[-1].contexts))
    found = read_record(record, "reviewed", "en")
    return found.read if isinstance(found, Found) else frozenset()


def _all_forms(record: Mapping[str, Any]) -> list[Found]:
    """A record's pair in each form that it has whole. ValueError when there is none."""
    readings: list[Callable[[], Found]] = [
        functools.partial(_texts, record, form)
        for form in _TEXTS
        if form.instruction in record and (form is _PLAIN or any(name in record for name in form.responses))
    ]
    readings += [functools.partial(_chat, record[name], (name,)) for name in _CHATS if name in record]
    if all(isinstance(record.get(name), list) for name in _SPLIT_CHAT):
        readings.append(functools.partial(_chat, [turn for name in _SPLIT_CHAT for turn in record[name]], _SPLIT_CHAT))
    found, wrong = [], []
    for reading in readings:
        try:
            found.append(reading())
        except Ambiguous:
            raise
        except ValueError as error:
            wrong.append(error)
    if found:
        return found
    if wrong:
        raise wrong[0]
    for names, what in _OTHER_FORMS:
        if all(name in record for name in names):
            raise ValueError(f"this is {what}; {EXPECTED}")
    raise ValueError(f"{EXPECTED}; its fields are {sorted(map(str, record))}")


def _texts(record: Mapping[str, Any], form: Fields) -> Found:
    responses = {_stripped(record, name) for name in form.responses} - {""}
    if len(responses) > 1:
        raise Ambiguous(f"{' and '.join(map(repr, form.responses))} differ; leave out one")
    for name, text in ((form.instruction, _stripped(record, form.instruction)), (form.responses[0], responses)):
        if not text:
            raise ValueError(f"{name!r} is empty or missing")
    read = [name for name in (form.instruction, *form.contexts, *form.responses) if name in record]
    label = "/".join(read)
    name = f"{label} ({_NAMES[label]})" if label in _NAMES else label
    return Found(Pair(instruction_of(record, form), responses.pop()), name, frozenset(read))


def _chat(turns: Any, fields: tuple[str, ...]) -> Found:
    """`messages`, ShareGPT's `conversations` of {from, value}, or LIMA's of texts, the user's first. fields: those that hold the turns."""
    name = "/".join(fields)
    if isinstance(turns, Mapping):
        turns = _turns_of(turns) or turns
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise ValueError(f"{name!r} is no list of turns: {turns!r:.40}")
    turns = [named(turn, _TURN_FIELDS) if isinstance(turn, Mapping) else turn for turn in turns]
    lima = all(isinstance(turn, str) for turn in turns)
    roles = ["user" if number % 2 == 0 else "assistant" for number in range(len(turns))] if lima else [_role(turn, name) for turn in turns]
    asked = roles.index("user") if "user" in roles else len(roles)
    if roles[asked : asked + 2] != ["user", "assistant"]:
        raise ValueError(f"in {name!r} no assistant's turn follows the user's first; the roles are {', '.join(roles) or 'none'}")
    texts = [_text_of_turn(turn, name) for turn in turns[asked : asked + 2]]
    if "" in texts:
        raise ValueError(f"in {name!r} a turn is empty")
    others = [role for number, role in enumerate(roles) if number not in (asked, asked + 1)]
    systems = others.count("system")
    unread = Counter({"system turns": systems, "later turns": len(others) - systems})
    keys = {key for turn in turns if isinstance(turn, Mapping) for key in turn}
    form = f"LIMA's {name}" if lima else f"ShareGPT's {name}" if "from" in keys else name
    others_read = frozenset(f"{name}.{key}" for key in keys - _TURN_FIELDS)
    return Found(Pair(*texts), form, frozenset(fields), +unread, others_read)


def _turns_of(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Turns whose fields are lists of the same length, as `datasets` stores a Sequence; [] for anything else."""
    if not all(isinstance(column, list) for column in columns.values()) or len(set(map(len, columns.values()))) != 1:
        return []
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _role(turn: Any, name: str) -> str:
    roles = [turn[field] for field in _SPEAKERS if isinstance(turn.get(field), str)] if isinstance(turn, Mapping) else []
    if not roles:
        raise ValueError(f"a turn of {name!r} has no role: {turn!r:.60}")
    role = roles[0]
    plain = role.strip().lower()
    if plain.partition("-")[0] in _ASSISTANTS:
        return "assistant"
    return "user" if plain in _USERS else "system" if plain in _SYSTEMS else role


def _text_of_turn(turn: Any, name: str) -> str:
    texts = [turn] if isinstance(turn, str) else [_joined(turn[field]) for field in _SAID if turn.get(field) is not None]
    if wrong := [text for text in texts or [None] if not isinstance(text, str)]:
        raise ValueError(f"a turn of {name!r} is not a text: {wrong[0]!r:.40}")
    if len({text.strip() for text in texts}) > 1:
        raise Ambiguous(f"a turn of {name!r} has two texts that differ: {texts[0]!r:.60} and {texts[1]!r:.60}; leave out one")
    return texts[0].strip()


def _joined(content: Any) -> Any:
    """A content that is a list of parts, all of text, as one text; anything else as it is."""
    if not isinstance(content, list):
        return content
    texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
    return "\n\n".join(texts) if len(texts) == len(content) else content


def is_answered(turns: Any) -> bool:
    """Whether a chat has its last answer. ValueError for a turn without a role."""
    last = named(turns[-1], _TURN_FIELDS) if isinstance(turns, list) and len(turns) > 1 and isinstance(turns[-1], dict) else {}
    return bool(last.keys() & {*_SPEAKERS}) and _role(last, "messages") == "assistant"


def _stripped(record: Mapping[str, Any], name: str) -> str:
    """A field's text, "" where it is not there. ValueError for one that is no text."""
    text = record.get(name)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{name!r} is not a text: {text!r:.40}")
    return (text or "").strip()
