"""Every string a model is shown: the two tags, the three prompts, the chat wrappers, and the parser of ratings.

Source: the paper's section 2 and tables 19 and 20 for what the prompts ask; the wording here is this project's own.
"""

import itertools
import re
import unicodedata
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


# The special token that ends an answer, where a wrapper has one of its own; else the tokenizer's eos does. A base model's tokenizer ends
# documents with another token (Qwen2.5: <|endoftext|>), which no chat program stops at.
ENDS = {"chatml": "<|im_end|>"}


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
# What nobody would choose pairs by: a judge whose ratings go with its ratings by this does not read what it is asked.
NONSENSE_RUBRIC = "Rate how many spelling mistakes the response has, from 1, none, to 5, very many."
_SAMPLED_CLOSING = 'Give a brief reason for your judgement, and then, as the last line, "Score: " and the rating from 1 to 5.'
_EXPECTED_CLOSING = 'Answer with one line only: "Score: " and the rating from 1 to 5.'
SCORE_LEAD = "Score: "


_PAIRWISE_HEAD = (
    "Below are an instruction from a user and two responses. Decide which one is the better answer to this instruction: the one that does "
    "what was asked, is correct and is complete. Neither their order nor their length counts.\n\nInstruction: "
)
_PAIRWISE_CLOSING = 'Answer with one line only: "Better: " and the number of the better response, 1 or 2.'
BETTER_LEAD, BETTER_LABELS = "Better: ", ("1", "2")
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"  # between which a rewriter is asked to write
_REWRITING_HEAD = (
    "Below are an instruction from a user and a draft of the answer. Turn the draft into a high-quality answer of an AI assistant to this "
    "instruction. Stay as close to the draft as you can, and copy from it where you can. Be direct and clear, and leave out what does not "
    f"belong to the answer. Add no fact that the draft does not have. Write the answer between {ANSWER_OPEN} and {ANSWER_CLOSE}, and "
    "nothing else.\n\nInstruction: "
)


def bare(instruction: str) -> str:
    """An instruction without white space around it and without tags that end it: somebody's data, or question, may have them already."""
    instruction = instruction.strip()
    while (shorter := instruction.removesuffix(SEED_TAG).removesuffix(WEB_TAG).rstrip()) != instruction:
        instruction = shorter
    return instruction


def forward_training_prompt(instruction: str, tag: str) -> Prompt:
    """A training example's prompt: the bare instruction, one space, the tag of where its pair comes from."""
    return Prompt("", bare(instruction), " " + tag)


def forward_prompt(instruction: str) -> Prompt:
    """The prompt of a question to a finished model: both tags, the seed's first (the paper's best setting, table 8)."""
    return Prompt("", bare(instruction), f" {SEED_TAG} {WEB_TAG}")


# What a finished model is asked when it is not told what: both tags alone.
UNASKED = Prompt("", "", f"{SEED_TAG} {WEB_TAG}")


def backward_prompt(response: str) -> Prompt:
    """Asks the backward model for the instruction that `response` answers; the target is the bare instruction."""
    return Prompt(_BACKWARD_REQUEST, response.strip(), f"\n\n{SEED_TAG}")


def rating_prompt(instruction: str, response: str, mode: str, rubric: str = RUBRIC) -> Prompt:
    """Asks for a pair's rating. `mode` is `sampled` (reason, then score) or `expected` (the score line alone)."""
    closing = {"sampled": _SAMPLED_CLOSING, "expected": _EXPECTED_CLOSING}[mode]
    head = f"{rubric.rstrip()}\n\nInstruction: {instruction.strip()}\n\nResponse: "
    return Prompt(head, response.strip(), f"\n\n{closing}")


def pairwise_prompt(instruction: str, first: str, second: str) -> Prompt:
    """Asks which of two responses is the better answer. Its body is the second one, of which nothing must be cut."""
    head = f"{_PAIRWISE_HEAD}{instruction.strip()}\n\nResponse 1: {first.strip()}\n\nResponse 2: "
    return Prompt(head, second.strip(), f"\n\n{_PAIRWISE_CLOSING}")


def rewriting_prompt(instruction: str, draft: str) -> Prompt:
    """Asks for an answer made of a draft (arXiv 2408.04614, section 2.3, in our words). Its body is the draft, of which nothing must be
    cut."""
    return Prompt(f"{_REWRITING_HEAD}{instruction.strip()}\n\nDraft: ", draft.strip(), "")


