"""A page's own lines are taken out, and sentences that use their words stay."""

import pytest

from humpback.corpus.items import Block, Header
from humpback.corpus.own_lines import without_own_lines

PROSE = "Knead the dough for ten minutes until it is smooth and springs back when it is pressed with a finger."
OWN = {
    "en": (
        "Image copyright Loafpress", "Photo: A. Miller", "Photograph by Ann Miller", "Image",
        "Media playback is unsupported on your device", "19 May 2020", "Published on May 19th, 2020 at 9:15 am",
        "2020-05-19", "Last updated: Tuesday, 19 May 2020", "By Ann Miller",
        "Written by Ann Miller | 5 min read", "Reading time: 5 minutes", "5 min read", "Read more: How to bake a loaf", "READ MORE",
        "Sign up for our newsletter and never miss a loaf.", "Follow us on Loafbook", "Main article: History of bread",
        "This article was originally published in The Crumb.", "12 comments", "1.2k shares", "baker@example.org", "Advertisement",
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
    "Date palms grow slowly.", "In March 2020 the mill closed.", "```\nBy Ann Miller\n```", "| May | 2020 |", "Ann Miller baked here.",
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


def test_a_paragraph_that_is_a_link_leads_elsewhere() -> None:
    link = "How the millers of Ottersby lost their stones"
    assert [item.text for item in without_own_lines([Block(PROSE, False), Block(link, False, len(link))], "en")[0]] == [PROSE]
    announced = [Block("This is the story of the mill:", False), Block(link, False, len(link))]
    assert without_own_lines(announced, "en")[0] == announced
