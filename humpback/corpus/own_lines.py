"""A page's own lines, which are no part of its text: credits of pictures, dates, bylines, invitations, what leads on to other pages.

They are paragraphs or lines of their own, outside of tables, quotations and code, so a sentence that mentions one of their words stays.
What is said there of a text, not in it, is also looked for in the lines below its header and in the last sentences above the next one.
"""

import functools
import re

from humpback.corpus.items import Block, Edge, Header, Item
from humpback.corpus.lists import ORDINAL
from humpback.corpus.own_words import CREDITS, OWN_LINES
from humpback.corpus.teasers import (
    heads_video,
    is_item_of_video,
    is_title_of_video,
    without_pull_quotes,
    without_standfirsts,
    without_teasers,
)

_MAX_LINE = 200  # characters; a longer paragraph is text
_MAX_STRONG = 160  # of an invitation between paragraphs
_STRONG_SIGNS = (
    "inbox", "for our", "to our", "us on", "me on", "click here", "download our", "if you buy", "commission", "newsletter", "now playing",
    "our sponsors",
)  # fmt: skip
_MAX_NOTED = 120  # of a sentence
_MAX_DATE = 80
_MAX_AUTHOR = 400  # characters of what a page says of who wrote it, or of a picture
_MAX_OPENING = 4  # lines below a header; more are a list
_FEW_WORDS = 4  # of a label
_LONG_TITLE = 8  # spaces in that of another page
_A_SENTENCE = re.compile(r"(?:[^ ]* ){8,}[^ ]*[^ .]\.")  # of nine words or more
_OF_SOMEBODY = re.compile(r"[A-Z]\w+ (?:by|with|from):")  # whose name is a picture
_KEYS = re.compile(r"\w\+\w| - | [>→] ")  # keys and menus to choose
_MAX_CAPITALS = 30  # characters of a label all in upper case
_MAX_ITEM = 40  # characters of an item in a list of the page's own
_MAX_SENTENCE = 300  # characters of an invitation
_SET_APART = re.compile(rf"- |{ORDINAL}|: |\||>| |```")  # lists, definitions, tables, quotations, code
_NO_LINES = ("- ", "```")  # but for who wrote a post
_ENDS = (".", "?", "!", ":", ";", ",", "”", '"', ")", "…")
_LINK, _LONG_LINK = 0.95, 20  # share and number of a paragraph's characters that are a link
_MOST_LINKS = 0.7  # of a list's items
_LABEL = re.compile(r"[^:.\n]{1,60}:\s+")
_MAYBE_DATE = (": ", *"123456789")  # set apart: in a definition, or as its day is written as the number of an item
_COUNTED = re.compile(r".{1,40} \([\d.,]+\)")  # "Recipes (12)"
_WORD, _DIGIT = re.compile(r"[^\W\d_]+"), re.compile(r"\d")
_SPACED = {code: " " for code in range(128) if not chr(code).isalpha()}  # cuts ASCII into words, faster than _WORD
_SENTENCE = re.compile(r"(?<=[.!?])[\"”’)]*\s+(?=[^\Wa-z\d_]|[“\"@])")
_NAME = r"(?:[A-ZÀ-Þ][\w.’'-]*|(?:de|van|von|der|den|del|della|di|da|la|le|el|al|bin|ibn|ter)\b)"
_NAMES = rf"{_NAME}(?:(?:,? (?:and|und|et|y|e|en|&) |, | ){_NAME}){{1,7}}"
_OF_AGENCY = re.compile(rf"{_NAMES} ?/ ?[A-Z]{{2,}}[\w ]*")  # who took a picture
_TITLED = r"(?:,? (?:PhD|Ph\.D\.|MD|M\.D\.|MSc|MPH|MBA|RD|RN|DO|Dr\.?))*"
_MAIL = re.compile(r"(?:e-?mail|contact)?\s*:?\s*[\w.+-]+@[\w-]+\.[\w.]+", re.IGNORECASE)
_ADDRESS = re.compile(  # which may be an example, so one goes only at a text's edges
    r"(?:(?:web|website|tel|phone|twitter|contact|via|source)\s*:?\s*)?"
    r"(?:(?:https?://|www\.)\S+|@\w+|\d[\d.,]*|\+?[\d ()/-]{7,}|(?:[\w-]+\.)+[a-z]{2,6})",
    re.IGNORECASE,
)
_BY_SOMEBODY = re.compile(r"(?<=[\w\d]) [Bb][Yy] [\w .,'’-]{2,40}\Z")  # behind a date
_NUMBERS = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|\d{1,2}:\d\d")  # of a date or time
_READING_TIME = re.compile(r"(?:\D{0,30}\b)?\d+(?:[–-]\d+)?[ -]?min(?:ute|uten|utos|uti)?s?\.?(?: \D{0,20})?", re.IGNORECASE)
_COUNT = re.compile(
    r"\(?[\d.,]+[kKmM]?\+?\)? ?(?:shares?|comments?|views?|likes?|replies|reads?|votes?|followers?|kommentare?|commentaires?"
    r"|comentarios|commenti|reacties)"
)
_DATED_BY = re.compile(r"\b(?:published|posted|updated)(?: on)?:? (?=\S)", re.IGNORECASE)
_DOMAIN = re.compile(r"(?:[\w-]+\.)+[a-z]{2,6}")
_ENDED, _AFTER_END = (".", "!", "?", "…"), "\"”’')]"
_KIND = re.compile(r" *\[[A-Z ]+\](?:\W*\Z|\|?)")  # "[VIDEO]" behind a link
_INITIALS = re.compile(r"(?<=[.!?”\"’]) \([A-Z]{2,3}(?:/[A-Z]{2,3})*\)\Z")  # of who wrote it
_TWEETED = re.compile(r" ?\b(?:https?://t\.co|pic\.twitter\.com)/\w+")
_TWEETER = re.compile(r"(?:> )?[—–-]{1,2} ?[^\n]{1,60}\(@\w{1,15}\)[^\n]{0,30}")
_SHORTCODE = re.compile(r"\[(\w+) [^]]*=[^]]*\].*\[/\1\]")  # of WordPress, which its page did not carry out
_CREDIT, _CREDITED = re.compile(CREDITS["in_brackets"]), re.compile(rf"(?:{CREDITS['at_end']})\Z")
_MAX_CREDIT = 20  # characters of one at the end