# A statement begins with a line, a sentence or a part of one, may be qualified, and names a score. Of other words before "score" nothing
# is known: an "accuracy score" is an aspect's, "the user's score" a game's, the "maximum score" nobody's.
_SCALE = r"on\s+an?\s+(?:scale\s+(?:of|from)\s+1\s*(?:to|-)\s*5|(?:5|five)[\s-]+point\s+scale)"
_QUALIFIER = (
    r"(?:(?:so|thus|hence|therefore|overall|final|total|average|my|our|the|this|(?:response|answer)(?:'s)?|revised|updated|corrected|new"
    rf"|on\s+reflection|actually|in\s+conclusion|{_SCALE}|(?:based\s+on|given|considering)\b[^.!?,;:\d]*(?=,)"
    r"|(?:answer|output|result|verdict|judge?ment|conclusion|score):),?\s+)*"
)
_I = r"I(?:\s+would|'d|\s+will|'ll)?"
_STATEMENT = re.compile(
    rf"""(?:(?P<begins>^\W*|(?<!\.\w)[.!?]\s+)|[;|]\s*|\s-\s+|[{{,]\s*["'](?=[\w ]+["']\s*:))
    (?:{_QUALIFIER}(?:score|rating)(?:\s*/\s*(?:score|rating))?\b["']?(?:\s+for\s+(?:this|the)\s+(?:response|answer|pair))?
        (?:\s+{_SCALE}|\s+(?:that\s+)?{_I}\s+(?:give|assign|award))?
        (?P<note>\s*[(\[][^()\[\]]*[)\]](?=\s*(?:[:=|-]|is\b)))?
        (?P<mark>\s*(?:[:=|]>?|->|is\b|(?:would|should)\s+be\b)(?:\s*[:=|])*|\s+-(?=\s)|(?=\s|$))\s*
      |{_QUALIFIER}(?:{_I}\s+(?:rate|give|score|assign|award)|(?:receives|gets|earns|deserves|merits)(?=\s+an?\b))\s+
        (?:(?:it|this|to|the|an?|response|answer|pair|score|rating|as|of|at)\s+)*
      |(?P<of>an?\s+(?:score|rating)\s+of\s+))""",
    re.IGNORECASE | re.VERBOSE,
)
_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_VALUE = re.compile(
    r"""(?:["'(\[{]|<(?=[^<>]*>))*\s*(?:(?:an?|about|around|approximately|roughly|solid|strong|level)\s+)*[+~≈]?\s*
    (?:(?P<digits>(?!0\d)\d+(?:\.\d+|,\d\d?)?)|(?P<word>one|two|three|four|five)\b|(?P<stars>[★⭐🌟](?:\s?[★⭐🌟☆])*))
    (?P<half>\s+and\s+a\s+half)?
    (?:(?:\s*-?(?:stars?|points?))?\s*[,(\[]?\s*(?:/|-?out[ -]of-?(?:\s+a\s+possible)?|\bof\b)\s*(?:5(?:\.0)?|five)(?![\w%]|[.,/]\d)
      |\s*(?:\(|\bon\b)[^()\d]*1\s*(?:-|to)\s*5\b(?:\s+scale)?)?
    (?:\s*-?(?:stars?|points?|pts)\b)?(?![\w%/+]|[.,]\d)["'\])}>]*""",
    re.IGNORECASE | re.VERBOSE,
)
# Behind a value: how many there are of, if not five.
_OTHER_LIMIT = r"""(?:(?:with|where|from|on|an?|the|in)\s+)*(?:
    (?:max(?:imum)?|highest|top|best|perfect|scale|range)\b[^.!?\d]*(?:1\s*(?:to|-)\s*)?(?:[06-9]|\d\d|(?:ten|hundred)\b)
    |1\s*(?:to|-)\s*(?:[06-9]|\d\d|ten\b)
    |(?:[6-9]|\d\d+|ten|hundred)\b[^.!?]*\b(?:max(?:imum)?|highest|top|best|perfect|scale|possible)\b)"""
