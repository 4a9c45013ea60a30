"""Each rule by which a header or a text is dropped, as literal tables."""

import random
import re

import pytest

from humpback.config import Segments
from humpback.corpus import filters
from tests.pages import UNJUDGED

HEADERS = {
    "": "empty header",
    "***": "empty header",
    "BUY NOW": "all upper case header",
    "FAQ": "all upper case header",  # the paper's rule knows no exceptions
    "2. WARNING!": "all upper case header",
    "Advertisement": "navigation header",
    "Forum": "navigation header",
    "Quick Links": "navigation header",
    "Get our FREE newsletter": "navigation header",
    "Related  Articles:": "navigation header",
    "Comments": "navigation header",
    "12 Comments": "navigation header",
    "Comments (3)": "navigation header",
    "Leave a Reply": "navigation header",
    "See also": "navigation header",
    "What the comments of a programme are for": "",
    "The forums of Rome": "navigation header",
    "Performing a forumla": "",  # words, not letters
    "C": "",
    "4.2. X": "",
    "URL の形": "",
    "Why NASA flies": "",
    "Ähnliche Artikel": "",  # in English
    "How to log in to the till from another room": "",
    "What a newsletter of a bakery should say": "",
    "Log in to the till from another room": "navigation header",
    "Our bakery newsletter": "navigation header",
    "Ovens change fast. Keep up with the Crumb Diary newsletter.": "navigation header",
    "An example of a note": "",
    "How espresso works": "",
    "2.4": "",
}


@pytest.mark.parametrize("header, reason", HEADERS.items())
def test_header_reason(header: str, reason: str) -> None:
    assert filters.header_reason(header) == reason


@pytest.mark.parametrize("language, header, navigation", [
    ("de", "Ähnliche Artikel", True), ("fr", "Voir aussi", True), ("fr", "S'inscrire à la lettre", True),
    ("es", "Índice de contenidos", True), ("es", "Cómo entrar en una cueva con seguridad", False), ("pt", "Entrar", True),
    ("es", "Entrar", False), ("de", "Wie Sie sich mit der Karte anmelden", False), ("ja", "Related articles", True),
])  # fmt: skip
def test_headers_are_navigation_in_their_language(language: str, header: str, navigation: bool) -> None:
    assert filters.is_navigation(header, language=language) is navigation


def test_phrases_of_the_config_are_navigation() -> None:
    assert filters.header_reason("Our house  magazine, 2021") == ""
    assert filters.header_reason("Our house  magazine, 2021", "letter box,House Magazine") == "navigation header"
    assert filters.header_reason("Warehouse magazine", "house magazine") == ""


@pytest.mark.parametrize("declared, reason", [
    (None, ""), ("", ""), ("en", ""), ("EN-us", ""), ("en_GB", ""), ("English", ""), ("de", "language"), ("zh-Hant", "language"),
    ("enm", "language"), ("fr, en", "language"),
])  # fmt: skip
def test_language_reason(declared: str | None, reason: str) -> None:
    assert filters.language_reason(declared, "en") == reason


def test_pages_of_another_language_can_be_asked_for() -> None:
    assert [filters.language_reason(declared, "de") for declared in ("de-AT", "German", "ger", None, "en")] == ["", "", "", "", "language"]


def test_length_reason() -> None:
    cfg = Segments()
    assert [filters.length_reason(n, cfg) for n in (599, 600, 3_000, 3_001)] == ["too short", "", "", "too long"]


REPETITION = [
    ("The red fox ran over the hill. The red fox ran over the wall.", True),  # 4 of 6 three-grams shared
    ("The red fox ran over the hill. A red fox ran over a wall.", False),  # 2 of 8
    ("One two three four.\nOne two three four.", False),  # fewer than five words
    ("One two three four five.\nOne two three four five.", True),
    ("ONE two, three four - five!\n\none Two three: four five", True),
    ("- one two three four five\n- one two three four five six", True),
    ("```\nsudo apt install the tool\nsudo apt install the tool\n```", False),  # code
    ("| one two three four five |\n| one two three four five |", False),  # a table
    ("One two three four five, and one two three four five, and no more.", False),  # one sentence
    ("", False),
]


@pytest.mark.parametrize("text, repeated", REPETITION)
def test_repetition(text: str, repeated: bool) -> None:
    assert filters.repeats(text, ngram=3, jaccard=0.5, min_words=5) is repeated
    assert not repeated or filters.may_repeat(re.findall(r"\w+", text.casefold()), 3, 0.5, 5)
    assert filters.text_reason(text, 0, Segments(**UNJUDGED)) == ("repetition" if repeated else "")


