"""What of a page is not its text: the literal lists of elements, roles and class words that are left out.

Class names and ids are cut into words ("post-comments", "postComments" → post, comments); a few words are enough by themselves, others
only in a pair. Tags, roles, comments and cookie boxes are left out whatever they hold; any other name only says what a box may be, and
corpus/boxes.py looks at what it holds. `main`, `article`, a heading and code are never judged by their class.
"""

import functools
import itertools
import re
from collections.abc import Mapping


def words(text: str) -> frozenset[str]:
    """A literal set of words, written as one text."""
    return frozenset(text.split())


# Elements whose contents are never text to be read.
SKIPPED_TAGS = words(
    "script style template noscript noframes head title svg canvas iframe frame frameset object embed applet audio video map "
    "input select option optgroup datalist textarea output progress meter "
    "nav aside footer dialog menu del rp rt annotation annotation-xml figcaption"
)
# What is written on these is a header or an item of a list, if it is all that stands there.
WRITTEN_ON = words("button label")
SKIPPED_ROLES = words(
    "navigation banner contentinfo complementary search menu menubar toolbar dialog alertdialog tablist tooltip doc-endnotes doc-footnote"
)
# One of these words in a class or an id is enough.
SKIPPED_WORDS = words(
    "nav navbar navigation navheader navfooter navlinks subnav topnav breadcrumb breadcrumbs pagination pager paginator sidebar masthead "
    "toc skiplink addtoany addthis sharethis sharedaddy social newsletter adsbygoogle adsense advert adverts advertisement "
    "advertisements advertising sponsored promo outbrain taboola headerlink headeranchor permalink editsection noprint screenreader "
    "linenos lineno linenumbers copybtn toolbar docnav relatedtopics "
    "seealso hatnote footnotes footnote endnotes gallery slideshow carousel modal popup popover "
    "rollover hovercard offcanvas figure mediaobject inlinemediaobject screenshot thumbcaption"
)
# Both words must be there, next to each other: "share-bar" but not "share-price".
_PAIRS = {
    "ad ads": "bar banner block box container leaderboard slot space unit wrapper sticky top side",
    "share sharing": "bar box button buttons icons links tools widget this post",
    "menu": "main top site primary secondary footer mobile bar list item toggle container header",
    "main top site primary secondary footer mobile": "menu",
    "related": "articles links posts stories content topics pages",
    "may": "like",
    "see": "also",
    "wp image photo picture figure media": "caption",
    "sign": "up",
    "subscribe subscription": "box form widget banner",
    "skip": "link links to nav content",
    "screen": "reader",
    "copyright": "bar line notice",
    "post entry article": "meta info author",
    "author": "bio box card info profile about description details block meta",
    "about": "author",
    "site": "footer header",
    "video": "meta info caption description title player",
    "page": "footer",
    "source": "link",
    "instagram tiktok": "media embed",
}
_HARD_PAIRS = {
    "cookie cookies": "bar banner consent dialog info law message modal notice notification overlay policy popup wall warning hint",
    "comment comments": "area form list respond section thread wrapper box count reply",
}