def without_own_lines(items: list[Item], language: str, title: str = "") -> tuple[list[Item], int]:
    """A page's items without its own lines, and how many characters these had. `title`: of the page, with the site's name in it."""
    own = _Patterns.of(language)
    parts = [part.strip().casefold() for part in re.split(r"\s[|–—·»-]\s|\s?\|\s?", title)]
    sites = frozenset([*parts, *(part.partition(".")[0] for part in parts if _DOMAIN.fullmatch(part))])
    items_of_text = without_teasers(without_pull_quotes(_without_lists(items, own)))
    kept = without_closing(without_standfirsts(_without_lines(items_of_text, own, sites)), language)
    return kept, _characters(items) - _characters(kept)


def _characters(items: list[Item]) -> int:
    return sum(len(item.text) for item in items if type(item) is Block)


def _without_lists(items: list[Item], own: "_Patterns") -> list[Item]:
    """Without lists of which at least half is such lines, or all is names of topics and how many pages these have."""
    kept: list[Item] = []
    run: list[Block] = []
    for item in [*items, None]:
        if type(item) is Block and item.text.startswith("- ") and (not run or item.tight):
            run.append(item)
            continue
        if run:
            announced = bool(kept) and type(kept[-1]) is Block and kept[-1].text.endswith(":")
            linked = sum(block.linked >= _LINK * (len(block.text) - 2) and "\n" not in block.text for block in run)
            others = [block for block in run if block.linked < _LINK * (len(block.text) - 2)]
            links = not announced and linked >= _MOST_LINKS * len(run) and all(len(block.text) <= _MAX_ITEM for block in others)
            short = max(len(block.text) for block in run) <= _MAX_ITEM
            if not links and not (short and own.is_list([block.text[2:] for block in run])):
                kept += run
            run = [item] if type(item) is Block and item.text.startswith("- ") else []
            if run:
                continue
        if item is not None:
            kept.append(item)
    return kept