def test_repetition_at_the_threshold() -> None:
    text = "a b c d e f. a b c d e g h."  # 3 shared of 4 + 5 - 3 = 6
    assert filters.repeats(text, 3, 0.5, 5)
    assert not filters.repeats(text, 3, 0.51, 5)
    assert not filters.repeats(text, 3, 0.5, 7)
    assert not filters.repeats(text, 5, 0.5, 5)  # 1 of 2 + 3 - 1


def test_sentences() -> None:
    text = 'He said "Go." She went! Why?\nA line\n> ```\n> code. more\n> ```\n- x'
    assert filters.sentences(text) == ['He said "Go', "She went", "Why", "A line", "- x"]
    assert filters.sentences("We let $a = b$ hold.\n$a = b + c + d$,\n- $x = y$ or $y = z$") == ["We let $a = b$ hold."]


PROSE = "Once the dough has rested for an hour, it is rolled out on a floured board and cut into strips as wide as a finger. "
COLOURS = ["red", "green", "blue", "white", "black", "grey", "pink"]
TEXTS = {
    "": PROSE * 6,
    "broken characters": PROSE * 6 + "caf\ufffd",
    "symbols": PROSE * 2 + "a += b[i] * (c - d); {x: y}; /* .. */ !== <<>> || && ## " * 5,
    "fragments": PROSE * 3
    + "\n\nList box\n\nReset to parent\n\nUpper margin of the page\n\nShrink or expand\n\nNumber of columns between the two margins",
    "points elsewhere": PROSE * 3
    + "See section 4 and the table above. It is described in section 3. The next section has more, see chapter 2.",
    "code": PROSE * 3 + "\n```\n" + PROSE * 9 + "\n```",
    "few words": PROSE + "\n```\n" + PROSE * 2 + "\n```",
    "digits": PROSE * 2 + "The table of heights: 1204 1388 2100 3402 1887 and 2288 1190, 1204 1388 2100 3402 1887 and 2288 1190.",
    "list": "Parts of the machine:\n\n" + "\n".join(f"- the {word} wheel of brass" for word in COLOURS * 3),
    "forum": PROSE * 3 + "\nPosted by Ann on Monday\nBob wrote: yes\n3 days ago\nReport abuse\n12 replies",
    "prices": PROSE * 2 + "Oven $399.00, in stock. Board $24.50, pin €18.90 and flour £3.20; add to cart. Free shipping from $50.",
    "legal": PROSE * 2 + "This website uses cookies. You agree to our privacy policy; no liability is accepted, without warranty.",
    "few common words": "Flour butter sugar eggs milk salt water yeast honey almonds raisins cinnamon cloves ginger nutmeg. " * 6,
}


@pytest.mark.parametrize("reason", TEXTS)
def test_text_reason(reason: str) -> None:
    assert filters.text_reason(TEXTS[reason], 0, Segments(repeat_jaccard=1.0, repeat_ngram=99)) == reason


@pytest.mark.parametrize("text, reason", [
    ("Here is the code for the timer:\n\n" + PROSE, "fragments"), ("Here is the code for the timer:\n\n```\nx\n```", ""),
    ("Here is what she said of it:\n\n" + PROSE, ""), ("To read the full story, please pay.", "fragments"),
])  # fmt: skip
def test_what_is_not_shown(text: str, reason: str) -> None:
    assert filters.text_reason(f"{PROSE * 6}\n\n{text}", 0, Segments(repeat_jaccard=1.0, repeat_ngram=99)) == reason


def test_what_was_encoded_twice_is_broken() -> None:
    texts = [PROSE * 6 + word for word in ("cafÃ©", "donâ€™t", "SÃO", "café")]
    reasons = [filters.text_reason(text, 0, Segments(repeat_jaccard=1.0, repeat_ngram=99)) for text in texts]
    assert reasons == ["broken characters", "broken characters", "", ""]


def test_a_table_is_a_list_and_long_items_are_none() -> None:
    cfg = Segments()
    assert filters.structure_reason("| a | b |\n" * 20, cfg) == "list"
    assert filters.structure_reason("\n".join(f"{n}. {PROSE}" for n in range(1, 9)), cfg) == ""
    assert filters.structure_reason("\n\n".join(f"oven({n})\n: Bakes bread." for n in range(9)), cfg) == "list"
    assert filters.structure_reason("\n\n".join(f"oven({n})\n: {PROSE}" for n in range(9)), cfg) == ""
    assert filters.structure_reason(PROSE * 3 + "\n" + "- short item\n" * 5, cfg) == ""


