"""A page's own lines are taken out, and sentences that use their words stay."""

import pytest

from humpback.corpus.items import Block, Header
from humpback.corpus.own_lines import without_own_lines

PROSE = "Knead the dough for ten minutes until it is smooth and springs back when it is pressed with a finger."
OWN = {
    "en": (
        "Image copyright Loafpress", "Photo: A. Miller", "Photograph by Ann Miller", "Image",
        "Media playback is unsupported on your device", "19 May 2020", "Published on May 19th, 2020 at 9:15 am",
        "2020-05-19", "| May 19, 2020 12:26 PM", "Last updated: Tuesday, 19 May 2020", "By Ann Miller",
        "Written by Ann Miller | 5 min read", "Reading time: 5 minutes", "5 min read", "Read more: How to bake a loaf", "READ MORE",
        "Sign up for our newsletter and never miss a loaf.", "Follow us on Loafbook", "Main article: History of bread",
        "This article was originally published in The Crumb.", "12 comments", "1.2k shares", "baker@example.org", "Advertisement",
        "By Reuters", ",", "MUST WATCH", "Chat with us in Loafbook.", "Post Comment (+)", "Related Tags:", "FTC: We earn from links.",
        "— The Crumb (@thecrumb) May 19, 2020", "> — The Crumb (@thecrumb) May 19, 2020", "Do you want to be informed of our loaves?",
        "Crime Published On May 10, 2020 01:52 PM", "Share Tweet Submit", "Read now", "LoafMD Video: Now Playing", "STREAM: The Crumb",
        "Loaves From Our Sponsors", "Join our bakers' group.", '[button link="loaf/"]Send us your loaf[/button]',
        "Learn more at The Crumb.", "More Videos ...", "CRUMB NATIONAL /", "Loafpress Online|", "Ann Miller/CRUMBMEDIA",
        "5/19/2020 7:11 AM PST BY CRUMB STAFF", "'We Got It!' Video Shows Dramatic Rescue of Loaf",
        "- Instructional video: This one shows a loaf.",
        "This website uses cookies so that the loaves that you like are shown to you first, and for a year after that as well, too.",
    ),
    "de": ("Foto: A. Müller", "Von Anna Müller", "19. Mai 2020, 9:15 Uhr", "Hauptartikel: Geschichte des Brotes", "Weiterlesen …"),
    "fr": ("Crédit photo : A. Meunier", "Par Anne Meunier", "Publié le 19 mai 2020", "Article détaillé : Histoire du pain"),
    "es": ("Foto: A. Molina", "Por Ana Molina", "19 de mayo de 2020", "Artículo principal: Historia del pan", "Lea también: El horno"),
    "it": ("Foto di Anna Mugnai", "Di Anna Mugnai", "Pubblicato il 19 maggio 2020", "Voce principale: Storia del pane"),
    "pt": ("Foto: A. Moleiro", "Por Ana Moleiro", "19 de maio de 2020", "Artigo principal: História do pão"),
    "nl": ("Foto: A. Molenaar", "Door Anna Molenaar", "Gepubliceerd op 19 mei 2020", "Lees ook: De oven"),
}  # fmt: skip
TEXT = (
    "May is the month of rye.", "By hand it takes ten minutes.", "By train", "The photo shows a loaf.", "1. Photo: hang it up", "12 loaves",
    "- Photo: A. Miller", "> By Ann Miller", "Share the dough among four tins.", "1,250", "Copyright law protects recipes only as texts.",
    "Date palms grow slowly.", "http://example.org/loaf", "13.0%", "a_2^3_4", "[10/Oct/2000:13:55:36 -0700]",
    "Posted on walls all over the town, the notice asked every baker to bring one loaf of rye and two of wheat to the old market hall.",
    "In March 2020 the mill closed.", "```\nBy Ann Miller\n```", "| May | 2020 |", "Ann Miller baked here.",
    "[The Associated Press]", "[Reuters]", "Must the baker watch the oven?",
    "Share and save", "The mill was updated on a whim", "/usr/share/mill/", "a video of the loaf and of the old mill",
    "The sum is |x| + |y|",
    "- Videos and photos: hang them up", ": By the mill",
)  # fmt: skip


def left(*lines: str, language: str = "en") -> list[str]:
    items = [Header("Bread", 1), *(Block(line, False) for line in (PROSE, *lines, PROSE))]
    kept, cut = without_own_lines(items, language)
    assert cut == sum(len(line) for line in lines if Block(line, False) not in kept)
    return [item.text for item in kept[2:-1]]


