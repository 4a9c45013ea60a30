"""The tokenizer files of an exported folder, with a chat template that asks as training did."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
from tokenizers import processors

from humpback import prompts
from humpback.convert import vocabulary
from humpback.errors import UserError
from humpback.tokens.examples import cut_suffix
from humpback.tokens.tokenizer import CONFIG_FILE, JSON_FILE, MODEL_FILE, Tokenizer

# An exported tokenizer.json must give these texts the ids of the sentencepiece model it replaces.
PROBES = (
    "Hello, world! It costs $3.50 in 2024.",
    "  two  spaces, a\ttab\n\n\nand lines \n",
    "naïve café — “quotes” Ωλ 東京 🙂👩‍🚀",
    "[INST] What? </s> <unk> <0x0A> ▁ [/INST]",
    "aaaaaaaaaa ........ ========== 00000",
    "",
    " ",
)


def surrounding(direction: str) -> prompts.Prompt:
    """What stands around the user's text for a model of this direction: both tags, or the backward request.

    A base model is asked as a forward one, which is how `humpback chat` shows it.
    """
    return prompts.backward_prompt("") if direction == "backward" else prompts.forward_prompt("")


# What a message says: a text, nothing, or parts, of which only texts can be read.
_CONTENT = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% elif content is not none %}{% for part in content %}"
    "{% if part is string %}{{ part }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% else %}"
    "{{ raise_exception('This model reads text alone.') }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
)


def chat_template(wrapper: prompts.Wrapper, around: prompts.Prompt, tokenizer: Tokenizer) -> str:
    """The Jinja template whose ids for one user turn are those of `encode_wrapped` on the wrapped prompt.

    Each user turn is wrapped like the one that training had, bos included; an answer ends with eos. The part of the
    suffix that opens the answer (chatml: the assistant's header) comes when an answer follows or is asked for. Turns
    must alternate and begin with the user's. Training had no system turn: what one says goes before the first user text.
    Answers are marked as what a model generates, which is where others' trainers put their loss.
    """
    settings = tokenizer.settings
    eos = settings["eos_token"]
    closing, opening, after = cut_suffix(wrapper.suffix, tokenizer)
    before = _literal(_bos(tokenizer) + wrapper.prefix + around.head)
    lines = [
        _CONTENT,
        "{% set seen = namespace(turns=0, system='') %}",
        "{% for message in messages %}",
        "{% if message['role'] == 'system' and seen.turns == 0 %}",
        "{% set seen.system = (seen.system + ' ' + said(message['content'])) | trim %}",
        "{% elif message['role'] != ('user' if seen.turns % 2 == 0 else 'assistant') %}",
        "{{ raise_exception('Turns must alternate, user first, after at most a system turn.') }}",
        "{% elif message['role'] == 'user' %}",
        "{% set seen.turns = seen.turns + 1 %}",
        "{{ " + before + " }}{% if seen.turns == 1 and seen.system %}{{ seen.system + " + _literal("\n\n") + " }}{% endif %}",
        "{{ (said(message['content']) | trim) + " + _literal(around.tail + closing) + " }}",
        "{% if add_generation_prompt or not loop.last %}{{ " + _literal(opening) + " }}{% endif %}",
        "{% else %}",
        "{% set seen.turns = seen.turns + 1 %}",
        "{% generation %}{{ said(message['content']) + " + _literal(eos) + " }}{% endgeneration %}{{ " + _literal(after) + " }}",
        "{% endif %}",
        "{% endfor %}",
    ]
    return "".join(lines)


def own_template(wrapper: str, direction: str, tokenizer: Tokenizer) -> str:
    """The template of a model that was trained here, by what is asked of it."""
    return chat_template(prompts.WRAPPERS[wrapper], surrounding(direction), tokenizer)


def rendered_probes(wrapper: str, direction: str, tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """What `own_template` makes of one user turn, and the ids that training had for it; of probes that hold no special token's text."""
    around, wrap = surrounding(direction), prompts.WRAPPERS[wrapper]
    found = []
    for probe in PROBES:
        if all(isinstance(piece, str) for piece in tokenizer.split(probe)):
            content = around.head + probe.strip() + around.tail
            ids = tokenizer.encode_wrapped(wrap.prefix, content, wrap.suffix)
            found.append((_bos(tokenizer) + wrap.prefix + content + wrap.suffix, ids))
    return found


def _bos(tokenizer: Tokenizer) -> str:
    return tokenizer.settings["bos_token"] if tokenizer.bos_id is not None else ""


def _literal(text: str) -> str:
    """A Jinja string literal, in ASCII."""
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def tokenizer_files(
    tokenizer: Tokenizer,
    template: str,
    max_positions: int,
    rendered: Sequence[tuple[str, list[int]]] = (),
    say: Callable[[str], None] = lambda note: None,
) -> dict[str, bytes]:
    """The files of an exported folder: tokenizer.json (made from a tokenizer.model), its config, the special tokens.

    The class is the plain fast one, which reads tokenizer.json as it is; LlamaTokenizer would rebuild parts of it. rendered: texts that
    the template makes, and the ids that they must have; flags of special tokens that stand against it are mended. A tokenizer.model goes
    along, or is made, where llama.cpp needs one. say: is told what was changed or could not be done.
    Raises UserError when a sentencepiece model has no tokenizer.json with the same ids, or a rendered text has other ids.
    """
    files = tokenizer.files()
    if tokenizer.kind == MODEL_FILE:
        fast = vocabulary.sentencepiece_to_json(files[MODEL_FILE], tokenizer.name)
    else:
        fast = tokenizers.Tokenizer.from_str(files[JSON_FILE].decode())
    leading = fast.encode("a", add_special_tokens=True).ids[:1]
    bos = tokenizer.settings.get("bos_token")
    if bos is not None and tokenizer.bos_id is not None and leading != [tokenizer.bos_id]:
        fast.post_processor = vocabulary.bos_first(bos, tokenizer.bos_id)
        files[JSON_FILE] = fast.to_str().encode()
    elif tokenizer.bos_id is None and bos is not None and leading == [tokenizer.specials[bos]]:
        fast.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1")
        files[JSON_FILE] = fast.to_str().encode()
    elif tokenizer.kind == MODEL_FILE:
        files[JSON_FILE] = fast.to_str().encode()
    if tokenizer.kind == MODEL_FILE:
        _check_same(tokenizer, files[JSON_FILE], files[CONFIG_FILE])
    else:
        files[JSON_FILE] = _mended(files[JSON_FILE], rendered, tokenizer.name, say)
        _with_model(files, tokenizer, say)
    _check_rendered(files[JSON_FILE], rendered, tokenizer.name)
    pad = next((text for text, number in tokenizer.specials.items() if number == tokenizer.pad_id), tokenizer.settings["eos_token"])
    settings = {**tokenizer.settings, "pad_token": pad}
    if tokenizer.pad_id == tokenizer.eos_id:
        say("no special token is left for padding: pad is eos, so who trains further must not mask it")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **settings,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "added_tokens_decoder": added_tokens_decoder(files[JSON_FILE]),
        "chat_template": template,
    }
    named = {key: text for key, text in settings.items() if key != "add_bos_token"}
    return {**files, CONFIG_FILE: json_bytes(config), "special_tokens_map.json": json_bytes(named)}


