"""What of a page is not its text: the literal lists of elements, roles and class words that are left out.

Class names and ids are cut into words ("post-comments", "postComments" → post, comments); a few words are enough by themselves, others
only in a pair. An element that holds the article (`main`, `article`, a heading, code) is never judged by its class.
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
    "button input select option optgroup datalist textarea label output progress meter "
    "nav aside footer dialog menu del rp rt annotation annotation-xml figcaption"
)
SKIPPED_ROLES = words(
    "navigation banner contentinfo complementary search menu menubar toolbar dialog alertdialog tablist tooltip"
)
# One of these words in a class or an id is enough.
SKIPPED_WORDS = words(
    "nav navbar navigation navheader navfooter navlinks subnav topnav breadcrumb breadcrumbs pagination pager paginator sidebar masthead "
    "toc skiplink addtoany addthis sharethis sharedaddy social disqus newsletter adsbygoogle adsense advert adverts advertisement "
    "advertisements advertising sponsored promo outbrain taboola headerlink headeranchor permalink editsection noprint screenreader "
    "linenos lineno linenumbers gdpr copybtn toolbar docnav relatedtopics "
    "seealso figure mediaobject inlinemediaobject screenshot thumbcaption"
)
# Both words must be there, next to each other: "cookie-bar" but not "cookie-recipe".
_PAIRS = {
    "ad ads": "bar banner block box container leaderboard slot space unit wrapper sticky top side",
    "cookie cookies": "bar banner consent dialog info law message modal notice notification overlay policy popup wall warning hint",
    "comment comments": "area form list respond section thread wrapper box count reply",
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
    "site": "footer header",
    "page": "footer",
    "source": "link",
}
SKIPPED_PAIRS = frozenset((a, b) for first, second in _PAIRS.items() for a in words(first) for b in words(second))
# Names that are a nuisance only as a whole.
SKIPPED_NAMES = words(
    "ad ads byline comment-respond comments commentlist cookie cookies menu share shares signup related footer user userinfo"
)
_NO_NUISANCES = words("toc-backref")  # a header that leads back to the contents
# Boxes whose titles are no headers of the text around them.
REMARK_WORDS = words("note warning caution tip important admonition danger hint attention")
# "with-sidebar" and "no-comments" speak of the page, not of the element.
_ABOUT_THE_PAGE = words("has have with without no not is in hide hides show shows enable enabled disable")
UNJUDGED_TAGS = words("html body main article section h1 h2 h3 h4 h5 h6 pre code samp kbd td th tr tbody dt dd")
_GENERATED_ID = re.compile(r"\b(section|sect\d|chapter|appendix|refsect\d)\b")
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
# Who owns the page, when it was changed, what else there is of it, in a line of its own.
_NOTICE = re.compile(
    r"©|\(c\) (19|20)\d\d|\ball rights reserved\b|^powered by\b"
    r"|^((this|the) (page|document|article) (was )?)?last (modified|updated|changed|edited)\b"
    r"|^available languages:|^(figure|fig\.) \d+([.-]\d+)*[.:]",
    re.IGNORECASE,
)
_NOTICE_SIGNS = (
    "©".encode(), b"&copy;", b"&#169;", b"(c) ", b"(C) ", b"eserved", b"ESERVED", b"owered", b"OWERED", b"ast modif", b"ast updat",
    b"ast chang", b"ble Languages", b"igure ", b"Figure", b"ig. ",
)  # fmt: skip
_MAX_NOTICE = 200  # characters; a longer paragraph is text that mentions it
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def skipped(tag: str, attributes: Mapping[str, str | None], in_article: bool) -> bool:
    """Whether an element and all that is in it stays out of the text.

    `in_article` says whether it stands in an article, section or main: a `<header>` there holds the title, elsewhere the site's name.
    """
    if tag in SKIPPED_TAGS or (tag == "header" and not in_article):
        return True
    if not attributes:
        return False
    if "hidden" in attributes or attributes.get("aria-hidden") == "true":
        return not (attributes.get("id") or "").startswith("default")  # of several variants, from which a script chooses, this one is shown
    if _HIDDEN_STYLE.search(attributes.get("style") or ""):
        return True
    roles = (attributes.get("role") or "").lower().split()
    if any(role in SKIPPED_ROLES for role in roles):
        return True
    if tag in UNJUDGED_TAGS or "heading" in roles:
        return False
    classes = attributes.get("class") or ""
    identifier = attributes.get("id") or ""
    if identifier and _GENERATED_ID.search(classes):
        identifier = ""  # made from the section's title by the documentation tool
    return bool(classes or identifier) and nuisance_name(f"{classes} {identifier}")


@functools.lru_cache(maxsize=4096)
def nuisance_name(names: str) -> bool:
    """Whether one of the class names or ids (separated by spaces) is that of a nuisance."""
    for name in names.split():
        found = [word.lower() for word in _WORD.findall(name)]
        if not found or found[0] in _ABOUT_THE_PAGE or name in _NO_NUISANCES:
            continue
        if name.lower() in SKIPPED_NAMES or not SKIPPED_WORDS.isdisjoint(found):
            return True
        if not SKIPPED_PAIRS.isdisjoint(itertools.pairwise(found)):
            return True
    return False


def may_have_notices(html: bytes) -> bool:
    """Whether a page has what `notice` looks for, at the price of a few searches instead of one a paragraph."""
    return any(sign in html for sign in _NOTICE_SIGNS)


def notice(paragraph: str) -> bool:
    """Whether a paragraph is a line about the page or what is not in the text: its copyright, its date, the number of a figure."""
    return len(paragraph) <= _MAX_NOTICE and bool(_NOTICE.search(paragraph))
