import json
import pathlib
import re

import pytest

from humpback import prompts
from humpback.records import Example
from humpback.stages import finetune
from tests.timing import at_most


def test_tags_are_the_papers_exact_strings():
    assert prompts.SEED_TAG == "Answer in the style of an AI Assistant."
    assert prompts.WEB_TAG == "Answer with knowledge from web search."


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("seed", "Why? Answer in the style of an AI Assistant."),
        ("augmented", "Why? Answer with knowledge from web search."),
    ],
)
def test_training_examples_carry_the_tag_of_their_kind_at_the_end_of_the_instruction(kind, expected):
    prompt, target = finetune.training_pair(Example("0" * 16, " Why?\n", " Because. ", kind, ""), "forward")
    assert (prompt.content, target) == (expected, "Because.")


def test_inference_carries_both_tags_the_seeds_first():
    expected = "Why? Answer in the style of an AI Assistant. Answer with knowledge from web search."
    assert prompts.forward_prompt("Why? ").content == expected
    prompt, target = finetune.inference_pair(Example("0" * 16, "Why?", "Because.", "seed", ""), "forward")
    assert (prompt.content, target) == (expected, "Because.")


@pytest.mark.parametrize("given", [f"Why? {prompts.SEED_TAG}", f"Why?\n{prompts.WEB_TAG} {prompts.SEED_TAG} {prompts.WEB_TAG}\n"])
def test_an_instruction_that_ends_with_tags_gets_its_own_once(given):
    assert prompts.forward_prompt(given) == prompts.forward_prompt("Why?")
    for kind in ("seed", "augmented"):
        for task in ("forward", "backward"):
            made, bare = (finetune.training_pair(Example("0" * 16, text, "So.", kind, ""), task) for text in (given, "Why?"))
            assert made == bare
    within = f"Say: {prompts.SEED_TAG} Then explain."
    assert prompts.forward_prompt(within).body == within


@pytest.mark.parametrize("kind", ["seed", "augmented"])
def test_backward_asks_with_the_response_and_the_seed_tag_for_the_bare_instruction(kind):
    prompt, target = finetune.training_pair(Example("0" * 16, " Why? ", "Because.", kind, ""), "backward")
    assert prompt.body == "Because."
    assert prompt.content.endswith("Because.\n\nAnswer in the style of an AI Assistant.")
    assert prompts.WEB_TAG not in prompt.content and "Why?" not in prompt.content
    assert target == "Why?"


def test_the_rubric_is_a_fixed_prefix_of_every_rating_prompt():
    one, other = (prompts.rating_prompt(i, r, "sampled").content for i, r in [("Why?", "Because."), ("How?", "So.")])
    assert one.startswith(prompts.RUBRIC.rstrip()) and other.startswith(prompts.RUBRIC.rstrip())
    assert "Instruction: Why?\n\nResponse: Because.\n\n" in one
    assert prompts.SEED_TAG not in one and prompts.WEB_TAG not in one
    assert all(f"\n{level}: " in prompts.RUBRIC for level in range(1, 6))


def test_the_two_modes_differ_in_the_closing_line_only():
    sampled, expected = (prompts.rating_prompt("i", "r", mode) for mode in ("sampled", "expected"))
    assert sampled[:2] == expected[:2] and sampled.tail != expected.tail
    assert "reason" in sampled.tail and "one line only" in expected.tail


RATINGS = pathlib.Path(__file__).parent / "cases" / "ratings.tsv"


def ratings() -> list[tuple[str, float | None]]:
    """The texts of cases/ratings.tsv and what a reader says of each; None: nothing."""
    rows = (line.rsplit("\t", 1) for line in RATINGS.read_text().splitlines()[1:])
    return [(json.loads(text), float(rating) if rating else None) for text, rating in rows]


@pytest.mark.parametrize(("text", "rating"), ratings())
def test_ratings_are_read_as_a_reader_reads_them(text, rating):
    assert prompts.parse_rating(text) == rating


def test_the_table_of_the_rating_parser_is_true():
    table = prompts.parse_rating.__doc__.split("====\n")[1]
    rows = [re.split(r" {2,}", line.strip()) for line in table.splitlines()[:-1]]
    assert len(rows) > 20
    for text, rating, _ in rows:
        assert prompts.parse_rating(text.replace("⏎", "\n")) == (None if rating == "none" else float(rating)), text


@pytest.mark.parametrize(
    ("text", "whole", "rating"),
    [
        ("Score: 4", 4.0, None),
        ("Score: 4\n", 4.0, None),
        ("Score: 4. The resp", 4.0, None),
        ("Score:\n4", 4.0, None),
        ("Score: 4\nThe", 4.0, 4.0),
        ("Score:\n4\nThe", 4.0, 4.0),
        ("Score: 4\n</answer>", 4.0, 4.0),
        ("Score: 4\n>", 4.0, 4.0),
        ("Score: 4</answer>", 4.0, None),
        ("Score: 4 (4/5)", 4.0, None),
        ("Score: 3\nOn reflection", None, None),
        ("Score: 3\nIt is better.\nScore: 4", 4.0, None),
    ],
)
def test_of_a_cut_text_a_rating_counts_that_more_text_follows(text, whole, rating):
    assert (prompts.parse_rating(text), prompts.parse_rating(text, cut=True)) == (whole, rating)


@pytest.mark.parametrize(
    "piece",
    ["so, ", "score: ", "★ ", "(", "| ", ". ", "or ", "score (", "<", "[[", "~~", "a ", '{"a ', "\n> ", "based on ", " \n"],
)
def test_hostile_texts_take_no_time(piece):
    with at_most(1):
        for text in (piece * 1_000, "Score: " + piece * 1_000, "Score: 4 " + piece * 1_000):
            prompts.parse_rating(text)


@pytest.mark.parametrize(
    ("instruction", "echo"),
    [
        ("How do I prove bread?", False),
        ("Write the instruction that it most likely answers, one for bread.", True),
        ("Tell me why a dough that has rested overnight in the cold is better.", True),
        ("Explain bread. Answer in the style of an AI Assistant.", True),
        ("", False),
    ],
)
def test_echo(instruction, echo):
    assert prompts.echoes(instruction, "We all know why a dough that has rested overnight in the cold tastes better.") is echo
