"""One page of the review: a text, three buttons, and keys for them."""

from collections.abc import Sequence

from humpback.report.markup import Html, source_hash, tag

STYLE = """
:root{color-scheme:light dark}
body{max-width:50rem;margin:0 auto;padding:1rem;font:17px/1.55 system-ui,sans-serif}
.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;border-left:3px solid;padding-left:.8rem}
form{position:sticky;bottom:0;padding:.8rem 0;background:Canvas}
button{font:inherit;padding:.4rem 1rem;margin-right:.6rem}
"""
SCRIPT = """
"use strict";
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const target = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (target) { event.preventDefault(); target.click(); }
});
"""


POLICY = f"default-src 'none'; style-src '{source_hash(STYLE)}'; script-src '{source_hash(SCRIPT)}'; form-action 'self'; base-uri 'none'"
_BUTTONS = (("yes", "y", "Yes, a good pair"), ("no", "n", "No"), ("skip", "s", "Skip"))


def render(title: str, parts: Sequence[Html], name: str, before: str) -> Html:
    """A page; without a name there is nothing to label on it, without `before` no way back."""
    question = tag("p", "Would this be a great answer to this instruction, from an assistant who wants to help?") if name else None
    buttons = [tag("button", f"{text} ({key})", name="label", value=value, data_key=key) for value, key, text in _BUTTONS if name]
    hidden = tag("input", type="hidden", name="item", value=name) if name else None
    form = tag("form", hidden, buttons, method="post", action="./") if name else None
    back = tag("p", tag("a", "Back (b)", href=f"?back={before}", data_key="b")) if before else None
    head = tag("head", tag("meta", charset="utf-8"), tag("title", "Review"), tag("style", Html(STYLE)))
    body = tag("body", tag("main", tag("h1", title), question, parts, form, back), tag("script", Html(SCRIPT)))
    return Html(f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")
