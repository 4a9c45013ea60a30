"""Which boxes with the name of a nuisance hold the article after all, and which headers of a page are its site's name.

A name alone decides nothing: "sidebar" in a class may say that the page has one. A named box stays out of the text only when it holds no
`main`, no article, no title and not most of the page's prose; a `<header>` or an element with a role, only when it holds no `main`, which
it does where its end is missing.
"""

import itertools
import re
from bisect import bisect_left, bisect_right

from humpback.corpus.markup import FLUSH, OPENING, VOID, Markup, Tag

_MOST = 0.5  # of the page's prose
_SOME = 0.1  # of it, for an `article`: less is the teaser of another page
_PROSE = 60  # characters between two tags; what is shorter is a label
_JUDGED = ("box", "landmark", "open_header")
_MANY = 40  # boxes, whose ends are found in one pass over the page instead of each from its beginning
_MAX_BOX = 2_000  # tags in a navigation box to either side of its header
# Elements that end the trees in them, or are the whole page.
UNBOXED = frozenset(["article", "main", "body", "li", "dd", "blockquote", "dl", "ul", "ol", "dir", "table", "tbody", "tr"])
_HOME = re.compile(
    r'href="(?!["#?])(?:(?:https?:)?//[^/"]*)?/?(?:\.{0,2}/)*(?:[a-z]{2}(?:-[a-z]{2})?/?)?(?:(?:index|home|default)(?:\.\w+)?)?'
    r'(?:[?#][^"]*)?"'
)
_SITE_NAME = re.compile(r'(?:class|id)="[^"]*\b(?:logo|brand|branding|site-?name|(?:site|blog)[-_]?title)\b', re.IGNORECASE)


def judge(page: Markup) -> None:
    """Leaves out the boxes that are called a nuisance and are one, and headers that are the site's name; reads the other boxes.

    Of a `<header>` outside of an article that holds the article's title, `page.titles` says where that is.
    """
    telling = [position for position in page.marked if page.tags[position].telling]
    if not telling:
        return
    boxes = _Boxes(page, telling)
    behind = 0
    for position in telling:
        tag = page.tags[position]
        if tag.kind not in _JUDGED or position < behind:  # or in one that is left out
            continue
        if tag.kind == "open_header" and not boxes.mains:
            continue
        end = boxes.end_of(position)
        if boxes.hold_main(position, end):
            kind = "" if tag.name in VOID else FLUSH if tag.name == "header" else OPENING.get(tag.name, "")
        elif tag.kind == "open_header":
            continue
        elif tag.kind == "box" and boxes.hold_article(position, end):
            kind = OPENING.get(tag.name, "")
        else:
            behind = end
            kind = "" if tag.name in VOID else "skip_table" if tag.name == "table" else "skip"
        page.tags[position] = Tag(kind, tag.name, tag.attributes)
    for position in boxes.site_names:
        page.tags[position] = Tag("skip", "h1", {})
    for position in telling if boxes.titles else ():
        if page.tags[position].kind == "open_header" and position < boxes.titles[0] and boxes.titles[-1] < page.end_of(position):
            page.titles[position] = boxes.titles[0]  # if one were outside, those in it would be the site's


def end_of_box(page: Markup, begin: int) -> int | None:
    """The end of the box around a header that begins at `begin` and what belongs to it; None if other headers stand before it there, or if
    the box is an article, a list item or the like, whose ends end all trees anyway, or a large one.
    """
    heads, tags = page.heads, page.tags
    start, depth = begin, 0
    close = page.end_of(begin)
    for end in range(close + 1, min(len(heads), close + _MAX_BOX)):
        name = tags[end].name
        if name in VOID:
            continue
        depth += -1 if heads[end][:1] == "/" else 1
        if depth >= 0:
            continue
        depth = 0  # an element ends that began before the header
        around = _begin_around(page, start, end)
        if around is None or tags[around].name in UNBOXED:
            return None
        start = around
        if any(map(str.isalnum, page.text(close, end))):
            return end
    return None


