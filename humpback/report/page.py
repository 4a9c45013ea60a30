"""The page: one file without a request to anywhere, readable without its script, whose numbers all stand in one JSON in it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from humpback.report import views
from humpback.report.assets import SCRIPT, STYLE
from humpback.report.markup import Html, join, source_hash, tag
from humpback.report.numbers import Found

View = Callable[[Mapping[str, Any]], Html | None]


def render(found: Found, other: Found | None = None) -> str:
    """The whole page; `other` is a run beside it. Pure: no clock, no chance."""
    names = [found.numbers["run"], *([other.numbers["run"]] if other else [])]
    title = f"Report: {' and '.join(names)}"
    last = len(views.VIEWS) + 1
    numbered = [*enumerate(views.VIEWS, 1), *enumerate(views.FURTHER, last + 1)]
    sections = [_section(number, name, view, missing, found, other) for number, (name, view, missing) in numbered]
    links = [(f"v{number}", name) for number, (name, _, _) in numbered]
    links.insert(last - 1, ("examples", "Examples"))
    contents = tag("nav", tag("ol", [tag("li", tag("a", name, href=f"#{place}")) for place, name in links]), aria_label="contents")
    body = tag(
        "main", tag("h1", title), contents, sections[: last - 1],
        tag("section", tag("h2", "What was dropped, with samples"), _both(found, other, views.dropped), id="dropped"),
        tag("section", tag("h2", f"{last} · Examples"), views.examples(found), other and _other_examples(other), id="examples"),
        sections[last - 1 :],
    )  # fmt: skip
    numbers = {"run": found.numbers, **({"compared_with": other.numbers} if other else {})}
    data = json.dumps(numbers, sort_keys=True, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    policy = f"default-src 'none'; style-src '{source_hash(STYLE)}'; script-src '{source_hash(SCRIPT)}'; "
    policy += "base-uri 'none'; form-action 'none'"
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"), tag("title", title), tag("style", Html(STYLE)),
    )  # fmt: skip
    scripts = tag("script", Html(data), type="application/json", id="numbers") + tag("script", Html(SCRIPT))
    return f"<!doctype html>\n{tag('html', head, tag('body', body, Html(scripts)), lang='en')}\n"


def _section(number: int, name: str, view: View, missing: str, found: Found, other: Found | None) -> Html:
    """A view of one run, or of two side by side; without what it needs, the command that makes that."""
    shown = [one and view(one.numbers) for one in (found, other)]
    told = tag("p", "Not there yet: ", tag("code", missing), class_="missing")
    parts = [content or told for content in shown[: 2 if other else 1]]
    return tag("section", tag("h2", f"{number} · {name}"), _beside(parts, found, other), id=f"v{number}")


def _both(found: Found, other: Found | None, view: Callable[[Found], Html]) -> Html:
    return _beside([view(one) for one in (found, other) if one], found, other)


def _beside(parts: Sequence[Html], found: Found, other: Found | None) -> Html:
    """What two runs show, side by side under their names; of one run as it is."""
    if not other:
        return parts[0]
    runs = (found.numbers["run"], other.numbers["run"])
    return tag("div", [tag("div", tag("h3", run), part) for run, part in zip(runs, parts, strict=True)], class_="pair")


def _other_examples(other: Found) -> Html:
    """Of a run beside the first, which alone can be searched: what was rated best and worst, and what chance drew."""
    return join([tag("h3", f"{other.numbers['run']}: best, worst and by chance"), views.few_examples(other)])
