"""The language of a text and how sure it is."""

import pytest

from humpback.config import Segments
from humpback.corpus.language import detect, is_other
from humpback.corpus.segments import extract
from humpback.languages import canonical
from humpback.records import Page

ENGLISH = "The miller carries the sacks of grain up to the stone floor, where they are emptied into the hopper above the stones. "
GERMAN = "Der Müller trägt die Säcke mit dem Korn auf den Steinboden, wo sie in den Trichter über den Steinen geschüttet werden. "


@pytest.mark.parametrize("text, language, low, high", [
    (ENGLISH * 4, "en", 0.95, 1), (GERMAN * 4, "de", 0.95, 1), (ENGLISH * 3 + GERMAN * 3, "en", 0.3, 0.7), ("", "", 0, 0),
    ("12 34 ++ --", "", 0, 0), ("\x00\x01 " + ENGLISH, "", 0, 1),
])  # fmt: skip
def test_detect(text: str, language: str, low: float, high: float) -> None:
    found, share = detect(text)
    if language == "en" and high < 1:
        assert found in ("en", "de")
    elif "\x00" not in text:
        assert found == language
    assert low <= share <= high


@pytest.mark.parametrize("language, header", [("en", "Grain"), ("de", "Korn")])
def test_the_segments_of_one_language_are_kept(language: str, header: str) -> None:
    html = f"<h1>Grain</h1><p>{ENGLISH * 3}</p><h1>Korn</h1><p>{GERMAN * 3}</p>".encode()
    drops: list[str] = []
    cfg = Segments(language=language, min_chars=100, repeat_jaccard=1.0, repeat_ngram=99)
    (segment,) = extract(Page("p", "p", 0, len(html), html), cfg, lambda reason, _: drops.append(reason))
    assert (segment.header, segment.language) == (header, language)
    assert segment.confidence > 0.9
    assert drops == ["language"]


def test_english_below_headers_of_another_language_is_dropped() -> None:
    headers = "<h1>14.6. Andra säkerhetsrelaterade överväganden</h1><h2>14.6.4. Hantera en maskin som en helhet</h2>"
    page = f"{headers}<p>{ENGLISH * 3}</p>".encode()
    drops: list[str] = []
    cfg = Segments(min_chars=100, repeat_jaccard=1.0, repeat_ngram=99)
    assert extract(Page("p", "p", 0, len(page), page), cfg, lambda reason, _: drops.append(reason)) == []
    assert drops == ["language", "language"]


def test_a_header_in_another_language_is_seen() -> None:
    assert [is_other(header, "en") for header in ("Debian ile çalışmak", "Using sftp", "tsvector", "")] == [True, False, False, False]
    assert is_other("Backporting strategy", "de")
    assert [is_other(header, "en") for header in ("5.12. 禁用 NIS", "Depends: поле", "The number π")] == [True, True, False]
    assert [is_other(header, "en") for header in ("Transferencia segura de archivos", "filerename")] == [True, False]
    swedish = ("14.6. Andra säkerhetsrelaterade överväganden", "14.6.4. Hantera en maskin som en helhet")
    assert [is_other(swedish[1], "en", path) for path in ((), swedish)] == [False, True]
    assert not is_other("14.6.4. Managing a machine", "en", (swedish[0], "14.6.4. Managing a machine"))
    assert not is_other("5.12. 禁用 NIS", "zh")


def test_languages_with_two_codes_are_found() -> None:
    hebrew = "לישת הבצק נמשכת כעשר דקות, עד שהוא חלק וגמיש וחוזר למקומו כאשר לוחצים עליו באצבע."
    norwegian = "Deigen skal eltes i ti minutter til den er glatt, og så skal den hvile på et lunt sted under et fuktig klede i en time."
    assert canonical(detect(hebrew)[0]) == "he"
    assert canonical(detect(norwegian)[0]) == canonical("nb")
    assert not is_other("Slik baker du et enkelt brød hjemme i ovnen", "nb")
