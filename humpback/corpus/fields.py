"""The keys of records: which of them holds a page, and which its address; as the config says, or by their usual names."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from humpback.config import Segments
from humpback.corpus.boilerplate import words

# In lower case, the likeliest first. A dot leads into a record within the record.
_HTML = ("html", "raw_html", "html_content", "content_html", "page_html", "html_body", "body_html", "source_html", "rendered_html")
_TEXT = (
    "text", "content", "raw_content", "markdown", "body", "document", "article", "page_content", "clean_text", "plain_text",
    "main_text", "maintext", "extracted_text", "full_text", "raw_text", "contents", "doc", "passage", "story", "md",
)  # fmt: skip
_URL = (
    "url", "uri", "source_url", "page_url", "warc-target-uri", "warc_target_uri", "target_uri", "link", "canonical_url", "metadata.url",
    "meta.url", "metadata.source_url", "metadata.warc-target-uri", "metadata.uri",
)  # fmt: skip
_NO_HEADINGS = frozenset(words("clean-text"))
_MOST_SHOWN = 200  # characters of a list of keys
_MOST_NAMES = 100

NO_TEXT = "no text"  # a record that has none of the keys
NO_HEADINGS = "no headings"
CLUEWEB22 = (
    "ClueWeb22's txt, which has lost the headings that segments begin with; give the html files of the same pages, or take each text "
    "whole: --config.segments.text_key=Clean-Text"
)


class Candidates(NamedTuple):
    """The keys that may hold a page, as (kind, key), and those that may hold its address; the first that does counts."""

    pages: tuple[tuple[str, str], ...]
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Keys:
    """What the config says of a record's keys; "" leaves it to their names."""

    html: str = ""
    text: str = ""
    url: str = ""

    @staticmethod
    def of(cfg: Segments) -> "Keys":
        return Keys(cfg.html_key, cfg.text_key, cfg.url_key)

    def candidates(self, names: Iterable[str]) -> Candidates:
        """Those among the names of a record; an inner record may be named by its own key alone."""
        return _candidates(self, tuple(names))

    def complaint(self, names: Iterable[str]) -> str:
        """What is wrong with a record of these keys in which no page can be, and the way out."""
        found = sorted(names)
        if _NO_HEADINGS.intersection(map(str.lower, found)) and not (self.html or self.text):
            return CLUEWEB22
        shown = ", ".join(found[:_MOST_NAMES])
        shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]} …"
        wanted = [f"{key!r} (segments.{field}_key)" for field, key in (("html", self.html), ("text", self.text)) if key]
        missing = f"no key {' or '.join(wanted)}" if wanted else "no key of a usual name for HTML or text"
        return (
            f"{missing}; the keys are {shown or 'none'}; name the right one by --config.segments.text_key=KEY, "
            "or by --config.segments.html_key=KEY if it holds HTML"
        )

    def reason(self, names: Iterable[str]) -> str:
        """Why a record of these keys is left out."""
        return NO_HEADINGS if self.complaint(names) == CLUEWEB22 else NO_TEXT


USUAL = Keys()


@functools.lru_cache(maxsize=1024)
def _candidates(keys: Keys, names: tuple[str, ...]) -> Candidates:
    known: dict[str, str] = {}  # how it is looked for → how it is written
    for name in names:
        known.setdefault(name.lower(), name)
    tops = {name.partition(".")[0] for name in names}

    def usual(wanted: Iterable[str]) -> list[str]:
        found = []
        for name in wanted:
            top, dot, rest = name.partition(".")
            if name in known:
                found.append(known[name])
            elif dot and top in known:
                found.append(f"{known[top]}.{rest}")
        return found

    def given(name: str) -> list[str]:
        return [name] if name in names or ("." in name and name.partition(".")[0] in tops) else []

    html = given(keys.html) if keys.html else [] if keys.text else usual(_HTML)
    text = given(keys.text) if keys.text else [] if keys.html else usual(_TEXT)
    urls = given(keys.url) if keys.url else usual(_URL)
    return Candidates((*(("html", key) for key in html), *(("text", key) for key in text)), tuple(urls))


def value(record: Mapping[str, Any], key: str) -> Any:
    """What a record has under a key, through the records within it; None if it has none."""
    if key in record:
        return record[key]
    inner: Any = record
    for name in key.split("."):
        if not isinstance(inner, dict):
            return None
        inner = inner.get(name)
    return inner


def flat_names(record: Mapping[str, Any]) -> list[str]:
    """A record's keys, and behind a dot those of the records in it."""
    found = []
    for name, inner in record.items():
        found += [f"{name}.{below}" for below in inner] if isinstance(inner, dict) and inner else [name]
    return found