def _without_lines(items: list[Item], own: "_Patterns", sites: frozenset[str]) -> list[Item]:
    """Without those that are a paragraph or a line, and those below a header that say who wrote the text and when."""
    kept: list[Item] = []
    header, opened, named = "", 0, False  # the last header; lines cut below it; whether the last line says whose name follows
    for position, item in enumerate(items):
        if type(item) is Header and (own.is_no_header(item.text) or heads_video(items, position)):
            continue
        if type(item) is Header and _is_summary(items, position):
            item = Block(item.text, False)
        if type(item) is not Block:
            header, opened, named = item.text if isinstance(item, Header) else header, 0, False
            kept.append(item)
            continue
        at_first = _is_first(kept)
        text = own.without_marks(item.text, at_first) if at_first or "\n" in item.text or ".co" in item.text else item.text
        if item.text and not text:
            named = False
            continue
        if text != item.text:
            item = Block(text, item.tight, min(item.linked, len(text)))
        if not text or len(text) > _MAX_AUTHOR or (text.startswith(_NO_LINES) and "(@" not in text):
            named = False
            if not is_item_of_video(text):
                kept.append(item)
            continue
        first = at_first and opened < _MAX_OPENING and _goes_on(items, position)
        if first and own.opens(text, header, sites, named) and (
            text == header or own.is_mark(text) or not _is_list_of_labels(items, position)
        ):
            opened, named = opened + 1, True
        elif first and header and _is_heading_line(items, position) and not _is_list_of_labels(items, position):
            opened, named = opened + 1, False
        elif (
            own.is_line(text)
            or (not text.endswith(_ENDS) and is_title_of_video(text))
            or own.is_origin(text)
            or (named and own.is_name(text.removeprefix(": ")))
            or _leads_elsewhere(item, kept)
        ):
            named = own.announces_name(text)
        elif own.is_credit(text) or (at_first and own.is_author(text)):
            named = False
        else:
            named = False
            kept.append(item)
    return kept


def without_closing(items: list[Item], language: str) -> list[Item]:
    """Items without invitations, signatures, and labels of what is not there, at the end of what stands below a header."""
    own = _Patterns.of(language)
    kept: list[Item] = []
    for position in range(len(items) - 1, -1, -1):
        item = items[position]
        if type(item) is Block and (not kept or type(kept[-1]) is not Block) and not _SET_APART.match(item.text):
            before = items[position - 1] if position else None
            rest = "" if own.is_signed(item.text) else own.without_invitations(item.text)
            rest = _INITIALS.sub("", rest) if rest.endswith(")") else rest
            if not rest or own.is_origin(rest) or (type(before) is Block and _has_ended(before.text) and _is_in_air(rest)):
                continue
            item = item if rest == item.text else Block(rest, item.tight, min(item.linked, len(rest)))
        kept.append(item)
    return kept[::-1]


def _has_ended(text: str) -> bool:
    """Whether a paragraph ends as a sentence does."""
    return text.rstrip(_AFTER_END).endswith(_ENDED)


def _is_in_air(text: str) -> bool:
    """Whether a last paragraph is a label of what is not there ("Managed by:"), a title behind a label ("Memo: …"), or an address."""
    leads_on = len(text) <= _MAX_LINE and text[-1:].isalnum() and text.count(" ") >= _LONG_TITLE and bool(_LABEL.match(text))
    return bool(leads_on or _is_last_label(text) or _OF_SOMEBODY.fullmatch(text) or _ADDRESS.fullmatch(text))


def _is_label(text: str) -> bool:
    """Whether a paragraph ends in the air."""
    return 0 < len(text) <= _MAX_DATE and "\n" not in text and not text.endswith(_ENDS) and text[0].isupper()


def is_caption(text: str) -> bool:
    """Whether what follows a picture is no sentence, and long enough to say what is seen or who took it."""
    return len(text) <= _MAX_LINE and not text.endswith(_ENDS) and text[0].isupper() and text.count(" ") >= 1 and text.upper() != text


