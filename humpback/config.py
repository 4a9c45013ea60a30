"""The typed config tree. Every field stands here once: default, rule, reason; `configs/*.py` change values, flags change them again.

A config is a tree of plain dataclasses, mutable while flags are applied; `finish` validates it and returns the frozen copy that
everything else sees. "The paper's" are values of its sections 2 and 3.1 and appendix E.
"""
# ruff: noqa: RUF009 (`setting` and `part` are dataclasses.field)

import copy
import dataclasses
import difflib
import inspect
import json
import math
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from humpback import credentials, prompts
from humpback.errors import UserError
from humpback.rules import (
    CHECKED,
    ENDPOINT,
    LANGUAGE,
    OPENED,
    SETS,
    SHARE,
    SOME_SHARE,
    Rule,
    above,
    anything,
    at_least,
    below,
    one_of,
    within,
)

DEVICE = "device"  # what a field says whose type follows the devices at hand
DTYPE = Rule(
    lambda value: value in ("float32", "bfloat16", DEVICE), f"float32, bfloat16, or {DEVICE}: bfloat16, but on a CPU what `cpu_dtype` says"
)
LORA_NAMES = ("q", "k", "v", "o", "gate", "up", "down")  # of the matrices that may have an adapter, in the order of model/weights.py
ADAPTED = Rule(lambda value: _lists_matrices(value), f"some of {','.join(LORA_NAMES)}, each once, comma-separated")
RUBRICS = ("sampled", "expected")  # how a judge rates by a rubric
LIKELIHOOD, BACKWARD = "likelihood", "backward"
MODES = (
    *RUBRICS, LIKELIHOOD, f"{LIKELIHOOD}+{BACKWARD}", *(f"{rubric}+{LIKELIHOOD}" for rubric in RUBRICS),
    *(f"{rubric}+{LIKELIHOOD}+{BACKWARD}" for rubric in RUBRICS),
)  # fmt: skip
FOUND = 0  # what a field says that the run finds for itself, on the devices at hand
AXIS = Rule(lambda value: value >= -1, f"at least 1, -1 for what is left over, or {FOUND}: found for the devices at hand")
FOUND_REMAT = "found"
# Dropout numbers the tokens of a step in 31 bits, of which an example has 20.
MOST_EXAMPLES, MOST_TOKENS = 2_047, 1 << 20


def found_or_at_least(low: int) -> Rule:
    """Allows whole numbers from `low` on, and FOUND."""
    return Rule(lambda value: value == FOUND or value >= low, f"at least {low}, or {FOUND}: found for the devices at hand")


def _lists_matrices(given: str) -> bool:
    names = given.split(",")
    return set(names) <= set(LORA_NAMES) and len(set(names)) == len(names)


def setting(default: Any, rule: Rule, reason: str, *, recorded: bool = False) -> Any:
    """Declares a field: what it is when nobody sets it, what it may be, and what it is for, with the reason for the default.

    recorded: it cannot change a result beyond rounding, so that a manifest records it and does not compare it.
    """
    return dataclasses.field(default=default, metadata={"rule": rule, "reason": reason, "recorded": recorded})


def part(kind: type["Node"], reason: str) -> Any:
    """Declares a field of the tree that has fields of its own."""
    return dataclasses.field(default_factory=kind, metadata={"reason": reason})


@dataclass
class Node:
    """A part of the config; after `finish` an assignment raises. TypeError for a part with a field that is no `setting` or `part`."""

    def __init_subclass__(cls) -> None:
        for name in inspect.get_annotations(cls):
            item = cls.__dict__.get(name)
            if not isinstance(item, dataclasses.Field) or not item.metadata.get("reason"):
                raise TypeError(f"{cls.__name__}.{name} has no rule or no reason; declare it as setting(default, rule, reason)")

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_frozen"):
            raise AttributeError(f"the config is frozen; {type(self).__name__}.{name} can only be set before config.finish")
        super().__setattr__(name, value)


@dataclass
class Base(Node):
    """The base model, M."""

    source: str = setting("", OPENED, "GGUF file, Hugging Face folder, model folder of a run, or package:NAME/GLOB")
    sha256: str = setting("", CHECKED, "of a single-file source; checked when given")
    architecture: str = setting("", CHECKED, "a name of model/sizes.py that the weights must have; empty: what comes is taken")


