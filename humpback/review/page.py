"""The pages of a review: one item, buttons, and keys for them; or all items in one file, for who has no way to the server."""

import json
from collections.abc import Iterable, Sequence

from humpback.progress import printable
from humpback.report.markup import Html, source_hash, tag
from humpback.review.sample import ANSWERS, CANDIDATES, REWRITES, Sample, Shown

STYLE = """
:root{color-scheme:light dark}
body{max-width:50rem;margin:0 auto;padding:1rem;font:17px/1.55 system-ui,sans-serif}
.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;border-left:3px solid;padding-left:.8rem}
form{position:sticky;bottom:0;padding:.8rem 0;background:Canvas}
button{font:inherit;padding:.4rem 1rem;margin-right:.6rem}
:focus-visible{outline:3px solid;outline-offset:2px}
"""
SCRIPT = """
"use strict";
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const target = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (target) { event.preventDefault(); target.click(); }
});
"""
# What the file does itself: labels stay in the browser until they are saved as a file.
STATIC_SCRIPT = """
"use strict";
(() => {
  const told = JSON.parse(document.getElementById("items").textContent), names = told.items.map(item => item.name);
  const at = id => document.getElementById(id), store = `humpback ${told.review} ${told.reviewer}`;
  let labels = {}, place = 0;
  try { labels = JSON.parse(localStorage.getItem(store)) || {}; } catch { at("kept").hidden = false; }
  const first = () => { place = names.findIndex(name => !(name in labels)); };
  const show = () => {
    const done = names.filter(name => name in labels).length, item = told.items[place];
    at("progress").textContent = done + " of " + names.length + " labelled" + (item ? "" : ": save them");
    at("item").hidden = !item;
    at("back").hidden = place === 0;
    if (item) [...document.querySelectorAll(".text")].forEach((part, n) => { part.textContent = item.texts[n]; });
    scrollTo(0, 0);
  };
  document.querySelectorAll("button[value]").forEach(button => button.addEventListener("click", () => {
    if (place < 0) return;
    labels[names[place]] = button.value;
    try { localStorage.setItem(store, JSON.stringify(labels)); } catch { at("kept").hidden = false; }
    first();
    show();
  }));
  at("back").addEventListener("click", () => {
    if (place === 0) return;
    place = (place < 0 ? names.length : place) - 1;
    show();
  });
  at("save").addEventListener("click", () => {
    const text = JSON.stringify({review: told.review, reviewer: told.reviewer, labels}, null, 1);
    at("save").href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  });
  at("all").hidden = false;
  first();
  show();
})();
"""

_QUESTIONS = {
    CANDIDATES: "Would this be a great answer to this instruction, from an assistant who wants to help?",
    ANSWERS: "Which answer to this instruction is better?",
    REWRITES: "Does the answer keep to the text: does it state nothing that neither the text nor the instruction says?",
}
_BUTTONS = {
    CANDIDATES: (("yes", "y", "Yes, a good pair"), ("no", "n", "No"), ("skip", "s", "Skip")),
    REWRITES: (("yes", "y", "Yes, it keeps to it"), ("no", "n", "No, it adds something"), ("skip", "s", "Skip")),
    ANSWERS: (("first", "1", "The first"), ("second", "2", "The second"), ("tie", "t", "Both alike"), ("skip", "s", "Skip")),
}
_HEADINGS = {
    CANDIDATES: ("Instruction", "Response"), ANSWERS: ("Instruction", "First answer", "Second answer"),
    REWRITES: ("Instruction", "Text", "Answer made of it"),
}  # fmt: skip


def _policy(*scripts: str) -> str:
    hashes = " ".join(f"'{source_hash(script)}'" for script in scripts)
    return f"default-src 'none'; style-src '{source_hash(STYLE)}'; script-src {hashes}; form-action 'self'; base-uri 'none'"


POLICY = _policy(SCRIPT)


def render(title: str, kind: str, shown: Shown | None, before: str, told: str = "") -> Html:
    """A page of the server; without an item there is nothing to label on it, without `before` no way back. told: what else is said."""
    parts: list[Html] = [tag("p", told)] if told else []
    if shown:
        hidden = tag("input", type="hidden", name="item", value=shown.name)
        form = tag("form", hidden, _buttons(kind), method="post", action="./")
        parts += [tag("p", _QUESTIONS[kind]), *_texts(kind, texts_of(shown)), form]
    back = tag("p", tag("a", "Back (b)", href=f"?back={before}", data_key="b")) if before else None
    return _document(tag("main", tag("h1", title), parts, back), tag("script", Html(SCRIPT)))


def render_static(sample: Sample, reviewer: str, order: Iterable[Shown]) -> Html:
    """All items in one file, without a server: its labels are saved as a file that `humpback review --import` reads."""
    items = [{"name": shown.name, "texts": [printable(text) for text in texts_of(shown)]} for shown in order]
    told = {"review": sample.digest, "reviewer": reviewer, "items": items}
    data = json.dumps(told, ensure_ascii=True, sort_keys=True).replace("<", "\\u003c")
    form = tag("div", tag("p", _QUESTIONS[sample.kind]), _texts(sample.kind, [""] * 3), tag("p", _buttons(sample.kind)), id="item")
    save = tag("a", "Save the labels (d)", id="save", href="#", download=f"labels-{reviewer}.json", data_key="d")
    lost = tag("p", "This browser forgets the labels when this page is closed: save them before.", id="kept", hidden="")
    script_off = tag("noscript", tag("p", "This page needs JavaScript."))
    below = tag("p", tag("button", "Back (b)", type="button", id="back", data_key="b"), save)
    whole = tag("div", tag("p", "", id="progress", role="status"), form, below, lost, id="all", hidden="")
    scripts = [tag("script", Html(data), type="application/json", id="items"), *(tag("script", Html(s)) for s in (STATIC_SCRIPT, SCRIPT))]
    policy = tag("meta", http_equiv="Content-Security-Policy", content=_policy(STATIC_SCRIPT, SCRIPT))
    return _document(tag("main", tag("h1", f"Labels by {reviewer}"), script_off, whole), *scripts, policy=policy)


def texts_of(shown: Shown) -> tuple[str, ...]:
    """The instruction and the responses, on the sides on which the person sees them."""
    return shown.item.instruction, *(reversed(shown.item.texts) if shown.turned else shown.item.texts)


def _texts(kind: str, texts: Sequence[str]) -> list[Html]:
    pairs = zip(_HEADINGS[kind], texts, strict=False)
    return [part for heading, text in pairs for part in (tag("h2", heading), tag("div", text, class_="text", dir="auto"))]


def _buttons(kind: str) -> list[Html]:
    return [tag("button", f"{text} ({key})", name="label", value=value, data_key=key) for value, key, text in _BUTTONS[kind]]


def _document(*body: Html, policy: Html | None = None) -> Html:
    start = [tag("meta", charset="utf-8"), policy, tag("meta", name="viewport", content="width=device-width, initial-scale=1")]
    head = tag("head", start, tag("title", "Review"), tag("style", Html(STYLE)))
    return Html(f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n")