def _is_last_label(text: str) -> bool:
    """Whether a last paragraph is the title of what is not there: of few words, or all in capitals."""
    if not _is_label(text) or _KEYS.search(text):
        return False
    words = _WORD.findall(text)
    return len(words) <= _FEW_WORDS or text.startswith("For ") or all(w[0].isupper() for w in words if len(w) > 3)


def _is_heading_line(items: list[Item], position: int) -> bool:
    """Whether the first lines below a header, before a paragraph, are labels: who wrote it, the heading of a picture or another page."""
    for number, item in enumerate(items[position : position + _MAX_OPENING + 1]):
        if type(item) is not Block or _SET_APART.match(item.text):
            return False
        if not _is_label(item.text):
            return number > 0 and len(item.text) > _MAX_DATE and _has_ended(item.text)
    return False


def _is_list_of_labels(items: list[Item], position: int) -> bool:
    """Whether below what stands from here on, and a paragraph, there are further labels: then the first ones are such, too."""
    opened = True
    for place in range(position, len(items)):
        item = items[place]
        if type(item) is not Block:
            break
        label = _is_label(item.text) and not _SET_APART.match(item.text)
        if label and not opened:
            return True
        opened = opened and label
    return False


def _goes_on(items: list[Item], position: int) -> bool:
    """Whether a paragraph follows."""
    following = items[position + 1] if position + 1 < len(items) else None
    return type(following) is Block and not _SET_APART.match(following.text)


def _is_first(kept: list[Item]) -> bool:
    """Whether a block is the first one of what is kept below its header."""
    return not kept or type(kept[-1]) is not Block


def _is_summary(items: list[Item], position: int) -> bool:
    """Whether a header is a sentence, right below a header of a higher level: what an article says of itself in short."""
    item, place = items[position], position - 1
    if not isinstance(item, Header) or not item.text.endswith(".") or not _A_SENTENCE.fullmatch(item.text):
        return False
    while place >= 0 and type(items[place]) is Edge:
        place -= 1
    before = items[place] if place >= 0 else None
    return isinstance(before, Header) and before.level < item.level


def _leads_elsewhere(block: Block, before: list[Item]) -> bool:
    """Whether a paragraph is nothing but a link, behind a label or not, and not the one that the text before it announces."""
    if block.linked < _LONG_LINK:
        return False
    text = _KIND.sub("", block.text)
    if (text.endswith((".", "?", "!")) and block.linked < len(text)) or _SET_APART.match(text):
        return False
    label = _LABEL.match(text)
    if block.linked < _LINK * len(text) and (not label or block.linked < _LINK * (len(text) - label.end())):
        return False
    return not (before and isinstance(before[-1], Block) and before[-1].text.endswith(":"))