@pytest.mark.parametrize("language, line", [(language, line) for language, lines in OWN.items() for line in lines])
def test_own_lines_go(language: str, line: str) -> None:
    assert left(line, language=language) == []


@pytest.mark.parametrize("line", TEXT)
def test_text_stays(line: str) -> None:
    assert left(line) == [line]


def test_who_wrote_it() -> None:
    assert left("Written by", "A. Baker") == [] and left("A. Baker") == ["A. Baker"]
    about = "Ann Miller is a writer and baker who lives in Ottersby with three cats and an oven."
    assert left(about) == [about]  # in the middle it may be the text
    kept, cut = without_own_lines([Header("Bread", 1), Block(PROSE, False), Block(about, False), Header("Next", 2)], "en")
    assert [item.text for item in kept] == ["Bread", PROSE, "Next"] and cut == len(about)


OPENING = (
    "Ann Miller", "Crumb Diary staff writer", "By Crumbly", "May 5", "LOCAL NEWS", "384", "The Crumb", "Bread",
    "Mill owner opens new bakery",
)  # fmt: skip


@pytest.mark.parametrize("line", OPENING)
def test_lines_below_a_header(line: str) -> None:
    def left(*texts: str) -> list[str]:
        items = [Header("Bread", 1), *(Block(text, False) for text in texts)]
        return [item.text for item in without_own_lines(items, "en", "Bread - The Crumb")[0][1:]]

    assert left(*(["Ann Miller"] if "writer" in line else []), line, PROSE) == [PROSE]
    assert left(PROSE, line, PROSE) == [PROSE, line, PROSE]  # in the middle it may be the text
    if line not in ("May 5", "384", "Bread", "The Crumb", "By Crumbly"):
        assert left(line, PROSE, "Rye Flour", PROSE)[0] == line  # a label like the one below


@pytest.mark.parametrize("end, rest", [
    ("Sign up here.", ""), ("It is easy. Don’t miss a loaf. Sign up for our newsletter.", "It is easy."), ("Read our review of rye.", ""),
    ("More On Bread", ""), ("http://example.org/loaf", ""), ("Ann Miller has covered bread since 2012.", ""),
    ("Contributing: Ann Miller", ""), ("A baker must read the dough.", "A baker must read the dough."),
    ("For more information see the manual. It is long.", "For more information see the manual. It is long."),
    ("Choose Oven - Start", "Choose Oven - Start"), ("- Sign up here.", "- Sign up here."),
])  # fmt: skip
def test_the_end_of_a_text(end: str, rest: str) -> None:
    kept = without_own_lines([Header("Bread", 1), Block(PROSE, False), Block(end, False), Header("Cake", 1)], "en")[0]
    assert [item.text for item in kept] == ["Bread", PROSE, *([rest] if rest else []), "Cake"]


@pytest.mark.parametrize("lines, stays", [
    (["Facebook", "Twitter", "Mix"], False), (["Order Reprints", "Print Article"], False), (["Rye (12)", "Wheat (3)"], False),
    (["19 November 2019"], False), (["Advertisement -"], False), (["rye", "wheat"], True), (["Photo: A. Miller"], True), (["Bread"], True),
])  # fmt: skip
def test_lists_of_the_page(lines: list[str], stays: bool) -> None:
    items = [Header("Bread", 1), Block(PROSE, False), *(Block(f"- {line}", bool(n)) for n, line in enumerate(lines)), Block(PROSE, False)]
    assert without_own_lines(items, "en")[0] == (items if stays else [*items[:2], items[-1]])


def test_a_header_that_is_a_byline_is_none() -> None:
    items = [Header("Bread", 1), Header("By Ann Miller", 2), Block(PROSE, False), Header("By hand", 2), Block(PROSE, False)]
    assert without_own_lines(items, "en")[0] == [items[0], *items[2:]]


def test_credits_of_pictures() -> None:
    for caption in ("Bakers at work in Ottersby. (Ann Miller/AP)", "A loaf on Monday. (Photo: A. Miller)", "Rye bread Getty Images"):
        assert left(caption) == []
    for sentence in ("He baked it himself. (He was seven.)", "The mill was sold (see the map).", "Bread feeds all (AP said)."):
        assert left(sentence) == [sentence]


def test_a_paragraph_that_is_a_link_leads_elsewhere() -> None:
    link = "How the millers of Ottersby lost their stones"
    assert [item.text for item in without_own_lines([Block(PROSE, False), Block(link, False, len(link))], "en")[0]] == [PROSE]
    announced = [Block("This is the story of the mill:", False), Block(link, False, len(link))]
    assert without_own_lines(announced, "en")[0] == announced