def _begin_around(page: Markup, inner: int, end: int) -> int | None:
    """The begin of the element that ends at `end`, before `inner`; None if it is far, or a header stands between the two."""
    depth = 0
    for position in range(inner - 1, max(-1, inner - _MAX_BOX), -1):
        tag, closes = page.tags[position], page.heads[position][:1] == "/"
        if tag.kind in ("open_heading", "close_heading"):
            return None
        if tag.name not in VOID:
            depth += 1 if closes else -1
            if depth < 0:
                return position if tag.name == page.tags[end].name else None
    return None


class _Boxes:
    """What of a page tells whether a box holds its article."""

    def __init__(self, page: Markup, telling: list[int]) -> None:
        self._page = page
        self._telling = telling
        self._long: list[int] | None = None  # positions of texts that may be prose
        self._prose: list[int] = []  # characters of prose before each of them
        self._asked = 0
        self._ends: dict[int, int] = {}
        found = [place for place in telling if page.tags[place].name == "h1" and page.tags[place].kind == "open_heading"]
        self.site_names = [place for place in found if self._names_site(place)]
        self.titles = [place for place in found if place not in self.site_names and page.text(place, page.end_of(place)).strip()]
        self.mains = [place for place in telling if page.tags[place].name == "main"]
        articles = [place for place in telling if page.tags[place].name == "article"]
        self._articles = [place for place in articles if self._share(place, self.end_of(place)) > _SOME]

    def end_of(self, position: int) -> int:
        """Where an element ends; those of all are found at once when many are asked for, as they may stand in each other."""
        self._asked += 1
        if self._asked == _MANY:
            self._ends = _ends(self._page)
        return self._ends.get(position, len(self._page.heads) - 1) if self._ends else self._page.end_of(position)

    def hold_main(self, begin: int, end: int) -> bool:
        """Whether `main` stands between two tags."""
        return _is_one_between(self.mains, begin, end)

    def hold_article(self, begin: int, end: int) -> bool:
        """Whether a title, an article that is not short or most of the prose stands between two tags."""
        return any(_is_one_between(places, begin, end) for places in (self.titles, self._articles)) or self._share(begin, end) > _MOST

    def _share(self, begin: int, end: int) -> float:
        """The share of the page's prose between two tags."""
        if self._long is None:
            if self._asked < _MANY and max(map(len, self._page.texts[begin:end]), default=0) < _PROSE:
                return 0.0
            self._long = [position for position, length in enumerate(map(len, self._page.texts)) if length >= _PROSE]
        first, last = bisect_left(self._long, begin), bisect_left(self._long, end)
        if first == last:
            return 0.0
        self._prose = self._prose or self._count_prose()
        return (self._prose[last] - self._prose[first]) / max(self._prose[-1], 1)

    def _count_prose(self) -> list[int]:
        """Of the long texts before each of them, without links, and without what is left out whatever it holds."""
        page, long = self._page, self._long or []
        lengths = [len(page.texts[position].strip()) if page.heads[position][:2] != "a " else 0 for position in long]
        behind = 0
        for position in self._telling:
            if position >= behind and page.tags[position].kind in ("skip", "landmark"):
                behind = page.end_of(position)
                first, last = bisect_left(long, position), bisect_left(long, behind)
                lengths[first:last] = [0] * (last - first)
        return [0, *itertools.accumulate(length if length >= _PROSE else 0 for length in lengths)]

    def _names_site(self, position: int) -> bool:
        """Whether a header is a link to the first page, or called the site's name."""
        page, end = self._page, self._page.end_of(position)
        if _SITE_NAME.search(page.heads[position]):
            return True
        links = [place for place in range(position, end) if page.heads[place][:2] == "a " and _HOME.search(page.heads[place])]
        return bool(links) and page.text(links[0], page.end_of(links[0])).strip() == page.text(position, end).strip()


def _is_one_between(places: list[int], begin: int, end: int) -> bool:
    following = bisect_right(places, begin)
    return following < len(places) and places[following] < end


def _ends(page: Markup) -> dict[int, int]:
    """Where all elements end, in time linear in the page however they are nested."""
    found: dict[int, int] = {}
    opened: dict[str, list[int]] = {}  # by name: those that are open
    for position, head in enumerate(page.heads):
        name = page.tags[position].name
        if head[:1] == "/":
            if opened.get(name):
                found[opened[name].pop()] = position
        elif name in VOID:
            found[position] = position
        else:
            opened.setdefault(name, []).append(position)
    return found
