"""Codes of languages."""

import pycld2
import pytest

from humpback.languages import FOUND_CODES, canonical, is_code


@pytest.mark.parametrize("code, named", [
    ("en-US", "en"), ("eng-US", "en"), ("EN_gb", "en"), ("iw", "he"), ("he", "he"), ("nb-NO", "no"), ("no", "no"), ("zh-Hant", "zh"),
    ("enm", "enm"), ("und", ""), ("%lang%", ""), ("{{ lang }}", ""), ("us", ""), ("gb", ""), ("x-default", ""), ("utf-8", ""), ("mul", ""),
    ("zxx", ""), ("", ""),
])  # fmt: skip
def test_names_of_languages(code: str, named: str) -> None:
    assert canonical(code) == named


@pytest.mark.parametrize("code", ["en", "zh", "nb", "iw", "ceb"])
def test_codes_of_the_config(code: str) -> None:
    assert is_code(code)


@pytest.mark.parametrize("code", ["english", "English", "EN", "eng", "enm", "en-gb", "zh-hant", "us", "xx", "und", ""])
def test_what_is_no_code_of_the_config(code: str) -> None:
    assert not is_code(code)


def test_all_that_the_detector_finds_can_be_looked_for() -> None:
    """Of one language in two scripts (zh-Hant) the language; Buginese and Gothic have no code in CLD2 ("xx-Goth")."""
    codes = dict(pycld2.LANGUAGES)
    detected = {codes[name] for name in pycld2.DETECTED_LANGUAGES} - {"xx-Bugi", "xx-Goth"}
    assert all(is_code(code.partition("-")[0]) for code in detected)
    assert {code for code in detected if len(code) == 3} == FOUND_CODES
