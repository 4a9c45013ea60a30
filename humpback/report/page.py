"""The page: one file without a request to anywhere, readable without its script, whose numbers all stand in one JSON in it."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from humpback.report import views
from humpback.report.assets import SCRIPT, STYLE
from humpback.report.markup import Html, source_hash, tag
from humpback.report.numbers import Found

View = Callable[[Mapping[str, Any]], Html | None]


def render(found: Found, other: Found | None = None) -> str:
    """The whole page; `other` is a run beside it. Pure: no clock, no chance."""
    names = [found.numbers["run"], *([other.numbers["run"]] if other else [])]
    title = f"Report: {' and '.join(names)}"
    sections = [_section(number, name, view, missing, found, other) for number, (name, view, missing) in enumerate(views.VIEWS, 1)]
    contents = tag("nav", tag("ol", [tag("li", tag("a", name, href=f"#v{n}")) for n, (name, _, _) in enumerate(views.VIEWS, 1)]),
                   aria_label="contents")  # fmt: skip
    body = tag(
        "main", tag("h1", title), contents, sections,
        tag("section", tag("h2", "What was dropped, with samples"), views.dropped(found), id="dropped"),
        tag("section", tag("h2", f"{len(views.VIEWS) + 1} · Examples"), views.examples(found), id="examples"),
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
    told: list[Html | str] = ["Not there yet: " if view is not views.absent else "Of files beside a run: ", tag("code", missing)]
    told = told if missing else ["Not measured: no command of this version does it."]
    parts = [content or tag("p", told, class_="missing") for content in shown[: 2 if other else 1]]
    if other:
        runs = (found.numbers["run"], other.numbers["run"])
        parts = [tag("div", [tag("div", tag("h3", run), part) for run, part in zip(runs, parts, strict=True)], class_="pair")]
    return tag("section", tag("h2", f"{number} · {name}"), parts, id=f"v{number}")