def _pairs(lists: dict[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((a, b) for first, second in lists.items() for a in words(first) for b in words(second))


SKIPPED_PAIRS, HARD_PAIRS = _pairs(_PAIRS), _pairs(_HARD_PAIRS)
# Names that are a nuisance only as a whole.
SKIPPED_NAMES = words("ad ads byline menu share shares signup related header footer user userinfo")
# Names of boxes that are left out whatever they hold: a comment may be longer than the article.
HARD_NAMES = words("comment-respond comments commentlist cookie cookies")
HARD_WORDS = words("gdpr disqus")
_NO_NUISANCES = words("toc-backref")  # a header that leads back to the contents
# An element with one of these names, hyphens apart, holds the article, whatever its other names say.
_CONTENT_NAMES = words(
    "main page body article maincontent pagecontent postcontent entrycontent articlecontent articlebody postbody entrybody contentbody "
    "bodycontent sitecontent"
)
# "content-sidebar-wrap" is around both.
_CONTENT_WORDS, _WRAPS = words("content main page body article entry post"), words("wrap wrapper container layout grid row")
# Boxes whose titles are no headers of the text around them.
REMARK_WORDS = words("note warning caution tip important admonition danger hint attention")
# "with-sidebar" and "comments-off" speak of the page, not of the element, …
_ABOUT_THE_PAGE = words("has have with without no not is in hide hides show shows enable enabled disable")
_ANYWHERE = words("with without no off has disabled enabled")  # … these ones wherever they stand in the name
_TOPICS = words("category tag cat type format term")  # "category-advertising", "tag-social": what an article is about
UNJUDGED_TAGS = words("html body main article section h1 h2 h3 h4 h5 h6 pre code samp kbd td th tr tbody dt dd")
_GENERATED_ID = re.compile(r"\b(section|sect\d|chapter|appendix|refsect\d)\b")
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
# Who owns the page, when it was changed, what else there is of it, in a line of its own.
_NOTICE_BEGINS = re.compile(
    r"©|powered by( \S+){1,5}$|((this|the) (page|document|article) (was )?)?last (modified|updated|changed|edited)\b[^.]{0,20}"
    r"(\d|:| by | on )|available languages:|(figure|fig\.) \d+([.-]\d+)*[.:](?!\s+(?-i:[a-z]))",
    re.IGNORECASE,
)
_NOTICE_SIGNS = ("©", "(c) ", "(C) ", "eserved", "ESERVED")  # without one of which there is none of these:
_NOTICE = re.compile(r"(?-i:©\s*[^a-z\s])|©\W*$|\(c\) (19|20)\d\d|\ball rights reserved\b", re.IGNORECASE)
_MAX_NOTICE = 200  # characters; a longer paragraph is text that mentions it
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def skipped(tag: str, attributes: Mapping[str, str | None]) -> str:
    """How an element is left out with all that is in it: "skip", "landmark" for its role, "box" for one that is only called a nuisance; ""
    for one that is read.
    """
    if tag in SKIPPED_TAGS:
        return "skip"
    if not attributes:
        return ""
    if _is_hidden(attributes):
        return "skip"
    role = attributes.get("role")
    roles = role.lower().split() if role else ()
    if not SKIPPED_ROLES.isdisjoint(roles):
        return "landmark"
    if tag in UNJUDGED_TAGS or "heading" in roles:
        return ""
    classes = attributes.get("class") or ""
    identifier = attributes.get("id") or ""
    if identifier and _GENERATED_ID.search(classes):
        identifier = ""  # made from the section's title by the documentation tool
    if tag in WRITTEN_ON:
        return ""
    return named(f"{classes} {identifier}") if classes or identifier else ""


def _is_hidden(attributes: Mapping[str, str | None]) -> bool:
    hidden = "hidden" in attributes and (attributes["hidden"] or "").lower() != "until-found"  # that is shown when it is searched for
    if hidden or attributes.get("aria-hidden") == "true":
        return not (attributes.get("id") or "").startswith("default")  # of several variants, from which a script chooses, this one is shown
    return bool(_HIDDEN_STYLE.search(attributes.get("style") or ""))


@functools.lru_cache(maxsize=4096)
def named(names: str) -> str:
    """What class names and ids (separated by spaces) call their element: "skip" and "box" as in `skipped`, "" for no nuisance."""
    found = ""
    listed = names.lower().replace("-", "").replace("_", "").split()
    for name in names.split():
        said = [word.lower() for word in _WORD.findall(name)]
        if not said or said[0] in _ABOUT_THE_PAGE or name in _NO_NUISANCES or not _ANYWHERE.isdisjoint(said):
            continue
        pairs = list(itertools.pairwise(said))
        if name.lower() in HARD_NAMES or not HARD_WORDS.isdisjoint(said) or not HARD_PAIRS.isdisjoint(pairs):
            return "skip"
        if said[0] in _TOPICS or (said[0] in _CONTENT_WORDS and said[-1] in _WRAPS):
            continue
        if name.lower() in SKIPPED_NAMES or not SKIPPED_WORDS.isdisjoint(said) or not SKIPPED_PAIRS.isdisjoint(pairs):
            found = "box"
    return "" if found and not _CONTENT_NAMES.isdisjoint(listed) else found


def notice(paragraph: str) -> bool:
    """Whether a paragraph is a line about the page or what is not in the text: its copyright, its date, the number of a figure."""
    if len(paragraph) > _MAX_NOTICE:
        return False
    return bool(
        _NOTICE_BEGINS.match(paragraph) or (any(map(paragraph.__contains__, _NOTICE_SIGNS)) and _NOTICE.search(paragraph))
    )