@dataclass
class Segments(Node):
    """Web pages to segments (appendix E; the measures of repetition are ours, the paper names none)."""

    input: str = setting(
        "", OPENED, "files of HTML, WARC, WET, JSONL, Parquet, Markdown and text, folders, lists of WARC files (.paths), comma-separated"
    )
    html_key: str = setting("", CHECKED, "of a record: what holds its HTML, a.b within a; empty: the usual names, unless text_key is set")
    text_key: str = setting("", CHECKED, "of a record: what holds its text; empty: the usual names, unless html_key is set")
    url_key: str = setting("", CHECKED, "of a record: what holds its address; empty: the usual names")
    without_headers: str = setting(
        "auto", one_of("auto", "drop", "whole"), "a page without headers; auto: a text is one whole document, HTML and Markdown are dropped"
    )
    emails: str = setting("keep", one_of("keep", "drop"), "texts with e-mail addresses, which are counted")
    language: str = setting("en", LANGUAGE, "ISO 639-1; pages that declare another are dropped, and texts by min_language_share")
    min_language_share: float = setting(0.95, SHARE, "of the words that must be of the language, by CLD2; texts with less are dropped")
    min_chars: int = setting(600, at_least(1), "the paper's: shorter texts are dropped")
    max_chars: int = setting(3_000, anything("min_chars is below it"), "the paper's: of longer texts the parts that fit are kept")
    navigation: str = setting(
        "", anything("any phrase"), "phrases that make a header navigation, comma-separated, beside those of corpus/wordlists.py"
    )
    max_link_share: float = setting(0.4, SHARE, "of the characters: in links")
    max_list_share: float = setting(0.7, SHARE, "of the characters: table rows, and list items of at most short_item")
    short_item: int = setting(80, at_least(0), "characters of a list item that counts for max_list_share")
    max_fragment_share: float = setting(0.2, SHARE, "of the characters: lines of no list that end in no punctuation, sub-headers too")
    max_symbol_share: float = setting(0.22, SHARE, "of the characters outside of code")
    max_digit_share: float = setting(0.12, SHARE, "of the characters outside of code")
    max_code_share: float = setting(0.7, SHARE, "of the characters: code blocks")
    min_words: int = setting(40, at_least(0), "outside of code")
    min_stop_word_share: float = setting(0.2, SHARE, "of the words; English prose has 0.3 to 0.5, a list of names 0 to 0.15")
    marks: int = setting(3, at_least(1), "of a forum, a shop (twice as many), a legal notice in a thousand characters")
    repeat_ngram: int = setting(3, at_least(1), "words")
    repeat_jaccard: float = setting(0.5, SHARE, "between any two sentences of at least repeat_min_words")
    repeat_min_words: int = setting(5, at_least(1), "of a sentence that is compared")
    near_jaccard: float = setting(0.8, SOME_SHARE, "word 5-grams in common that make two segments near-duplicates")
    contamination: str = setting(
        "", OPENED, "files of evaluation prompts, comma-separated: a segment that shares 13 words in a row with one is dropped"
    )
    page_seconds: float = setting(10.0, at_least(0.1), "a page that takes longer is dropped")
    page_megabytes: int = setting(2_000, at_least(100), "a page that takes more memory is dropped")
    limit: int = setting(0, at_least(0), "the first by id; 0 keeps all")


@dataclass
class Seed(Node):
    """The human pairs."""

    source: str = setting("", OPENED, "a file or folder of pairs in any form that docs/training.md lists, or tfds:NAME[:SPLIT]")
    single_reply: str = setting("drop", one_of("drop", "reviewed"), "`reviewed` also keeps a reviewed only reply, whose rank is null")
    language: str = setting("en", LANGUAGE, "the paper's; messages of an export that are in another are dropped")
    limit: int = setting(0, at_least(0), "training pairs, drawn by their texts; 0 keeps all")
    held_out_source: str = setting("", OPENED, "the pairs that measure every model; empty: they are taken from `source`")
    held_out: int = setting(0, at_least(0), "how many are held out, drawn by their texts; 0 with a held_out_source takes all of it")
    dev_source: str = setting("", OPENED, "pairs that choose the checkpoint (dev_every); the held-out ones never do")
    contamination: str = setting(
        "", OPENED, "files of evaluation prompts, comma-separated: a pair of `source` that holds one neither trains nor is held out"
    )


@dataclass
class Evaluation(Node):
    """What every model is measured on, beside seed_pairs.held_out."""

    sets: str = setting(
        "", SETS, "more held-out pairs, NAME=SOURCE, comma-separated, each source as seed_pairs.source; their instructions do not train"
    )