@pytest.mark.parametrize("linked, reason", [(0, ""), (240, ""), (241, "links")])
def test_share_of_links(linked: int, reason: str) -> None:
    text = (PROSE * 6)[:600]
    assert filters.text_reason(text, linked, Segments(repeat_jaccard=1.0, repeat_ngram=99)) == reason


def test_a_text_that_leans_on_another_is_dropped() -> None:
    cfg = Segments(repeat_jaccard=1.0, repeat_ngram=99)
    assert filters.text_reason("Now that it rests, wait. " + PROSE * 6, 0, cfg) == "points elsewhere"
    assert filters.text_reason("Let it rest. " + PROSE * 6, 0, cfg) == ""


@pytest.mark.parametrize("path, url, text, reason", [
    (("The mill",), "https://x.org/a", PROSE, ""),
    (("The mill", "Stones"), "https://x.org/a", PROSE, ""),
    (("A tutorial of mills",), "https://x.org/tutorial/a", PROSE, ""),  # whole
    (("A Tutorial of mills", "Stones"), "https://x.org/a", PROSE, "points elsewhere"),
    (("The mill", "A tutorial"), "https://x.org/a", PROSE, ""),
    (("The mill", "Stones"), "https://x.org/tutorial/a", PROSE, "points elsewhere"),
    (("The mill", "Stones"), "https://x.org/howto-mills.html", PROSE, "points elsewhere"),
    (("How to mill", "Stones"), "https://x.org/a", PROSE, ""),
    (("The mill", "2. Example"), "https://x.org/a", "```\nmill\n```\n\n" + PROSE, "points elsewhere"),
    (("The mill", "2. Example"), "https://x.org/a", PROSE + "\n\n```\nmill\n```", ""),
    (("The mill", "An example of stones"), "https://x.org/a", "```\nmill\n```\n\n" + PROSE, ""),
    (("Daily Deals: the mill on Black Friday", "Stones"), "https://x.org/a", PROSE, "prices"),
    (("The mill on Black Friday", "Stones"), "https://x.org/a", PROSE + "A price break of ten pounds.", "prices"),
    (("The mill on Black Friday", "Stones"), "https://x.org/a", PROSE, ""),
    (("The mill", "Stones"), "https://x.org/a", PROSE + "A price break on Black Friday.", ""),  # the text's own rule
])  # fmt: skip
def test_what_leans_on_its_place_is_dropped(path: tuple[str, ...], url: str, text: str, reason: str) -> None:
    assert filters.place_reason(path, url, text) == reason


@pytest.mark.parametrize("end, reason", [
    ("\n\nTo open this command...", "fragments"), ("\n\nRead more …\n\n" + PROSE, "fragments"), ("\n- to open this...", ""),
    ("\n\nAnd it was eaten...", "fragments"), ("\n\nHe said: “And it was eaten …”", ""), ("\n\n```\nTo open this...\n```", ""),
    ("\n\nDimension Line", "fragments"), ("\n\nIt is hot.", ""), ("\n\nIn Python\n\n```\nbake\n```", ""), ("\n\nx = 3", ""),
    ("\n\nFIXME: how long?", "fragments"), ("\n\n```\nTODO\n```", ""), (" There is much to do.", ""),
])  # fmt: skip
def test_what_breaks_off_is_a_fragment(end: str, reason: str) -> None:
    assert filters.text_reason(PROSE * 6 + end, 0, Segments(repeat_jaccard=1.0, repeat_ngram=99)) == reason


def test_a_label_below_its_icon_is_a_fragment() -> None:
    cfg = Segments()
    labels = "\n\n".join(f"{word}\n\n{PROSE}\n\n{word}" for word in ("Bake", "Rest"))
    assert filters.fragments_reason(labels, cfg) == "fragments"
    assert filters.fragments_reason(labels.replace("Rest", "Note"), cfg) == ""  # a remark