def added_tokens_decoder(data: bytes) -> dict[str, Any]:
    """What tokenizer_config.json says of a tokenizer.json's added tokens: id -> content and flags. llama.cpp looks nowhere else."""
    entries = json.loads(data).get("added_tokens", [])
    return {str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in entries}


def differing(data: bytes, rendered: Sequence[tuple[str, list[int]]]) -> list[str]:
    """The rendered texts that a tokenizer.json gives other ids, by the tokenizers library alone."""
    fast = tokenizers.Tokenizer.from_str(data.decode())
    return [text for text, ids in rendered if fast.encode(text, add_special_tokens=False).ids != ids]


def _mended(data: bytes, rendered: Sequence[tuple[str, list[int]]], name: str, say: Callable[[str], None]) -> bytes:
    """Special tokens are found in the text as it is, and take no space beside them: else a chat is not what training had."""
    if not differing(data, rendered):
        return data
    value = json.loads(data)
    for entry in value.get("added_tokens", []):
        if entry["special"]:
            entry |= {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    mended = json.dumps(value, ensure_ascii=False).encode()
    if not differing(mended, rendered):
        say(f"{name}: special tokens' flags in {JSON_FILE} are changed, so that a chat gets the ids that training had")
        return mended
    return data


def _check_rendered(data: bytes, rendered: Sequence[tuple[str, list[int]]], name: str) -> None:
    for text in differing(data, rendered)[:1]:
        raise UserError(
            f"{name}: exported, this tokenizer gives a chat other ids than training had, for {text[:80]!r}; take the model from a folder "
            "with another tokenizer.json"
        )


def _with_model(files: dict[str, bytes], tokenizer: Tokenizer, say: Callable[[str], None]) -> None:
    """Keeps a tokenizer.model that has the same pieces, or makes one where pieces are merged by score: llama.cpp reads no other file."""
    value = json.loads(files[JSON_FILE])
    if MODEL_FILE in files and vocabulary.other_pieces(files[MODEL_FILE], value):
        del files[MODEL_FILE]
        say(f"{tokenizer.name}: {MODEL_FILE} has other pieces than {JSON_FILE} and is left away")
    if MODEL_FILE in files or not vocabulary.is_sentencepiece(value):
        return
    data = vocabulary.json_to_sentencepiece(value)
    made = Tokenizer({MODEL_FILE: data, CONFIG_FILE: files[CONFIG_FILE]}, tokenizer.name)
    apart = [text for text in PROBES if made.encode(text) != tokenizer.encode(text)]
    if all(text.startswith(" ") for text in apart):
        files[MODEL_FILE] = data
    if apart:
        which = "a text that begins with a space" if MODEL_FILE in files else f"{apart[0][:40]!r} and maybe all texts"
        say(f"{tokenizer.name}: llama.cpp, which reads a {MODEL_FILE}, gives other ids than {JSON_FILE} to {which}")


def _check_same(tokenizer: Tokenizer, data: bytes, config: bytes) -> None:
    exported = Tokenizer({JSON_FILE: data, CONFIG_FILE: config}, tokenizer.name)
    for text in PROBES:
        if exported.encode(text) != tokenizer.encode(text):
            raise UserError(
                f"{tokenizer.name}: a tokenizer.json made of this tokenizer.model gives other ids for {text!r}; "
                "take the model from a folder that has a tokenizer.json"
            )


def json_bytes(value: Any) -> bytes:
    """Readable JSON in UTF-8."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