@dataclass
class Finetune(Node):
    """One training from the base (section 3.1)."""

    length: int = setting(
        2_048, within(8, MOST_TOKENS), "tokens of an example, and of the longest rows; they are shorter where that leaves fewer places idle"
    )
    batch: int = setting(0, within(0, MOST_EXAMPLES), "examples in a step; 0 takes the paper's table by number of examples")
    steps: int = setting(0, at_least(0), "updates; 0 takes the epochs, or the paper's table by number of examples")
    epochs: float = setting(0.0, at_least(0), "how often each example is seen, in place of steps; 0 takes the paper's table")
    lr: float = setting(1e-5, at_least(0), "the paper's, at the first step; linearly to end_lr")
    end_lr: float = setting(9e-6, at_least(0), "the paper's, at the last step, exactly")
    weight_decay: float = setting(0.1, at_least(0), "the paper's; of the matrices, not the norms")
    beta1: float = setting(0.9, below(0, 1), "the paper is silent on the betas, epsilon and the clip: LLaMA's")
    beta2: float = setting(0.95, below(0, 1), "LLaMA's, see beta1")
    eps: float = setting(1e-8, above(0), "LLaMA's, see beta1")
    clip: float = setting(1.0, at_least(0), "of the gradient's norm; LLaMA's, see beta1. 0: never")
    dropout: float = setting(0.1, within(0, 0.99), "the paper's; on the residual branches")
    lora_rank: int = setting(0, at_least(0), "of the adapters, which train in place of the matrices; 0: all weights train, as the paper's")
    lora_alpha: float = setting(0.0, at_least(0), "what an adapter adds is times alpha / rank; 0: twice the rank, as one rate fits all")
    lora_names: str = setting(",".join(LORA_NAMES), ADAPTED, "the matrices that have one; all of them learn most, the attention's least")
    lora_base: str = setting(
        "bfloat16", one_of("float32", "bfloat16", "int8"), "the type in which the frozen weights lie; `int8` needs the extra `int8`"
    )
    lora_dropout: float = setting(0.0, below(0, 1), "on what goes into an adapter, beside `dropout`; the paper has no adapters")
    compute_dtype: str = setting(
        "bfloat16", DTYPE, "of the products' operands; weights, moments and sums are float32, on a CPU all between, too"
    )
    remat: str = setting(
        FOUND_REMAT,
        one_of(FOUND_REMAT, "none", "dots", "full"),
        "`dots` or `full` saves memory for time; found: the least that fits on TPUs, none elsewhere",
        recorded=True,
    )
    tokens_at_once: int = setting(
        FOUND,
        at_least(0),
        "on a device; what a step has more goes through the model afterwards, gradients are added. 0: all, on TPUs as many as fit",
        recorded=True,
    )
    spike: float = setting(10.0, at_least(0), "a gradient norm of so many medians of the steps before is logged; 0 never")
    skip_spikes: bool = setting(False, anything("on or off"), "and such a step changes no weight")
    dev_every: int = setting(
        0, at_least(0), "steps between two looks at the dev set (seed_pairs.dev_source); the best checkpoint is taken. 0: never"
    )
    checkpoint_every: int = setting(
        FOUND,
        at_least(0),
        "steps between saves of a training in progress; 0: on TPUs as many as take 3 minutes by the estimate, or more if a save takes long;"
        " elsewhere 100",
        recorded=True,
    )
    checkpoint_keep: int = setting(2, at_least(1), "the last so many are kept while it goes on", recorded=True)
    checkpoint_keep_every: int = setting(
        0, at_least(0), "so is each at a multiple of this, and then all that is there stays when it is done. 0: none", recorded=True
    )


@dataclass
class Augment(Node):
    """The backward model writes one instruction per segment (section 2.1)."""

    temperature: float = setting(0.7, at_least(0), "the paper's")
    top_p: float = setting(0.9, SOME_SHARE, "the paper's")
    candidates: int = setting(1, at_least(1), "instructions for each segment, of which the best by the score counts; the paper's is one")
    echo_words: int = setting(8, at_least(0), "in a row, of the segment or the request: so many make an echo, which is not rated; 0: never")
    max_new_tokens: int = setting(256, at_least(1), "the paper is silent; its candidates are 352 ± 134 characters")


