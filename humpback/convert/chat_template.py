"""The tokenizer files of an exported folder, with a chat template that asks as training did."""

import json
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


def chat_template(wrapper: prompts.Wrapper, around: prompts.Prompt, tokenizer: Tokenizer) -> str:
    """The Jinja template whose ids for one user turn are those of `encode_wrapped` on the wrapped prompt.

    Each user turn is wrapped like the one that training had, bos included; an answer ends with eos. The part of the
    suffix that opens the answer (chatml: the assistant's header) comes when an answer follows or is asked for. Turns
    must alternate and begin with the user's; there is no system turn, because no training example had one.
    """
    settings = tokenizer.settings
    eos = settings["eos_token"]
    bos = settings["bos_token"] if tokenizer.bos_id is not None else ""
    closing, opening, after = cut_suffix(wrapper.suffix, tokenizer)
    before = _literal(bos + wrapper.prefix + around.head)
    lines = [
        "{% for message in messages %}",
        "{% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}",
        "{{ raise_exception('Turns must alternate, user first; this model knows no system turn.') }}",
        "{% endif %}",
        "{% if message['role'] == 'user' %}",
        "{{ " + before + " + (message['content'] | trim) + " + _literal(around.tail + closing) + " }}",
        "{% if add_generation_prompt or not loop.last %}{{ " + _literal(opening) + " }}{% endif %}",
        "{% else %}",
        "{{ message['content'] + " + _literal(eos + after) + " }}",
        "{% endif %}",
        "{% endfor %}",
    ]
    return "".join(lines)


def _literal(text: str) -> str:
    """A Jinja string literal, in ASCII."""
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def tokenizer_files(tokenizer: Tokenizer, template: str, max_positions: int) -> dict[str, bytes]:
    """The files of an exported folder: tokenizer.json (made from a tokenizer.model), its config, the special tokens.

    The class is the plain fast one, which reads tokenizer.json as it is; LlamaTokenizer would rebuild parts of it.
    Raises UserError when a sentencepiece model has no tokenizer.json with the same ids.
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
    settings = {**tokenizer.settings, "pad_token": tokenizer.settings.get("pad_token", tokenizer.settings["eos_token"])}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **settings,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": template,
    }
    named = {key: text for key, text in settings.items() if key != "add_bos_token"}
    return {**files, CONFIG_FILE: json_bytes(config), "special_tokens_map.json": json_bytes(named)}


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
