"""What a page's text can do to report.md: nothing."""

import pytest

from humpback.stages import report

HOSTILE = [
    "<script>alert(1)</script>",
    "![](http://evil.example/?seen)",
    "```\n# A heading\n```",
    "````` five",
    "`one` and ``two``",
    "\x1b[2J\x00\u202e",
    "| a | table |\n|---|---|",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_pages_text_is_code_whatever_it_says(text):
    row = {"score": 5.0, "id": "0" * 16, "url": text, "header": text, "instruction": text, "output": f"{text}\n{text}"}
    lines = report._examples([row]).splitlines()
    fences = [line.removesuffix("text") for line in lines if line.startswith("```") and line.endswith("text")]
    assert len(fences) == 2 and lines[-1] == fences[1] and lines.count(fences[1]) >= 2
    for fence in fences:
        assert fence not in text and set(fence) == {"`"}
    inside, open_fence = [], ""
    for line in lines:
        if open_fence:
            open_fence = "" if line == open_fence else open_fence
        elif line.startswith("```") and line.endswith("text"):
            open_fence = line.removesuffix("text")
        else:
            inside.append(line)
    head = inside[0].split(" · ")
    assert head[0] == "**5.00**" and inside[1:] == ["", "Instruction:", "", "", "Output:", ""]
    assert not any(character in "".join(lines) for character in "\x1b\x00\u202e")
    for part in (head[2], head[3].removeprefix("header: ")):
        ticks = part.partition(" ")[0]
        assert part.endswith(f" {ticks}") and ticks not in text and set(ticks) == {"`"}