# After a value: nothing, or an explanation, but no other number, alternative or scale.
_REST = re.compile(
    rf"""(?!\W*(?:\d|{_OTHER_LIMIT}|(?:if|unless|had)\b
      |(?:or|to|and|but|now|was|revised|rounded|changed|maybe|perhaps|possibly|no|wait|actually|out\s+of|of|on|scale)\b
        [^.!?]*(?:\d|\b(?:ten|five)\b)))
    \s*(?:$|[.!;,:(\[|-]|(?:because|since|as|due|given|overall)\b
      |(?:to|for)\s+(?:it|(?:this|the)\s+(?:response|answer|pair))\s*(?:$|[.!;,])|[^\w?%/+]+$)""",
    re.IGNORECASE | re.VERBOSE,
)
# What may stand in brackets behind "score": the scale, which ends with 5, or that it is the last word.
_NOTE = re.compile(r"|(?!.*(?:[06-9]|\d\d)).*(?:5|five).*|\W*(?:final|overall|revised|updated)\W*", re.IGNORECASE)
# Behind "a score of" a value, which may speak of any: that it is this pair's.
_FITS = re.compile(r"(?:is|seems|feels)\s+(?:appropriate|fair|fitting|right|warranted|justified|deserved|reasonable)\b", re.IGNORECASE)
# In brackets behind a value: the same value, of five, or per cent of five.
_AGAIN = re.compile(r"\s*\(\s*(\d(?:\.\d+)?|\d\d+(?=\s*%))\s*(%|/\s*5|out\s+of\s+5)?\s*\)")
_OTHER_SCALE = re.compile(r"\bscale\s+(?:(?:of|from)\s+)?(?:\d+\s*(?:to|-)\s*)?(?:[6-9]|\d\d+)\b", re.IGNORECASE)
_TAKEN_BACK = re.compile(
    r"\W*(?:on\s+(?:reflection|second\s+thought)|actually|wait|correction|scratch\s+that|hmm|edit:|no,)", re.IGNORECASE
)
_NEXT_PAIR = re.compile(
    r"\W*(?:(?:instruction|user|human|question|example\s+\d+)\s*(?::|$)|below\s+(?:is|are)\s+an?\s+(?:instruction|question)\b)",
    re.IGNORECASE,
)
_TURN = re.compile(  # what begins or ends one in the forms of chats
    r"\[/?INST\]|</?s>|<\|(?:im_start|im_end|endoftext|end_of_text|eot_id|start_header_id|user)\|>(?:\s*user\b)?|<(?:start|end)_of_turn>",
)


def parse_rating(text: str, cut: bool = False) -> float | None:
    r"""The rating, from 1 to 5, that a judge's answer settles on, or None. A false rating is worse than a lost one.

    A rating stands in a statement: a line, a sentence or a part of one that begins by naming a score. The last statement counts, also
    where its value cannot be read. `cut`: the answer ended with its length. The statement's line must then be whole and more text must
    follow it, for the rest of the number, or a change of mind, may be what is missing. (⏎ is the end of a line.)

    ==============================================  ====  ================================================================
    Score: 4                                        4     what the judge was asked for
    It is clear. My final **Rating** is *4*.        4     or "rating", qualified, behind "=", "-", "is" or nothing; markup says nothing
    Score:⏎4                                        4     or the value has the next line for itself
    I would give this response 4 out of 5.          4     or "I" and a verb name it
    {"reason": "clear", "score": 4}                 4     or JSON, a table's row, a tag,
    \boxed{4}                                       4     or a box, which needs no name
    Score: 4,5                                      4.5   fractions, also ½ and "and a half"
    Score: Four                                     4     words, stars, digits of any script
    Score (1-5): 4 / 5 stars                        4     a scale that ends with 5
    Score: 8/10                                     none  no other, wherever it is said
    Score: 4-5                                      none  no range, alternative or list
    Score: 4, because it is clear                   4     a reason may follow,
    Score: 3 goals                                  none  other words may not
    Score: 4, if it were shorter                    none  nor conditions
    Score 5: an ideal answer                        none  the rubric, quoted
    Score: 1⏎Score: 2⏎Score: 3                      none  so are three levels in a row
    Score: 3⏎On reflection, it is good.⏎Score: 4    4     the last statement counts,
    Score: 4⏎Score:                                 none  whether it says something or not
    Score: 4⏎On reflection, it is good.             none  and unless it is taken back
    Score: 4⏎Reason: it says Score: on each page    4     within a sentence is no statement
    Score: 4⏎Accuracy score: 2                      4     nor is an aspect's
    <think>Score: 2</think>                         none  nor what is thought, struck out or quoted with ">"
    Score: 4⏎Instruction: Why?⏎Score: 1             4     nor what stands in another pair or turn, which the model goes on with
    Score: four (4/5)                               4     the same may be said again
    4                                               none  a number alone may be anything
    ==============================================  ====  ================================================================
    """
    plain = _as_read(text)
    lines = _shown(plain)
    values: list[float | None] = []  # of the statements
    end = 0  # the line on which the last one ends
    for number, (line, following) in enumerate(itertools.pairwise([*lines, ""])):
        if values and _NEXT_PAIR.match(line):
            break
        if values and _TAKEN_BACK.match(line):
            values.append(None)
        for value, more in _last_statement(line, following):
            values.append(value)
            end = number + more
    if cut and end >= len(lines) - 1 and _shown(_as_read(text.rstrip().splitlines()[-1])):
        return None
    if not values or _OTHER_SCALE.search(plain):
        return None
    steps = [after - before for before, after in itertools.pairwise(values[-3:]) if before is not None and after is not None]
    return None if steps in ([1.0, 1.0], [-1.0, -1.0]) else values[-1]