@dataclass
class Curate(Node):
    """The forward model rates the candidates, the best are kept (section 2.2)."""

    mode: str = setting(
        "sampled", one_of(*MODES), "the score: by a rubric (`expected` reads the digits' probabilities), the likelihood, or their mean rank"
    )
    beside: str = setting("", one_of("", "expected", "likelihood"), "a further score that chooses nothing, for the report")
    samples: int = setting(1, at_least(1), "ratings of a candidate, whose mean counts")
    temperature: float = setting(0.7, at_least(0), "the paper is silent on ratings: the candidates'")
    top_p: float = setting(0.9, SOME_SHARE, "the candidates', see temperature")
    max_new_tokens: int = setting(256, at_least(1), "of a rating: a brief reasoning and the line with the score")
    rubric_file: str = setting("", OPENED, "another rubric's text; empty: prompts.RUBRIC")
    judge: str = setting("", ENDPOINT, "who rates: empty, M_{t-1}, the paper's; or an OpenAI-compatible endpoint, https://HOST/v1")
    judge_model: str = setting("", CHECKED, "the endpoint's name of the model that rates")
    select: str = setting("threshold", one_of("threshold", "top_fraction"), "or `top_fraction`, for judges that are not calibrated")
    threshold: float = setting(4.5, within(1, 5), "A_5; 4.0 is A_4")
    fraction: float = setting(0.0833, SOME_SHARE, "41,821 of 502,133, the paper's own")


@dataclass
class Rewrite(Node):
    """A model rewrites the curated responses (not the paper's: arXiv 2408.04614)."""

    by: str = setting(
        "", one_of("", "base", "forward"), "who rewrites: M, where it is a chat model, or M_{t-1}; empty: nobody, the paper's"
    )
    temperature: float = setting(0.7, at_least(0), "the candidates'")
    top_p: float = setting(0.9, SOME_SHARE, "the candidates', see temperature")
    max_new_tokens: int = setting(1_024, at_least(1), "more than the longest segment's; a rewriting that does not end is dropped")


@dataclass
class Answers(Node):
    """The same held-out prompts, answered by M, M_0, M_1, …, for people to read (not the paper's)."""

    prompts: int = setting(0, within(0, 50), "that all models answer, drawn by chance; 0: none, as each model is loaded once more for them")
    temperature: float = setting(0.7, at_least(0), "the paper's of its answers, as the candidates'")
    top_p: float = setting(0.9, SHARE, "the paper's, see temperature")
    max_new_tokens: int = setting(256, at_least(1), "of an answer; what does not end by then is shown as cut")


@dataclass
class Decoding(Node):
    """How a model writes and rates; the first three fields are part of the result, the others only of the speed."""

    length: int = setting(2_048, at_least(16), "prompt and new tokens together")
    compute_dtype: str = setting("bfloat16", DTYPE, "of the products, which are summed up in float32; for a CPU see `cpu_dtype`")
    weights: str = setting(
        "compute", one_of("compute", "int8"), "in the compute type; `int8` takes a quarter of float32, costs little, needs the extra `int8`"
    )
    tensor: int = setting(
        FOUND, found_or_at_least(1), "devices that share a matrix; where no TPU is, as many as in training, mesh.tensor", recorded=True
    )
    processes_per_replica: int = setting(
        FOUND, found_or_at_least(1), "so many whole processes hold a model together; the others work on other records", recorded=True
    )
    slots: int = setting(FOUND, found_or_at_least(4), "sequences decoded at once, on all devices of a replica together", recorded=True)
    classes: int = setting(
        FOUND, found_or_at_least(1), "lengths of rows at most, each with the slots that fill the same memory: 4 on TPUs, 1 on a CPU, which "
        "reads of a cache what is filled", recorded=True,
    )
    steps_per_visit: int = setting(8, at_least(1), "decode steps between two looks of the host, at most", recorded=True)
    prefill_tokens: int = setting(
        FOUND, found_or_at_least(64), "prompt tokens read at once: enough for full speed, few enough to keep the slots busy", recorded=True
    )
    publish_seconds: float = setting(
        10.0, at_least(0), "finished records are on disk after so long, or a visit of the host: what a kill costs", recorded=True
    )


@dataclass
class Mesh(Node):
    """How many devices share what in training. Nothing given: what is soonest done on TPUs; elsewhere, and beside what is given, 1, -1
    and 1, or three times 1 beside a -1."""

    data: int = setting(FOUND, AXIS, "copies of the model, which share the rows of a batch", recorded=True)
    fsdp: int = setting(FOUND, AXIS, "devices that share the rows and the weights", recorded=True)
    tensor: int = setting(FOUND, AXIS, "devices that share heads and the feed-forward width", recorded=True)


