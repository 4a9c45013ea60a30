"""Every string a model is shown: the two tags, the three prompts, the chat wrappers, and the parser of ratings.

Source: the paper's section 2 and tables 19 and 20 for what the prompts ask; the wording here is this project's own.
"""

import re
from typing import NamedTuple

# The paper's two tags, exact constants, appended to the instruction and never a system turn (section 2.1).
SEED_TAG = "Answer in the style of an AI Assistant."
WEB_TAG = "Answer with knowledge from web search."


class Wrapper(NamedTuple):
    """The literal text around a prompt's content; special tokens are recognised here and nowhere in the content."""

    prefix: str
    suffix: str


WRAPPERS = {
    "inst": Wrapper("[INST] ", " [/INST]"),
    "chatml": Wrapper("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "plain": Wrapper("", "\n\n"),
}


class Prompt(NamedTuple):
    """What is asked of a model, before the wrapper. A prompt that is too long loses the end of `body`, nothing else."""

    head: str
    body: str
    tail: str

    @property
    def content(self) -> str:
        return self.head + self.body + self.tail


_BACKWARD_REQUEST = (
    "The text below may be somebody's answer to a question or an instruction. "
    "Write the instruction that it most likely answers, one for which it would be a great answer.\n\n"
)

# A fixed prefix before every pair, so that a decoder can compute it once (section 2.2; the levels are the paper's).
RUBRIC = """\
Below are an instruction from a user and a candidate response. Judge how good an example the response is of the way an AI assistant should \
answer this instruction. Use five levels:
1: The response is incomplete, vague, off the topic or not what was asked for. Part of it may be missing, or it is promotion, navigation \
or forum talk, or it tells of another person's experience.
2: The response addresses most of what was asked, but not directly; it may describe a method in general where a solution was wanted.
3: The response is helpful and complete in itself, but it was not written by an assistant: it reads like an excerpt of a blog, a web page \
or search results.
4: The response is written from an assistant's view and answers the instruction in full. It is clear, focused and well organised; there is \
small room for improvement.
5: The response is an ideal answer of an AI assistant: it keeps to the instruction, no sentence is superfluous, and it shows expert \
knowledge and is engaging to read.
"""
_SAMPLED_CLOSING = 'Give a brief reason for your judgement, and then, as the last line, "Score: " and the rating from 1 to 5.'
_EXPECTED_CLOSING = 'Answer with one line only: "Score: " and the rating from 1 to 5.'
SCORE_LEAD = "Score: "


def forward_training_prompt(instruction: str, tag: str) -> Prompt:
    """A training example's prompt: the instruction, one space, the tag of where its pair comes from."""
    return Prompt("", instruction.strip(), " " + tag)


def forward_prompt(instruction: str) -> Prompt:
    """The prompt of a question to a finished model: both tags, the seed's first (the paper's best setting, table 8)."""
    return Prompt("", instruction.strip(), f" {SEED_TAG} {WEB_TAG}")


def backward_prompt(response: str) -> Prompt:
    """Asks the backward model for the instruction that `response` answers; the target is the bare instruction."""
    return Prompt(_BACKWARD_REQUEST, response.strip(), f"\n\n{SEED_TAG}")


def rating_prompt(instruction: str, response: str, mode: str, rubric: str = RUBRIC) -> Prompt:
    """Asks for a pair's rating. `mode` is `sampled` (reason, then score) or `expected` (the score line alone)."""
    closing = {"sampled": _SAMPLED_CLOSING, "expected": _EXPECTED_CLOSING}[mode]
    head = f"{rubric.rstrip()}\n\nInstruction: {instruction.strip()}\n\nResponse: "
    return Prompt(head, response.strip(), f"\n\n{closing}")


# What may stand around the number: emphasis, brackets, quotes. "4/5" and "4 out of 5" are a 4; "9/10" is no rating.
_SCORE = re.compile(r"score\s*[*_`\"']*\s*:\s*(.*)", re.IGNORECASE)
_VALUE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:\s*(?:/|out of)\s*5)?$")


def parse_rating(text: str) -> float | None:
    """The rating in a judge's answer: the number on the last `Score:` line, from 1 to 5, fractions allowed; otherwise None."""
    lines = [match.group(1) for line in text.splitlines() if (match := _SCORE.search(line))]
    if not lines:
        return None
    value = _VALUE.fullmatch(lines[-1].strip().strip("*_`\"'<>[]() .").strip())
    if value is None or not 1 <= float(value.group(1)) <= 5:
        return None
    return float(value.group(1))


def echoes(instruction: str, segment_text: str, words: int = 8) -> bool:
    """Whether a candidate instruction repeats its own prompt: the request's wording, or a run of `words` words of the segment."""
    def runs(text: str) -> set[tuple[str, ...]]:
        tokens = re.findall(r"\w+", text.lower())
        return {tuple(tokens[i : i + words]) for i in range(len(tokens) - words + 1)}

    return bool(runs(instruction) & (runs(_BACKWARD_REQUEST) | runs(segment_text))) or SEED_TAG.lower() in instruction.lower()