def test_a_form_is_fragments() -> None:
    cfg = Segments()
    form = "\n\n".join(f"{word} oven\n\nChoose it for the bread that you bake, then press the button." for word in COLOURS)
    assert filters.fragments_reason(form, cfg) == "fragments"
    assert filters.fragments_reason(form.replace("it for", PROSE), cfg) == ""  # sub-headers of a text
    alone = "\n\n".join(f"{PROSE}\n\n{word} oven\n\nAnother oven {word}" for word in COLOURS[:3])
    assert filters.fragments_reason(alone, cfg) == "fragments"
    assert filters.fragments_reason(f"{PROSE}\n\nflour:\n\nwater:\n\nsalt:\n\nyeast:\n\n{PROSE}", cfg) == "fragments"
    assert filters.fragments_reason("\n\n".join(f"{PROSE}\n\n{word.upper()}\n\nAnother oven." for word in COLOURS[:3]), cfg) == ""


def test_a_promise_that_is_not_kept() -> None:
    cfg = Segments(repeat_jaccard=1.0, repeat_ngram=99)
    assert filters.text_reason(PROSE * 6 + "It looks like this:", 0, cfg) == "fragments"
    assert filters.text_reason(PROSE * 6 + "It looks like this:\n\n```\no\n```", 0, cfg) == ""
    terms = f"Bread\n: {PROSE} It looks like this:\n\nCake\n: {PROSE}"
    assert filters.fragments_reason(terms, cfg) == "fragments"
    assert filters.fragments_reason(terms.replace("\n\nCake", "\n\n\n\nCake"), cfg) == ""  # code, which was taken out


@pytest.mark.parametrize("sentence, reason", [
    ("The heat is , where the mass is in kilograms.", "holes"), ("The conditional probability, , that it rises is small.", "holes"),
    ("It grows with the square of .", "holes"), ("Hence x = , as was said.", "holes"),
    ("Dough, yeast, etc., rise. Put it in .txt files, with .5 litres of water.", ""), ("Il est là , dit-il .", ""),
    ("```\nfor a in . ; do\n```", ""),
])  # fmt: skip
def test_a_text_with_holes(sentence: str, reason: str) -> None:
    cfg = Segments(repeat_jaccard=1.0, repeat_ngram=99, min_stop_word_share=0.1)
    assert filters.text_reason(f"{PROSE * 6}\n\n{sentence}", 0, cfg) == reason


@pytest.mark.parametrize("line, linked, leads_on", [
    ("See also", 0, True), ("Footnotes", 0, True), ("See also the lists of ovens.", 13, True), ("For more details see the book.", 8, True),
    ("See also the lists of ovens.", 0, False),
    ("See the list of ovens.", 13, False), ("Ovens", 0, False), ("See also: " + "x" * 200, 90, False),
])  # fmt: skip
def test_see_also(line: str, linked: int, leads_on: bool) -> None:
    assert filters.is_see_also(line, linked) is leads_on


def marks(text: str, **fields) -> str:
    return filters.marks_reason(text, set(re.findall(r"\w+", text.casefold())), Segments(**fields))


def test_marks_are_counted_for_each_thousand_characters() -> None:
    some = "\nPosted by Ann\nBob wrote: yes\n3 days ago"
    assert marks(PROSE * 5 + some) == "forum"
    assert marks(PROSE * 20 + some) == ""
    assert marks(PROSE * 5 + some, marks=4) == ""


def test_a_language_without_a_list_of_words_is_not_judged_by_them() -> None:
    assert filters.words_reason(TEXTS["few common words"].split(), Segments(language="fi")) == ""
    german = "Der Teig wird auf einem Brett ausgerollt und in Streifen geschnitten, die so breit sind wie ein Finger. " * 4
    assert filters.words_reason(german.casefold().split(), Segments(language="de")) == ""
    assert filters.words_reason(german.casefold().split(), Segments()) == "few common words"


def test_what_repeats_may_repeat() -> None:
    """On random texts of few words: the quick look never says no where the long one says yes, for thresholds of all kinds."""
    draw = random.Random(0)
    found = {True: 0, False: 0}
    for _ in range(3_000):
        words = draw.choice(["abc", "abcdefghijklmnopqrstuvwxyz"])
        text = ". ".join(" ".join(draw.choice(words) for _ in range(draw.randint(1, 12))) for _ in range(draw.randint(1, 5)))
        rule = (draw.choice([1, 2, 3, 5]), draw.choice([0.0, 0.3, 0.5, 0.7, 1.0]), draw.choice([1, 5, 8]))
        repeated = filters.repeats(text, *rule)
        found[repeated] += 1
        assert not repeated or filters.may_repeat(re.findall(r"\w+", text), *rule), (text, rule)
    assert min(found.values()) > 300
