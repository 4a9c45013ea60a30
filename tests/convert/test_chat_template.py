"""The exported chat template as literal text; tests/parity renders it with transformers."""

import pytest

from humpback import prompts
from humpback.convert.chat_template import chat_template, surrounding
from humpback.tokens.tokenizer import CONFIG_FILE, Tokenizer

_TAGS = " Answer in the style of an AI Assistant. Answer with knowledge from web search."
_START = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% elif content is not none %}{% for part in content %}"
    "{% if part is string %}{{ part }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% else %}"
    "{{ raise_exception('This model reads text alone.') }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
    "{% set seen = namespace(turns=0, system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' and seen.turns == 0 %}{% set seen.system = (seen.system + ' ' + said(message['content'])) | trim %}"
    "{% elif message['role'] != ('user' if seen.turns % 2 == 0 else 'assistant') %}"
    "{{ raise_exception('Turns must alternate, user first, after at most a system turn.') }}"
    "{% elif message['role'] == 'user' %}{% set seen.turns = seen.turns + 1 %}"
)


def _template(*, user, opening, answer):
    return (
        f"{_START}{{{{ {user[0]} }}}}{{% if seen.turns == 1 and seen.system %}}{{{{ seen.system + " + r'"\n\n"' + " }}{% endif %}"
        f"{{{{ (said(message['content']) | trim) + {user[1]} }}}}"
        f"{{% if add_generation_prompt or not loop.last %}}{{{{ {opening} }}}}{{% endif %}}"
        "{% else %}{% set seen.turns = seen.turns + 1 %}"
        f"{{% generation %}}{{{{ said(message['content']) + {answer[0]} }}}}{{% endgeneration %}}{{{{ {answer[1]} }}}}"
        "{% endif %}{% endfor %}"
    )


def test_chatml(tiny):
    made = chat_template(prompts.WRAPPERS["chatml"], surrounding("forward"), tiny.tokenizer())
    assert made == _template(
        user=(r'"<|im_start|>user\n"', rf'"{_TAGS}<|im_end|>\n"'),
        opening=r'"<|im_start|>assistant\n"',
        answer=('"<|im_end|>"', r'"\n"'),
    )
    assert made == chat_template(prompts.WRAPPERS["chatml"], surrounding("base"), tiny.tokenizer())


@pytest.mark.parametrize(
    ("wrapper", "user"),
    [("inst", ('"<|im_start|>[INST] "', f'"{_TAGS} [/INST]"')), ("plain", ('"<|im_start|>"', rf'"{_TAGS}\n\n"'))],
)
def test_wrappers_without_special_tokens_and_with_bos(tiny, wrapper, user):
    files = tiny.tokenizer().files()
    settings = files[CONFIG_FILE].replace(b'"add_bos_token": false', b'"add_bos_token": true')
    tokenizer = Tokenizer({**files, CONFIG_FILE: settings})
    made = chat_template(prompts.WRAPPERS[wrapper], surrounding("forward"), tokenizer)
    assert made == _template(user=user, opening='""', answer=('"<|im_end|>"', '""'))


def test_a_backward_model_is_asked_backward(tiny):
    made = chat_template(prompts.WRAPPERS["plain"], surrounding("backward"), tiny.tokenizer())
    asked = prompts.backward_prompt("TEXT")
    head, tail = (part.replace("\n", r"\n") for part in asked.content.split("TEXT"))
    assert f'{{{{ "{head}" }}}}' in made
    assert rf'"{tail}\n\n"' in made and prompts.WEB_TAG not in made


def test_literals_survive_jinja(tiny):
    wrapper = prompts.Wrapper('say "é\\n🙂" {{ ', " }}")
    made = chat_template(wrapper, surrounding("forward"), tiny.tokenizer())
    assert r'"say \"\xe9\\n\U0001f642\" {{ "' in made and made.isascii()