class _Patterns:
    """What a page's own lines look like in one language."""

    def __init__(self, language: str) -> None:
        words = {**OWN_LINES["en"], **OWN_LINES.get(language, {})}
        self._agencies = frozenset(CREDITS["agencies"].split(", "))
        self._calls = frozenset(words["calls"].split(", "))
        self._whole = frozenset(words["whole"].split(", ")) | self._agencies | self._calls
        begins = "|".join(re.escape(phrase).replace(r"\ ", r"\s") for phrase in words["begins"].split(", "))
        labels = "|".join(map(re.escape, words["labels"].split(", ")))
        self._first = frozenset(  # words with which such lines begin
            _WORD.findall(phrase.casefold())[0] for key in ("begins", "labels", "by") for phrase in words[key].split(", ")
        )
        self._begins = re.compile(rf"(?:{begins})(?![\w-])|(?:{labels})\s?:", re.IGNORECASE)
        by = "|".join(map(re.escape, words["by"].split(", ")))
        self._by = re.compile(rf"(?i:{by})\s?:?\s+{_NAMES}(?:[\s,|·•–—-]+.{{0,60}})?")
        self._by_one = re.compile(rf"(?i:{by})\s?:?\s+{_NAME}")
        self._by_before = re.compile(rf"\A(?i:{by})\s{_NAME}(?: {_NAME}){{1,3}}: (?=[A-ZÀ-Þ“])")
        self._by_alone = re.compile(rf"(?i:{by})\s?:?")
        self._name = re.compile(_NAMES + _TITLED)
        self._dated = frozenset(" ".join([words["dated"], OWN_LINES["en"]["dated"]]).split())
        writers = "|".join(words["writers"].split(", "))
        home = rf"|an? [^.]{{0,60}}\b{words['lives']}\b"
        self._author = re.compile(rf"{_NAMES},? (?:{words['is']}) (?:[^.]{{0,80}}\b(?i:{writers})\b{home})", re.DOTALL)
        self._signed = re.compile(rf"{_NAMES},? (?:{words['signed']})\b")
        self._writer = re.compile(rf"\b(?:{writers})\b", re.IGNORECASE)
        self._invites = re.compile(rf"\b(?:{words['invites']})")
        self._strong = re.compile(words["strong"])
        self._share = frozenset(words["share"].split())
        self._origin = re.compile(words["origin"])
        self._inviting = frozenset(words["inviting"].split()) if language == "en" else None

    @staticmethod
    @functools.cache
    def of(language: str) -> "_Patterns":
        return _Patterns(language)

    def is_line(self, text: str) -> bool:
        """Whether a paragraph is a line of the page."""
        if len(text) > _MAX_LINE:
            return False
        if text[:2] == "| " and "|" not in text[2:]:  # no row of a table
            text = text[2:]
        if ("(@" in text and _TWEETER.fullmatch(text)) or ("[/" in text and _SHORTCODE.fullmatch(text)):
            return True
        if _SET_APART.match(text):
            return text.startswith(_MAYBE_DATE) and len(text) <= _MAX_DATE and self._is_date(text.removeprefix(": "))
        word = _WORD.match(text)
        if word and word[0].casefold() in self._first:
            if self._begins.match(text) and not (len(text) > _MAX_NOTED and text.endswith(".")):
                return True
            if self._by.fullmatch(text) or self._by_alone.fullmatch(text):
                return True
        if text[:1] == "(" and text[-1:] == ")" and self._begins.match(text, 1):
            return True
        if len(text) <= _MAX_STRONG and any(map((lowered := text.lower()).__contains__, _STRONG_SIGNS)):
            found = self._strong.search(lowered)
            if found and not _SENTENCE.search(text, 0, found.start()):
                return True
        return self.is_label(text)

    def is_label(self, text: str) -> bool:
        """Whether a short line is one of the page's labels, an address, a count or a date."""
        if len(text) > _MAX_DATE:
            return False
        said = text.casefold().strip(" .,:!…»›>→|*-–—•[]()_")
        if said in self._agencies:
            return text[0] != "["  # behind a quotation
        if said.startswith("by ") and said[3:] in self._agencies:
            return True
        if not said or said in self._whole or _MAIL.fullmatch(text) or _COUNT.fullmatch(said) or self._is_date(text):
            return True
        parts = said.split()
        if len(parts) > 1 and self._share.issuperset(parts):
            return True
        if text.endswith((" /", "|")) and text.count(text[-1]) == 1:  # a part of the site
            return True
        if "/" in text and _OF_AGENCY.fullmatch(text):
            return True
        dated = _DATED_BY.search(text)  # behind the name of a part of the site: "Crime Published On May 10, 2022"
        return bool(dated and self._is_date(text[dated.end() :]))

    def is_list(self, items: list[str]) -> bool:
        """Whether the items of a list are such lines, at least half of them, or all are topics with how many pages these have."""
        if len(items) == 1:
            return self.is_label(items[0])
        counted = all(text.endswith(")") and _COUNTED.fullmatch(text) for text in items)
        tags = all(text.endswith(",") for text in items[:-1]) and not items[-1].endswith((".", ";"))
        return counted or tags or 2 * sum(map(self.is_line, items)) >= len(items)

    def opens(self, text: str, header: str, sites: frozenset[str], named: bool) -> bool:
        """Whether a line below a header is its text or the site's name once more, the name of who wrote what follows and what this person
        is, or a label above it all.
        """
        if len(text) > _MAX_LINE or _SET_APART.match(text):
            return False
        if text == header or text.casefold() in sites:
            return True
        if len(text) > _MAX_DATE or text.endswith(_ENDS):
            return False
        capitals = len(text) <= _MAX_CAPITALS and text.isupper()
        is_writer = named and bool(self._writer.search(text))
        is_name = bool(self._name.fullmatch(text) or self._by_one.fullmatch(text))
        return capitals or is_writer or is_name or bool(_ADDRESS.fullmatch(text)) or self._is_date(text, 1)

    def is_mark(self, text: str) -> bool:
        """Whether a line is a number or a date, which no label of a list is."""
        return text.isdigit() or self._is_date(text, 1)

    def is_no_header(self, header: str) -> bool:
        """Whether a header says only who wrote the text or took a picture, or calls to another page."""
        said = header.casefold().strip(" .:!")
        called = said in self._calls or said.endswith("now playing")
        return called or (len(header) <= _MAX_DATE and bool(self._by.fullmatch(header))) or self.is_credit(header)

    def without_marks(self, text: str, first: bool) -> str:
        """A paragraph without its lines that are the page's own, addresses of posts in it, and, of a first one, "By Ann Lee: "."""
        if "pic.twitter.com/" in text or "//t.co/" in text:
            text = _TWEETED.sub("", text)
        if first and len(text) <= _MAX_AUTHOR:
            text = self._by_before.sub("", text)
        if "\n" in text and len(text) <= _MAX_AUTHOR and not _SET_APART.match(text):
            text = "\n".join(line for line in text.split("\n") if not self.is_line(line))
        return text

    def is_author(self, text: str) -> bool:
        """Whether a paragraph says who wrote the text, if it stands at the edge of that."""
        return bool(self._author.match(text))

    def is_signed(self, text: str) -> bool:
        """Whether the last paragraph says who wrote the text."""
        return len(text) <= _MAX_AUTHOR and bool(self._author.match(text) or self._signed.match(text))

    def is_origin(self, text: str) -> bool:
        """Whether a paragraph says where and when the text came out, or what the site stores."""
        return len(text) <= _MAX_AUTHOR and bool(self._origin.match(text))

    def is_credit(self, text: str) -> bool:
        """Whether a paragraph stands below a picture, as the name of who took that is at its end."""
        if text.endswith((")", ").")):
            return bool(_CREDIT.search(text, text.rfind("(") + 1)) and not _SET_APART.match(text)
        return text[-1:].isalpha() and bool(_CREDITED.search(text, max(len(text) - _MAX_CREDIT, 0))) and not _SET_APART.match(text)

    def is_name(self, text: str) -> bool:
        """Whether a line is a name, where one is expected."""
        return bool(self._name.fullmatch(text))

    def announces_name(self, text: str) -> bool:
        """Whether a line is "Written by", and nothing else."""
        return bool(self._by_alone.fullmatch(text))

    def without_invitations(self, text: str) -> str:
        """A paragraph without the last sentences that invite to something, or say where the text comes from."""
        last = max(len(text) - _MAX_SENTENCE, 0)
        ending = text[last:].lower()
        if self._inviting and self._inviting.isdisjoint(ending.translate(_SPACED).split() if ending.isascii() else _WORD.findall(ending)):
            return text
        lowered = text.lower()
        if len(lowered) != len(text) or not self._invites.search(lowered, last):
            return text
        ends = [0, *(found.end() for found in _SENTENCE.finditer(text)), len(text)]
        while len(ends) > 1 and ends[-1] - ends[-2] <= _MAX_SENTENCE and self._invites.search(lowered, ends[-2], ends[-1]):
            ends.pop()
        return text[: ends[-1]].rstrip()

    def _is_date(self, text: str, least: int = 3) -> bool:
        """Whether a line is a date, a time, or how long it takes to read the text, and no more. `least`: digits."""
        if not _DIGIT.search(text):
            return False
        if len(text) <= _MAX_DATE // 2 and _READING_TIME.fullmatch(text):
            return True
        words = [word.casefold() for word in _WORD.findall(_BY_SOMEBODY.sub("", text))]
        digits = sum(map(str.isdigit, text))
        dated = any(len(word) > 1 for word in words) or bool(_NUMBERS.search(text))
        return digits >= least and dated and text[0] != "[" and all(word in self._dated for word in words)