@dataclass
class Config(Node):
    """One experiment."""

    seed: int = setting(0, within(0, 2**32 - 1), "the root of every random draw")
    iterations: int = setting(2, at_least(1), "the paper's: M_2 is the result")
    wrapper: str = setting("inst", one_of(*prompts.WRAPPERS), "the chat wrapper, a name of prompts.WRAPPERS")
    base: Base = part(Base, "M")
    segments: Segments = part(Segments, "the texts that instructions are written for")
    seed_pairs: Seed = part(Seed, "the human pairs")
    evaluation: Evaluation = part(Evaluation, "what models are measured on")
    backward: Finetune = part(Finetune, "M_yx")
    forward_seed: Finetune = part(Finetune, "M_0")
    forward: Finetune = part(Finetune, "M_1, M_2, …")
    augment: Augment = part(Augment, "the candidates")
    curate: Curate = part(Curate, "what is kept of them")
    rewrite: Rewrite = part(Rewrite, "what becomes of their responses")
    answers: Answers = part(Answers, "what people read of all models")
    decoding: Decoding = part(Decoding, "how models write and rate")
    mesh: Mesh = part(Mesh, "the devices")


def rubric_of(mode: str) -> str:
    """How a mode of curation rates by the rubric, one of RUBRICS; "" when it does not."""
    return next((part for part in mode.split("+") if part in RUBRICS), "")


# What decoding takes where nothing else was found: of a CPU, in whose memory there is room; 512 tokens are enough for its full speed.
ANYWHERE = {"tensor": 1, "processes_per_replica": 1, "slots": 32, "prefill_tokens": 512}


def settled(decoding: Decoding) -> Decoding:
    """Puts ANYWHERE's values where a field still says FOUND."""
    found: dict[str, Any] = {name: value for name, value in ANYWHERE.items() if getattr(decoding, name) == FOUND}
    return dataclasses.replace(decoding, **found)


def is_given(mesh: Mesh) -> bool:
    """Tells whether the mesh is not to be found."""
    return any(size != FOUND for _, size in leaves(mesh))


def settled_mesh(mesh: Mesh) -> Mesh:
    """Puts what it is where nothing is found in place of FOUND: one copy, all devices that no other axis takes share the weights."""
    left = 1 if -1 in (mesh.data, mesh.tensor) else -1
    return Mesh(data=mesh.data or 1, fsdp=mesh.fsdp or left, tensor=mesh.tensor or 1)


def settled_remat(remat: str) -> str:
    """Puts none in place of FOUND_REMAT."""
    return "none" if remat == FOUND_REMAT else remat


def cpu_dtype() -> str:
    """Chooses the compute type for the CPU that reads a config: "bfloat16" where it has instructions for such products, which take half of
    float32's time, otherwise "float32": a training step of the demo takes 27 s in it and 31 s in bfloat16 on an AMD EPYC without them.
    """
    try:
        cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(cpuinfo.split()) else "float32"


def device_dtype(platform: str) -> str:
    """Chooses the compute type for the devices that JAX calls so: bfloat16, but of a CPU its own."""
    return cpu_dtype() if platform == "cpu" else "bfloat16"