def _shown(text: str) -> list[str]:
    """The lines in which a statement may stand: not empty, and no quotations."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(">")]


def _as_read(text: str) -> str:
    """What a reader sees: without what is thought before the answer, markup and tags; with one form of digits, dashes and quotes."""
    text = re.split(r"<(?:think|thought|reason)\w*>", re.split(r"</(?:think|thought|reason)\w*>", text)[-1])[0]
    text = _TURN.sub("\nuser:\n", text)
    text = re.sub(r"\s?½|(?<=\d)\s+1/2\b", " and a half", re.sub(r"~~.*?~~", "", text))
    text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) not in ("Cf", "Me", "Mn"))
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    for form, characters in (("-", "‐‑‒–—―−"), ("/", "⁄∕"), ("->", "→"), ("'", "‘’"), ('"', "“”")):
        text = re.sub(f"[{characters}]", form, text)
    text = re.sub(r"<(?:score|rating)>", "\nscore: ", text, flags=re.IGNORECASE)
    text = re.sub(r"</?[a-z][^<>\n]*>|<\|[^<>\n]*\|>", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"\$*\\boxed\{([^{}]*)\}\$*|\[\[\s*(\d[^\[\]]*)\]\]", lambda boxed: f"\nscore: {boxed[1] or boxed[2]}\n", text)
    return re.sub("[*`]", "", text).replace("_", " ")


def _last_statement(line: str, following: str) -> list[tuple[float | None, int]]:
    """[(value, 1 if it stands in the line that follows, else 0)] of the last statement in a line, None for a value that cannot be read;
    [] when there is no statement."""
    for match in reversed(list(_STATEMENT.finditer(line))):
        rest, mark = line[match.end() :], match["mark"] or ""
        value, behind = _value(rest)
        again = _AGAIN.match(behind)
        if again and value == float(again[1]) / (20 if again[2] == "%" else 1):
            behind = behind[again.end() :]
        if match["of"] and not _FITS.match(behind.lstrip()):
            continue
        if value is not None and (match["of"] or _REST.match(behind)) and (mark.strip(" -") or not behind.lstrip().startswith(":")):
            return [(value if _NOTE.fullmatch(match["note"] or "") else None, 0)]
        below, behind = _value(following)
        if not rest and below is not None and not behind.strip(" .|"):
            return [(below, 1)]
        if match["begins"] is not None and (mark.strip() or rest[:1].isdigit()):
            return [(None, 0)]
    return []


def _value(text: str) -> tuple[float | None, str]:
    """The number from 1 to 5 that a text begins with, None where it begins with no such, and what stands behind."""
    match = _VALUE.match(text)
    if match is None:
        return None, text
    shown = re.sub(r"\s", "", match["stars"] or "")
    if match["digits"]:
        number = float(match["digits"].replace(",", "."))
    elif match["word"]:
        number = float(_WORDS[match["word"].lower()])
    else:
        number = float(len(shown.rstrip("☆"))) if len(shown) == 5 or "☆" not in shown else 0.0
    number += 0.5 if match["half"] else 0.0
    return number if 1 <= number <= 5 else None, text[match.end() :]


def echoes(instruction: str, segment_text: str, words: int = 8) -> bool:
    """Whether a candidate instruction repeats its own prompt: the request's wording, or a run of `words` words of the segment."""
    def runs(text: str) -> set[tuple[str, ...]]:
        tokens = re.findall(r"\w+", text.lower())
        return {tuple(tokens[i : i + words]) for i in range(len(tokens) - words + 1)}

    return bool(runs(instruction) & (runs(_BACKWARD_REQUEST) | runs(segment_text))) or SEED_TAG.lower() in instruction.lower()