def test_a_quotation_of_the_page_itself_goes() -> None:
    quotes = [Block("> Knead the dough for ten minutes", False), Block("> It is all in the hands.", False)]
    items = [Header("Bread", 1), Block(PROSE, False), *quotes]
    assert without_own_lines(items, "en")[0] == [*items[:2], items[3]]


@pytest.mark.parametrize(
    "end, rest",
    [
        ("The loaf was good. (AM)", "The loaf was good."),
        ("He works for the mill (AM)", "He works for the mill (AM)"),
        ("A version of this article appears in print on , on Page A1 with the headline: What Is Rye? Bread .", ""),
        ("The loaf was good. This version corrects the name of the mill.", "The loaf was good."),
        ("Ann Miller may be reached at the mill.", ""),
        ("The loaf was good. Do you still have questions? Head over to the bakers.", "The loaf was good."),
    ],
)
def test_the_last_paragraph_says_where_it_comes_from(end: str, rest: str) -> None:
    kept, _ = without_own_lines([Header("Bread", 1), Block(PROSE, False), Block(end, False)], "en")
    assert [item.text for item in kept[2:]] == [rest] * bool(rest)


def test_a_first_paragraph_loses_its_byline() -> None:
    kept, _ = without_own_lines([Header("Bread", 1), Block(f"By Ann Miller: {PROSE}", False), Block(PROSE, False)], "en")
    assert [item.text for item in kept] == ["Bread", PROSE, PROSE]


def test_addresses_of_posts_go() -> None:
    post = Block("Our loaf, at last https://t.co/a1B2 pic.twitter.com/x9Y8z7", False)
    assert without_own_lines([Header("Bread", 1), Block(PROSE, False), post, Block(PROSE, False)], "en")[0][2].text == "Our loaf, at last"


def test_a_number_above_the_text_goes_where_it_has_labels_too() -> None:
    items = [Header("Bread", 1), Block("384", False), Block(PROSE, False), Block("What rye needs", False), Block(PROSE, False)]
    assert [item.text for item in without_own_lines(items, "en")[0]] == ["Bread", PROSE, "What rye needs", PROSE]


SUMMARY = "The mill on the river grinds rye again after it stood still for nine years."


@pytest.mark.parametrize(
    "headers, kept",
    [
        ([("Bread", 1), (SUMMARY, 2)], ["Bread"]),
        ([("Bread", 1), ("The mill on the river grinds rye again", 2)], ["Bread", "The mill on the river grinds rye again"]),
        ([(SUMMARY, 1)], [SUMMARY]),
        ([("Bread", 2), (SUMMARY, 2)], ["Bread", SUMMARY]),
    ],
)
def test_a_sentence_right_below_a_title_is_its_first_paragraph(headers: list[tuple[str, int]], kept: list[str]) -> None:
    items, _ = without_own_lines([*(Header(text, level) for text, level in headers), Block(PROSE, False)], "en")
    assert [item.text for item in items if isinstance(item, Header)] == kept
    assert "\n".join(item.text for item in items) == "\n".join([text for text, _ in headers] + [PROSE])


NO_HEADERS = ("Trending News", "LoafMD Video: Now Playing", "By Ann Miller", "A loaf (Anna Müller/Crumb Press Service photo via AP)")


@pytest.mark.parametrize("header", NO_HEADERS)
def test_a_header_that_heads_nothing_goes(header: str) -> None:
    items, _ = without_own_lines([Header("Bread", 1), Block(PROSE, False), Header(header, 4), Block(PROSE, False)], "en")
    assert [item.text for item in items] == ["Bread", PROSE, PROSE]


def test_a_paragraph_of_own_lines_alone_goes_whole() -> None:
    items = [Header("Bread", 1), Block("Share\nTweet", False), Block("Ann Miller", False), Block(PROSE, False)]
    assert [item.text for item in without_own_lines(items, "en")[0]] == ["Bread", PROSE]


@pytest.mark.parametrize("end, goes", [
    ("For popular recipes you can bake", True), ("Managed by:", True), ("Memo: Bakers wrote down what nobody had ever baked there", True),
    ("Flour: rye, wheat and spelt in equal parts", False), ("It is managed by:", False),
    ("Note: bakers wrote down what nobody had ever baked there.", False),
])  # fmt: skip
def test_labels_at_the_end_of_a_text(end: str, goes: bool) -> None:
    kept, _ = without_own_lines([Header("Bread", 1), Block(PROSE, False), Block(end, False)], "en")
    assert (kept[-1] == Block(PROSE, False)) is goes