def fields(node: Node, prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]", Any]]:
    """Yields ("augment.top_p", its dataclass field, its value) for every field of the tree; the metadata are `setting`'s."""
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if isinstance(value, Node):
            yield from fields(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, item, value


def leaves(node: Node) -> Iterator[tuple[str, Any]]:
    """Yields ("augment.top_p", value) for every field of the tree."""
    yield from ((name, value) for name, _, value in fields(node))


def recorded(kind: type[Node]) -> frozenset[str]:
    """Names the fields of a part that cannot change a result beyond rounding."""
    return frozenset(item.name for item in dataclasses.fields(kind) if item.metadata.get("recorded"))


_RECORDED = frozenset(name for name, item, _ in fields(Config()) if item.metadata["recorded"])


def compared(name: str) -> bool:
    """Tells whether a change of this field makes another result. The others are recorded in a manifest, not compared."""
    return name not in _RECORDED


def finish(config: Config, platform: str = "tpu") -> Config:
    """Validates a config and returns its frozen copy. UserError names the field, its value and what is allowed.

    platform: JAX's name of the devices that it is for, whose type DEVICE stands for.
    """
    config = copy.deepcopy(config)
    defaults = dict(leaves(Config()))
    for name, value in list(leaves(config)):
        expected = type(defaults[name])
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
            _set(config, name, value)
        if type(value) is not expected:
            raise UserError(f"config field {name}: {value!r} is not of type {expected.__name__}")
        if expected is float and not math.isfinite(value):
            raise UserError(f"config field {name}: {value!r} is not allowed; it must be a finite number")
    for name, item, value in list(fields(config)):
        rule: Rule = item.metadata["rule"]
        if not rule.allows(value):
            raise UserError(f"config field {name}: {value!r} is not allowed; it must be {rule.text}")
        if item.metadata["rule"] is DTYPE and value == DEVICE:
            _set(config, name, device_dtype(platform))
    _check_together(config)
    credentials.refuse({f"config field {name}": value for name, value in leaves(config)})
    _freeze(config)
    return config


def unknown_field(name: str) -> str:
    """Says what is wrong with the name of a field that is none, with the nearest that is one; "" for a field, or a part of the tree."""
    known = [known for known, _ in leaves(Config())]
    if any(field == name or field.startswith(f"{name}.") for field in known):
        return ""
    # The last part, such as `topp`, is what somebody has misspelt more often than the path to it.
    last = difflib.get_close_matches(name.rpartition(".")[2], {field.rpartition(".")[2] for field in known}, 1)
    near = difflib.get_close_matches(name, [field for field in known if not last or field.endswith(last[0])], 1, 0.4)
    return f"there is no config field {name!r}" + (f"; did you mean {near[0]}?" if near else "")


def _check_together(config: Config) -> None:
    """Validates what one field asks of another. UserError as `finish`."""
    if config.segments.min_chars > config.segments.max_chars:
        raise UserError(f"config field segments.min_chars: {config.segments.min_chars} is above max_chars {config.segments.max_chars}")
    for task in ("backward", "forward_seed", "forward"):
        if getattr(config, task).dev_every and not config.seed_pairs.dev_source:
            raise UserError(f"config field {task}.dev_every: {getattr(config, task).dev_every} needs seed_pairs.dev_source, a dev set")
    curate = config.curate
    if curate.select == "threshold" and curate.mode not in RUBRICS:
        raise UserError(f"config field curate.mode: {curate.mode!r} has no five levels for a threshold; set curate.select='top_fraction'")
    if curate.beside and (rubric_of(curate.beside) if rubric_of(curate.mode) else curate.beside in curate.mode):
        raise UserError(f"config field curate.beside: {curate.beside!r} is not another score than curate.mode={curate.mode!r} has")
    if curate.judge and (curate.mode != "sampled" or curate.beside or not curate.judge_model):
        raise UserError(
            f"config field curate.judge: {curate.judge!r} gives texts alone; set curate.mode='sampled', curate.beside='' and "
            "curate.judge_model, the endpoint's name of the model"
        )
    for task in ("backward", "forward_seed", "forward"):
        ft: Finetune = getattr(config, task)
        if ft.steps and ft.epochs:
            raise UserError(f"config field {task}.epochs: {ft.epochs:g} and {task}.steps={ft.steps} say different things; set one to 0")
    if len(left := [f"mesh.{name}" for name, size in leaves(config.mesh) if size == -1]) > 1:
        raise UserError(f"config field {left[0]}: -1 is what is left over, and {left[1]} is -1, too; only one of them can be")
    asked = {"augment": True, "curate": True, "rewrite": config.rewrite.by, "answers": config.answers.prompts}
    for name in (name for name, wanted in asked.items() if wanted):
        new, length = getattr(config, name).max_new_tokens, config.decoding.length
        if new >= length:
            raise UserError(f"config field {name}.max_new_tokens: {new} leaves no room for a prompt in decoding.length = {length}")


def _set(node: Any, name: str, value: Any) -> None:
    *path, last = name.split(".")
    for parent in path:
        node = getattr(node, parent)
    setattr(node, last, value)


def _freeze(node: Node) -> None:
    for item in dataclasses.fields(node):
        if isinstance(value := getattr(node, item.name), Node):
            _freeze(value)
    node.__dict__["_frozen"] = True


def to_json(config: Config) -> str:
    """Writes the whole config as JSON, for the record."""
    return json.dumps(dict(leaves(config)), indent=2, sort_keys=True)
