"""Text to ids and back, with `tokenizer.json` (tokenizers) or `tokenizer.model` (sentencepiece).

Special tokens come from wrappers only: text that happens to contain "<|im_end|>" is encoded as ordinary characters.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import sentencepiece
import tokenizers
from etils import epath

from humpback.errors import UserError
from humpback.tokens import added

JSON_FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
_SPECIALS_FILE = "special_tokens_map.json"
FILES = (JSON_FILE, MODEL_FILE, CONFIG_FILE, _SPECIALS_FILE, added.FILE)
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclasses.dataclass(frozen=True)
class Special:
    """A special token by its text, e.g. Special("<|im_end|>"), as a piece of `Tokenizer.split`."""

    text: str


class _Backend(Protocol):
    vocab_size: int
    specials: dict[str, int]  # text of every special token -> id
    added: dict[str, int]  # text of every other token that is found in a text before it is cut into pieces

    def encode(self, text: str, first: bool) -> list[int]:
        """Ids of one run of ordinary text; `first`: nothing, not even a special token, stands before it."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def defaults(self) -> dict[str, Any]:
        """What the file itself says about bos_token, eos_token, unk_token, pad_token, add_bos_token."""


class Tokenizer:
    """One model's tokenizer.

    vocab_size: the highest id plus one. bos_id: put before everything, None when this tokenizer adds none. eos_id: what
    ends a turn. pad_id: a filler that masks hide. Who trains further masks it, so it is not the eos where there is another special token
    for it.
    """

    def __init__(self, files: Mapping[str, bytes], name: str = "tokenizer") -> None:
        """Builds it from the contents of its files; `name` is what error messages call it.

        `files` holds tokenizer.json or tokenizer.model (the first counts when both are there, as in transformers) and what there is of
        tokenizer_config.json, special_tokens_map.json and added_tokens.json. Raises UserError when they are broken or name no end of a
        turn.
        """
        kind = next((kind for kind in (JSON_FILE, MODEL_FILE) if kind in files), None)
        if kind is None:
            raise UserError(f"{name}: neither {JSON_FILE} nor {MODEL_FILE} is there; a model needs one of them")
        self.kind, self.name = kind, name
        # A tokenizer.model beside a tokenizer.json is not read here, but llama.cpp's converter asks for it.
        self._passenger = {MODEL_FILE: bytes(files[MODEL_FILE])} if kind == JSON_FILE and MODEL_FILE in files else {}
        given = _json_object(files.get(CONFIG_FILE, b"{}"), f"{name}/{CONFIG_FILE}")
        extra = _json_object(files.get(_SPECIALS_FILE, b"{}"), f"{name}/{_SPECIALS_FILE}")
        listed = _json_object(files.get(added.FILE, b"{}"), f"{name}/{added.FILE}")
        self._data, self._backend = self._with_added(bytes(files[kind]), listed, given, extra)
        self.settings = self._settings(given, extra)
        self.vocab_size = self._backend.vocab_size
        eos = self._id("eos_token")
        if eos is None:
            raise UserError(f"{name}: no eos_token; write the token that ends a turn into {CONFIG_FILE}")
        self.eos_id: int = eos
        self.bos_id = self._id("bos_token") if self.settings["add_bos_token"] else None
        if self.settings["add_bos_token"] and self.bos_id is None:
            raise UserError(f"{name}: add_bos_token is true but there is no bos_token; set either in {CONFIG_FILE}")
        pad = self._id("pad_token")
        if pad is None or pad == eos:
            text = added.spare(self._backend.specials, [eos, *([] if self.bos_id is None else [self.bos_id])])
            pad = eos if text is None else self._backend.specials[text]
        self.pad_id: int = pad
        names = sorted(self._backend.specials, key=len, reverse=True)  # the longest wins where two begin alike
        self._special_pattern = re.compile("|".join(map(re.escape, names))) if names else None

    @classmethod
    def load(cls, path: Any) -> "Tokenizer":
        """Reads a folder (local or gs://) or one tokenizer.json / tokenizer.model file with the configs beside it."""
        path = epath.Path(path)
        if not path.exists():
            raise UserError(f"{path}: no such tokenizer; give {JSON_FILE}, {MODEL_FILE} or a folder with one")
        folder = path if path.is_dir() else path.parent
        wanted = [CONFIG_FILE, _SPECIALS_FILE, added.FILE] + ([JSON_FILE, MODEL_FILE] if path.is_dir() else [])
        files = {name: (folder / name).read_bytes() for name in wanted if (folder / name).exists()}
        if not path.is_dir():
            files[JSON_FILE if path.suffix == ".json" else MODEL_FILE] = path.read_bytes()
        return cls(files, str(folder))

    @property
    def specials(self) -> dict[str, int]:
        """Every special token's text and id."""
        return dict(self._backend.specials)

    @property
    def added(self) -> dict[str, int]:
        """Text and id of the tokens that a text may hold whole though they are not special."""
        return dict(self._backend.added)

    def ending(self, text: str) -> "Tokenizer":
        """The same with another special token as eos; itself where there is no such token."""
        if text not in self.specials or self.specials[text] == self.eos_id:
            return self
        return Tokenizer({**self.files(), CONFIG_FILE: json.dumps({**self.settings, "eos_token": text}).encode()}, self.name)

    def without(self, rows: int) -> "Tokenizer | None":
        """The same without ids from `rows` on, which a model has no row for; None when one of them is a piece of text, or is the eos."""
        data = added.without(self._data, self.kind == JSON_FILE, rows)
        if data is None or self.eos_id >= rows or (self.bos_id or 0) >= rows:
            return None
        settings = {key: text for key, text in self.settings.items() if key == "add_bos_token" or self.specials[text] < rows}
        return Tokenizer({**self._passenger, self.kind: data, CONFIG_FILE: json.dumps(settings).encode()}, self.name)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text, without bos; never a special token, whatever the text says."""
        return self._backend.encode(_valid_unicode(text), first=True)

    def encode_alone(self, text: str) -> list[int]:
        """Ids of ordinary text that nothing stands around, bos first where the tokenizer adds it."""
        return self.encode_wrapped("", text, "")

    def encode_wrapped(self, prefix: str, content: str, suffix: str) -> list[int]:
        """Ids of a wrapped prompt, bos first where the tokenizer adds it.

        Special tokens are recognised in prefix and suffix only. Each run of ordinary text between them is encoded as
        one string, so the ids are those of the whole string as transformers would tokenise it: a chat template writes the bos into that
        string, a text alone gets it afterwards.
        """
        start = [] if self.bos_id is None else [self.bos_id]
        if not prefix and not suffix:
            return start + self.encode(content)
        return self._encode_pieces([*self.split(prefix), content, *self.split(suffix)], start)

    def split(self, text: str) -> list[str | Special]:
        """Cuts text at the special tokens it contains."""
        if self._special_pattern is None:
            return [text]
        pieces: list[str | Special] = []
        end = 0
        for match in self._special_pattern.finditer(text):
            pieces += [text[end : match.start()], Special(match.group())]
            end = match.end()
        return [piece for piece in [*pieces, text[end:]] if piece != ""]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens and ids beyond the vocabulary give nothing."""
        return self._backend.decode([int(i) for i in ids if 0 <= i < self.vocab_size])

    def files(self) -> dict[str, bytes]:
        """The files that a model folder must carry, by name; `Tokenizer(files())` is the same tokenizer."""
        config = json.dumps(self.settings, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
        return {**self._passenger, self.kind: self._data, CONFIG_FILE: config.encode()}

    def _encode_pieces(self, pieces: Iterable[str | Special], ids: list[int]) -> list[int]:
        run = ""
        for piece in [*pieces, None]:
            if isinstance(piece, str):
                run += piece
                continue
            if run:
                ids += self._backend.encode(_valid_unicode(run), first=not ids)
                run = ""
            if piece is not None:
                ids.append(self._backend.specials[piece.text])
        return ids

    def _with_added(
        self, data: bytes, listed: Mapping[str, Any], given: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> tuple[bytes, _Backend]:
        """The vocabulary's file with what the others add to it, and its reader. Named tokens are special, whatever the vocabulary says."""
        make, name = (_Json if self.kind == JSON_FILE else _SentencePiece), f"{self.name}/{self.kind}"
        backend = make(data, name)
        named = [_token_text(given.get(key)) or _token_text(extra.get(key)) for key in _NAMED]
        found = added.added_tokens(listed, given, extra, [text for text in named if text is not None])
        changed = (added.into_json if self.kind == JSON_FILE else added.into_model)(data, found, name)
        return (data, backend) if changed == data else (changed, make(changed, name))

    def _settings(self, given: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        defaults = self._backend.defaults()
        for key in _NAMED:
            text = _token_text(given.get(key)) or _token_text(extra.get(key)) or defaults.get(key)
            if text is not None:
                if text not in self._backend.specials:
                    raise UserError(f"{self.name}: {key} {text!r} is not one of the tokenizer's special tokens")
                settings[key] = text
        added = given.get("add_bos_token")
        settings["add_bos_token"] = defaults["add_bos_token"] if added is None else bool(added)
        return settings

    def _id(self, key: str) -> int | None:
        text = self.settings.get(key)
        return None if text is None else self._backend.specials[text]


class _Json:
    """A tokenizer.json."""

    def __init__(self, data: bytes, name: str) -> None:
        value = _json_object(data, name)
        self._tokenizer = self._later = _from_json(value, name)
        # "first" puts the leading ▁ before the first text only, and a special token before it counts as text.
        if _has_first_scheme(value.get("pre_tokenizer")):
            self._later = _from_json({**value, "pre_tokenizer": _without_prefix(value["pre_tokenizer"])}, name)
        tokens = self._tokenizer.get_added_tokens_decoder().items()
        self.specials = {token.content: i for i, token in tokens if token.special}
        self.added = {token.content: i for i, token in tokens if not token.special}
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str, first: bool) -> list[int]:
        return (self._tokenizer if first else self._later).encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def defaults(self) -> dict[str, Any]:
        # A special token that the post-processor puts before a text is the bos, whatever the post-processor's form.
        leading = self._tokenizer.encode("a", add_special_tokens=True).ids[:1]
        bos = next((text for text, i in self.specials.items() if i in leading), None)
        return {"bos_token": bos, "add_bos_token": bos is not None}


class _SentencePiece:
    """A tokenizer.model. Each run of text gets the model's own leading space, as in the first LLaMA."""

    def __init__(self, data: bytes, name: str) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=data)
            self.vocab_size = self._processor.vocab_size()
        except Exception as error:  # sentencepiece raises RuntimeError, OSError or its own, by version
            raise UserError(f"{name}: not a sentencepiece model ({error}); copy the file again") from error
        ids = range(self.vocab_size)
        special = [i for i in ids if self._processor.is_control(i) or self._processor.is_unknown(i)]
        self.specials = {self._processor.id_to_piece(i): i for i in special}
        self.added = added.user_defined(data)
        self._special_ids = frozenset(special)

    def encode(self, text: str, first: bool) -> list[int]:
        del first
        return self._processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([i for i in ids if i not in self._special_ids])

    def defaults(self) -> dict[str, Any]:
        model = self._processor
        ids = {"bos_token": model.bos_id(), "eos_token": model.eos_id(), "unk_token": model.unk_id()}
        ids["pad_token"] = model.pad_id()
        named: dict[str, Any] = {key: model.id_to_piece(i) for key, i in ids.items() if i >= 0}
        return {**named, "add_bos_token": "bos_token" in named}


def _from_json(value: Mapping[str, Any], name: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(value))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{name}: the tokenizers library cannot read it ({error}); copy the file again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "<|im_end|>" in a text is eleven characters, not a token
    return tokenizer


def _has_first_scheme(pre: Any) -> bool:
    if not isinstance(pre, Mapping):
        return False
    return pre.get("prepend_scheme") == "first" or any(map(_has_first_scheme, pre.get("pretokenizers", ())))


def _without_prefix(pre: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(pre)
    if changed.get("prepend_scheme") == "first":
        changed["prepend_scheme"] = "never"
    if "pretokenizers" in changed:
        changed["pretokenizers"] = [_without_prefix(part) for part in changed["pretokenizers"]]
    return changed


def _token_text(value: Any) -> str | None:
    """A token in a config is its text or {"content": text}."""
    return value.get("content") if isinstance(value, Mapping) else value


def _json_object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(f"{name}: not JSON ({error}); copy the file again") from error
    if not isinstance(value, dict):
        raise UserError(f"{name}: must be a JSON object, not {type(value).__name__}")
    return value


def _valid_unicode(text: str) -> str:
    """Half surrogate pairs, which JSON can bring, have no UTF-8; they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
