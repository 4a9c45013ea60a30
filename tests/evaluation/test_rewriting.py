"""What rewriters do that nobody asked for, each with the reason for which the draft stays."""

import pytest

from humpback.evaluation.rewriting import copied, rewritten

ASKED = "How was the Eddystone lighthouse of 1759 built?"
DRAFT = (
    "John Smeaton built the lighthouse on the Eddystone rocks, which was lit in 1759 and stood for 123 years. He shaped the blocks of "
    'granite like dovetails so that each held the others, and he used "hydraulic lime", which sets under water. The tower cost about '
    "40,000 pounds. See www.trinityhouse.co.uk/smeaton or write to keeper@eddystone.org."
)
GOOD = (
    "John Smeaton built the lighthouse on the Eddystone rocks. It was lit in 1759 and stood for 123 years. He shaped the blocks of "
    'granite like dovetails so that each held the others, and he used "hydraulic lime", which sets under water. It cost about 40000 pounds.'
)
OWN_WORDS = (
    "This tower is a great feat of early engineering that many people admire today. Its maker found clever ways to join stones and to make "
    "mortar that gets hard in the sea. It has been a model for all that came after it, wherever waves are high."
)
HALF = "He shaped the blocks of granite like dovetails so that each held the others, and it was lit in 1759"


def marked(text: str) -> str:
    return f"<answer>{text}</answer>"


KEPT = [
    marked(GOOD),
    f"Sure!\n<answer>\n{GOOD}\n</answer>\nI hope this helps.",
    marked(GOOD + " See https://www.trinityhouse.co.uk/smeaton."),
    marked(GOOD + " Write to Keeper@Eddystone.org."),
    marked(GOOD + " The Eddystone lighthouse stood for 123 years."),
    marked(GOOD.replace("40000", "40,000")),
    marked("- " + GOOD + " It stood."),
]
DROPPED = [
    (GOOD, "no markers"),
    ("", "no markers"),
    ("<ANSWER>" + GOOD, "no markers"),
    (GOOD + "</answer>", "no markers"),
    ("Answer: " + GOOD, "no markers"),
    ("<answer>" + GOOD, "unfinished"),
    ("<answer>" + GOOD + "</ans", "unfinished"),
    (marked(GOOD[:200]), "unfinished"),
    (marked(GOOD + " It was then that he"), "unfinished"),
    (marked("<answer>" + GOOD), "unfinished"),
    (marked(GOOD + ","), "unfinished"),
    (marked(""), "empty"),
    (marked(" \n\t "), "empty"),
    (marked("Smeaton built it."), "too short"),
    (marked("Yes."), "too short"),
    (marked(f"{GOOD} {GOOD} {GOOD}"), "too long"),
    (marked(GOOD + " It is a fine tower of stone." * 30), "too long"),
    (marked("I'm sorry, but I can't help with that. " + HALF + "."), "refusal"),
    (marked("I cannot provide this. " + HALF + "."), "refusal"),
    (marked("As an AI language model I have no opinion. " + HALF + "."), "refusal"),
    (marked("I apologize for the mistake. " + HALF + "."), "refusal"),
    (marked("I am unable to say more. " + HALF + "."), "refusal"),
    (marked("The draft says that " + GOOD), "speaks of the draft"),
    (marked("Here is the improved answer: " + GOOD), "speaks of the draft"),
    (marked("Here's a revised version. " + GOOD), "speaks of the draft"),
    (marked(GOOD + " This rewritten version is clearer."), "speaks of the draft"),
    (marked("Your draft was good. " + GOOD), "speaks of the draft"),
    (marked(GOOD + " It was replaced in 1882."), "new number"),
    (marked(GOOD.replace("1759", "1756")), "new number"),
    (marked(GOOD.replace("40000", "4000")), "new number"),
    (marked(GOOD + " It is 18.3 metres high."), "new number"),
    (marked(GOOD + " Work began on 5/8/1756."), "new number"),
    (marked("2. " + GOOD), "new number"),
    (marked(GOOD + " See https://en.wikipedia.org/wiki/Eddystone."), "new URL"),
    (marked(GOOD + " See www.eddystone.org."), "new URL"),
    (marked(GOOD + " See http://www.trinityhouse.co.uk/other."), "new URL"),
    (marked(GOOD + " Write to smeaton@eddystone.org."), "new address"),
    (marked(GOOD + " Write to info@trinityhouse.co.uk."), "new address"),
    (marked(GOOD + ' He called it "a child of my mind".'), "new quotation"),
    (marked(GOOD + " It is known as “Smeaton's Tower of Plymouth”."), "new quotation"),
    (marked(GOOD + " It followed the tower of Henry Winstanley."), "new name"),
    (marked(GOOD + " It was moved to Plymouth Hoe."), "new name"),
    (marked(GOOD + " Later came, with better lamps, James Douglass."), "new name"),
    (marked(OWN_WORDS), "little is copied"),
]


@pytest.mark.parametrize("output", KEPT)
def test_what_is_faithful_is_taken(output):
    found = rewritten(output, ASKED, DRAFT)
    assert found.reason == "" and "<answer>" not in found.text and found.text != DRAFT


@pytest.mark.parametrize(("output", "reason"), DROPPED)
def test_on_a_drop_the_draft_stays(output, reason):
    assert rewritten(output, ASKED, DRAFT) == (DRAFT, reason)


def test_there_are_enough_of_them():
    assert len(DROPPED) >= 40 and len({reason for _, reason in DROPPED}) == 13


def test_another_language_is_seen_where_somebody_can_tell():
    german = "John Smeaton built the lighthouse on the Eddystone rocks, und es stand lange Zeit dort auf dem Felsen im Meer, wo es war."
    language = lambda text: "de" if " und " in text else "en"  # noqa: E731
    assert rewritten(marked(german), ASKED, DRAFT, language).reason == "other language"
    assert rewritten(marked(german), ASKED, DRAFT).reason == ""


def test_what_is_copied():
    assert copied("a b c x", "a b c d") == 0.75 and copied("x y z", "a b c") == 0 and copied("", "a") == 0
