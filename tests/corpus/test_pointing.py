"""A text that leans on what is not in it is found; one that stands alone, for all its small references, is not."""

import re

import pytest

from humpback.corpus import pointing

POINTING = [
    ("The table above lists the ovens. Take one.", True),
    ("Take an oven.\n\nThe table above lists others.", True),
    ("As mentioned before, the oven is hot.", True),
    ("An oven that was bought before is hot.", False),
    ("The dough of the previous section is baked.", True),
    ("The previous owner baked it.", False),
    ("| oven | 220 |\n\nThe table above lists the ovens.", False),
    ("```\nbake\n```\n\nThe code above bakes.", False),
    ("Bake it.\n\nContinuing the previous example, it rises.\n\n```\nbake\n```", True),
    ("Bake it.\n\n```\nbake\n```\n\nThe above example bakes.", False),
    ("Now that it is baked, eat it.", True),
    ("Bake it.\n\nRead on for the rest of them.", True),
    ("We already talked about bread.", True),
    ("Bake it.\n\n```\nbake\n```\n\nIt is the code that we used before.", True),
    ("We already ate the bread.", False),
    ("This is the second article in a series on bread.", True),
    ("Bake it.\n\nThat is what we’re going to cover: bread.", True),
    ("> - However, it is baked.", True),
    ("Next, it is baked.", True),
    ("At this point you should have a dough.", True),
    ("At this point the dough is ready.", False),
    ("So as not to burn it, watch it.", False),
    ("Nowhere is it baked better.", False),
    ("The second step is to bake it.", True),
    ("The second son bakes it.", False),
    ("Bake it.\n\nThe oven is shown to the right.", True),
    ("Bake it as in the picture above.", True),
    ("The figures below are for a cup.", True),
    ("The figures below are for a cup.\n\n- flour: 200", False),
    ("If the picture shows only its half, it is damaged.", False),
    ("Or: how it is baked.", False),
    ("Bake it. The knob is shown to the left of the door.", False),
    ("Bake it as in the following diagram:\n\n```\n--> o\n```", False),
    # Back, before the first code or table.
    ("Bake it.\n\nThe oven used above is hot.", True),
    ("The lamp is placed above the oven.", False),
    ("Bake it at a height above 200 m.", False),
    ("Bake it as above.", True),
    ("```\nbake\n```\n\nThe oven used above is hot.", False),
    ("Bake it as in “Ovens” above.", True),
    ("It was seen from above, and floated above.", False),
    ("The lists above the oven are old.", False),
    ("It was never seen before, he said earlier.", False),
    ("It was described before.", True),
    ("It stays at the same heat as before.", False),
    ("It is the same as in the first example.", True),
    ("Bake it with our own script.", True),
    ("Ask for our bread.", False),
    ("The oven (Number 2 in the example) is hot.", True),
    # An example that is spoken of before there is one.
    ("Bake it. This example is of bread.", True),
    ("Bake it. An example: rye. This example is of bread.", False),
    ("Bake it. This example is of bread.\n\n```\nbake\n```", False),
    ("Look at the files from the example.com domain.\n\n```\nbake\n```", False),
    # Back, everywhere.
    ("```\nbake\n```\n\nIt is as in the previous section.", True),
    ("```\nbake\n```\n\nAs we have seen, it rises.", True),
    ("```\nbake\n```\n\nIt is described earlier in this manual.", True),
    ("Later we saw the oven.", False),
    ("This article has described the oven.", True),
    ("This oven has baked bread.", False),
    ("The previous owner sat in the last carriage.", False),
    ("Bake it as before, but longer.", True),
    ("Bake it as before.", False),
    ("You can watch the video in the post.", True),
    ("We watch the video of the mill.", False),
    ("That is the oven which I showed above.\n\nBake it.", True),
    # Ahead, in the last line.
    ("Below are all the breads that we bake.", True),
    ("Below are all the breads that we bake.\n\n- rye", False),
    ("It is described below.", True),
    ("It is described below.\n\nBake it.", False),
    ("Ovens are the subject of the next chapter.", True),
    ("Ovens are the subject of the next chapter.\n\nBake it.", False),
    ("We'll return to the oven.", True),
    ("The ovens are listed here.", True),
    ("The ovens listed here are hot.", False),
    ("See the page of ovens above.", True),
    # Ahead, with nothing shown.
    ("The example below is of bread.\n\nBake it.", True),
    ("An example below is of bread.\n\n```\nbake\n```", False),
    ("Take the bread from the table below the oven.", False),
    ("Here are some pictures.\n\nBake it.", True),
    ("Here are some pictures.\n\n- an oven", False),
    ("Bake it as in Figure 3.\n\n```\nbake\n```", True),
    # Beginnings.
    ("Another way is to bake it.", True),
    ("These are just a few of the breads.", True),
    ("These are the breads.", False),
    ("An oven is another way.", False),
    ("A similar problem is the dough.", True),
    ("Here’s the same bread, baked.", True),
    ("Go ahead and bake it.", True),
    ("This example bakes it.\n\n```\nbake\n```", True),
    ("This oven bakes it.", False),
]


@pytest.mark.parametrize("text, points", POINTING)
def test_a_text_that_leans_on_another_points_elsewhere(text: str, points: bool) -> None:
    assert pointing.pointing_reason(text, set(re.findall(r"\w+", text.casefold()))) == ("points elsewhere" if points else "")


PROSE = "Once the dough has rested for an hour, it is rolled out on a floured board and cut into strips as wide as a finger. "
SMALL = ("as described above", "which we mentioned earlier", "(see above)", "as discussed previously", "one of those already introduced")


@pytest.mark.parametrize("remark", SMALL)
@pytest.mark.parametrize("text, reason", [
    (PROSE * 9 + "It is baked, {}, for as long. " + PROSE + "\n\nEat it.", ""),
    (PROSE * 5 + "It is baked, {}, for as long. " + PROSE + "\n\nEat it.", "points elsewhere"),  # short
    (PROSE + "It is baked, {}, for as long. " + PROSE * 9 + "\n\nEat it.", "points elsewhere"),  # at its beginning
    (PROSE * 9 + "It is baked, {0}, for as long, and eaten, {0}.\n\nEat it.", "points elsewhere"),  # twice
])  # fmt: skip
def test_a_small_reference_in_a_long_text(text: str, reason: str, remark: str) -> None:
    text = text.format(remark)
    assert pointing.pointing_reason(text, set(re.findall(r"\w+", text.casefold()))) == reason
