import pytest

from humpback import prompts
from humpback.records import Example
from humpback.stages import finetune


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


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("It is clear.\nScore: 4", 4.0),
        ("Score: 4.5", 4.5),
        ("**Score: 5**", 5.0),
        ("Score: **3**", 3.0),
        ("score : 2.", 2.0),
        ("Score: 4/5", 4.0),
        ("Score: 3 out of 5", 3.0),
        ("Final Score: 1", 1.0),
        ("Score: 2\nOn reflection it is better.\nScore: 4", 4.0),
        ("Score: [5]", 5.0),
        ("", None),
        ("no rating here", None),
        ("In 1986 there were 10502 of them.", None),
        ("4", None),
        ("Score: 10502", None),
        ("Score: 1986", None),
        ("Score: 0", None),
        ("Score: 6", None),
        ("Score: 5.5", None),
        ("Score: -3", None),
        ("Score: 4-5", None),
        ("Score: 4 or 5", None),
        ("Score: 9/10", None),
        ("Score: 80%", None),
        ("Score: five", None),
        ("Score: <rating>", None),
        ("Score:", None),
        ("Score: 4\nScore: <rating>", None),
        ("Score: nan", None),
        ("Score: 1e0", None),
        ("Score: ٤", None),
    ],
)
def test_rating_parser_on_hostile_outputs(text, rating):
    assert prompts.parse_rating(text) == rating


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
