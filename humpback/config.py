"""The typed config tree. Every default lives here once, with its reason; `configs/*.py` change fields, flags change them again.

A config is a tree of plain dataclasses, mutable while flags are applied; `finish` validates it and returns the frozen copy that
everything else sees. Values without a reason beside them are the paper's (sections 2 and 3.1, appendix E).
"""

import copy
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from humpback import prompts
from humpback.errors import UserError


@dataclass
class Node:
    """A part of the config; after `finish` an assignment raises."""

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_frozen"):
            raise AttributeError(f"the config is frozen; {type(self).__name__}.{name} can only be set before config.finish")
        super().__setattr__(name, value)


@dataclass
class Base(Node):
    """The base model, M."""

    source: str = ""  # GGUF file, Hugging Face folder, model folder of a run, or package:NAME/GLOB
    sha256: str = ""  # of a single-file source; checked when given
    architecture: str = ""  # a name of model/sizes.py that the weights must have; "" takes what comes


@dataclass
class Segments(Node):
    """Web pages to segments (appendix E; the measures of repetition are ours, the paper names none)."""

    input: str = ""  # WARC, HTML and JSONL files, folders of them, lists of their paths (.paths), comma-separated
    language: str = "en"  # ISO 639-1; pages that declare another are dropped, and texts where it is found in less than …
    min_language_share: float = 0.95  # … this share of the words, by CLD2
    min_chars: int = 600
    max_chars: int = 3_000
    navigation: str = ""  # more phrases that make a header navigation, comma-separated; corpus/wordlists.py has those of seven languages
    max_link_share: float = 0.4  # of the characters
    max_list_share: float = 0.7  # of the characters: table rows, and list items of at most …
    short_item: int = 80  # … so many characters
    max_fragment_share: float = 0.2  # of the characters: lines of no list that end in no punctuation, sub-headers too
    max_symbol_share: float = 0.22  # of the characters outside of code
    max_digit_share: float = 0.12  # of the characters outside of code
    max_code_share: float = 0.7  # of the characters: code blocks
    min_words: int = 40  # outside of code
    min_stop_word_share: float = 0.2  # of them; English prose has 0.3 to 0.5, a list of names 0 to 0.15
    marks: int = 3  # of a forum, a shop (twice as many), a legal notice in a thousand characters
    repeat_ngram: int = 3  # words
    repeat_jaccard: float = 0.5  # between any two sentences of at least repeat_min_words
    repeat_min_words: int = 5
    near_jaccard: float = 0.8  # word 5-grams in common that make two segments near-duplicates
    contamination: str = ""  # files of evaluation prompts, comma-separated: a segment that shares 13 words in a row with one is dropped
    page_seconds: float = 10.0  # a page that takes longer is dropped …
    page_megabytes: int = 2_000  # … and one that takes more memory
    limit: int = 0  # the first by id; 0 keeps all


@dataclass
class Seed(Node):
    """The human pairs."""

    source: str = ""  # Open Assistant export, JSONL of {"instruction", "response"}, or tfds:NAME[:SPLIT]
    single_reply: str = "drop"  # `reviewed` also keeps a reviewed only reply, whose rank is null
    limit: int = 0  # training pairs, the first by id; 0 keeps all
    held_out_source: str = ""  # the pairs that measure every model; "" takes them from `source`
    held_out: int = 0  # how many are held out, the first by id; 0 with a held_out_source takes all of it
    dev_source: str = ""  # pairs that choose the checkpoint (dev_every); the held-out ones never do


@dataclass
class Finetune(Node):
    """One training from the base (section 3.1)."""

    length: int = 2_048  # tokens of an example, and of the longest rows: shorter rows (512, 1,024) are taken where few are filled
    batch: int = 0  # examples in a step; 0 takes the paper's table by number of examples
    steps: int = 0  # likewise
    lr: float = 1e-5
    end_lr: float = 9e-6  # at the last step, exactly
    weight_decay: float = 0.1
    beta1: float = 0.9  # the paper is silent on the betas, epsilon and the clip: LLaMA's
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    dropout: float = 0.1  # on the residual branches
    compute_dtype: str = "bfloat16"  # of the products' operands; weights, moments and sums are float32, on a CPU all between, too
    remat: str = "none"  # `dots` or `full` saves memory for time
    tokens_at_once: int = 0  # on a device; what a step has more goes through the model afterwards, gradients are added. 0: all
    spike: float = 10.0  # a gradient norm of so many medians of the steps before is logged; 0 never
    skip_spikes: bool = False  # and such a step changes no weight
    dev_every: int = 0  # steps between two looks at the dev set (seed_pairs.dev_source); the best checkpoint is taken. 0: never
    checkpoint_every: int = 100  # steps between saves of a training in progress
    checkpoint_keep: int = 2  # the last so many are kept while it goes on
    checkpoint_keep_every: int = 0  # and each whose step is a multiple of this; then all that is there stays when it is done. 0: none


@dataclass
class Augment(Node):
    """The backward model writes one instruction per segment (section 2.1)."""

    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 256  # the paper is silent; its candidates are 352 ± 134 characters


@dataclass
class Curate(Node):
    """The forward model rates the candidates, the best are kept (section 2.2)."""

    mode: str = "sampled"  # `expected` reads the five digits' probabilities instead of generating
    samples: int = 1
    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 256
    rubric_file: str = ""  # another rubric's text; "" takes prompts.RUBRIC
    select: str = "threshold"  # or `top_fraction`, for judges that are not calibrated
    threshold: float = 4.5  # A_5; 4.0 is A_4
    fraction: float = 0.0833  # 41,821 of 502,133, the paper's own


@dataclass
class Decoding(Node):
    """How a model writes and rates; the first three fields are part of the result, the others only of the speed."""

    length: int = 2_048  # prompt and new tokens together
    compute_dtype: str = "bfloat16"  # of the products, which are summed up in float32; for a CPU see `cpu_dtype`
    weights: str = "compute"  # in the compute type; `int8` takes a quarter of float32, costs little and needs the extra `int8`
    tensor: int = 0  # devices that share a matrix; 0: as many as in training, mesh.tensor
    processes_per_replica: int = 1  # so many whole processes hold a model together; the others work on other records
    slots: int = 32  # sequences decoded at once, on all devices of a replica together
    steps_per_visit: int = 8  # decode steps between two looks of the host, at most
    prefill_tokens: int = 512  # prompt tokens read at once: enough for full speed on a CPU, few enough to keep the slots busy
    publish_seconds: float = 10.0  # finished records are on disk after so long, or a visit of the host: what a kill costs


@dataclass
class Mesh(Node):
    """How many devices share what; -1 is what is left over."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1


@dataclass
class Config(Node):
    """One experiment."""

    seed: int = 0  # the root of every random draw
    iterations: int = 2
    wrapper: str = "inst"  # the chat wrapper, a name of prompts.WRAPPERS
    base: Base = field(default_factory=Base)
    segments: Segments = field(default_factory=Segments)
    seed_pairs: Seed = field(default_factory=Seed)
    backward: Finetune = field(default_factory=Finetune)  # M_yx
    forward_seed: Finetune = field(default_factory=Finetune)  # M_0
    forward: Finetune = field(default_factory=Finetune)  # M_1, M_2, …
    augment: Augment = field(default_factory=Augment)
    curate: Curate = field(default_factory=Curate)
    decoding: Decoding = field(default_factory=Decoding)
    mesh: Mesh = field(default_factory=Mesh)


def paper(architecture: str) -> Config:
    """The paper's run for a named size. The defaults above are the paper's; here stands what belongs to TPUs and to scale.

    Weights (`base.source`), corpus (`segments.input`) and the prepared seed dataset are the user's to bring.
    """
    config = Config()
    config.base.architecture = architecture
    config.seed_pairs.source = "tfds:oasst_seed"
    config.seed_pairs.limit = 3_200
    config.seed_pairs.held_out = 100  # ours: the paper holds out none of its seed
    for task in (config.backward, config.forward_seed, config.forward):
        task.remat = "full"
    config.decoding.slots = 128
    config.decoding.prefill_tokens = 4_096
    return config


# Fields that cannot change a result beyond rounding: recorded in a manifest, not compared.
RECORDED = ("mesh.", "decoding.slots", "decoding.steps_per_visit", "decoding.prefill_tokens", "decoding.tensor",
            "decoding.processes_per_replica", "decoding.publish_seconds", ".checkpoint_every", ".checkpoint_keep",
            ".checkpoint_keep_every", ".remat", ".tokens_at_once")  # fmt: skip


def cpu_dtype() -> str:
    """The compute type for the CPU that reads a config: "bfloat16" where it has instructions for such products, which take half of
    float32's time, otherwise "float32": a training step of the demo takes 27 s in it and 31 s in bfloat16 on an AMD EPYC without them.
    """
    try:
        told = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(told.split()) else "float32"


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("augment.top_p", value) for every field of the tree."""
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value


def compared(name: str) -> bool:
    """Whether a change of this field makes another result."""
    return not any(name.startswith(r) if r.endswith(".") else name.endswith(r) for r in RECORDED)


def finish(config: Config) -> Config:
    """Validates a config and returns its frozen copy. UserError names the field, its value and what is allowed."""
    config = copy.deepcopy(config)
    defaults = dict(leaves(Config()))
    for name, value in leaves(config):
        expected = type(defaults[name])
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
            _set(config, name, value)
        if type(value) is not expected:
            raise UserError(f"config field {name}: {value!r} is not of type {expected.__name__}")
    for name, allowed, text in _RULES:
        value = dict(leaves(config))[name]
        if not allowed(value):
            raise UserError(f"config field {name}: {value!r} is not allowed; it must be {text}")
    if config.segments.min_chars > config.segments.max_chars:
        raise UserError(f"config field segments.min_chars: {config.segments.min_chars} is above max_chars {config.segments.max_chars}")
    for task in ("backward", "forward_seed", "forward"):
        if getattr(config, task).dev_every and not config.seed_pairs.dev_source:
            raise UserError(f"config field {task}.dev_every: {getattr(config, task).dev_every} needs seed_pairs.dev_source, a dev set")
    for name in ("augment", "curate"):
        new, length = getattr(config, name).max_new_tokens, config.decoding.length
        if new >= length:
            raise UserError(f"config field {name}.max_new_tokens: {new} leaves no room for a prompt in decoding.length = {length}")
    _freeze(config)
    return config


def _set(node: Any, name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        node = getattr(node, part)
    setattr(node, last, value)


def _freeze(node: Node) -> None:
    for item in dataclasses.fields(node):
        if isinstance(value := getattr(node, item.name), Node):
            _freeze(value)
    node.__dict__["_frozen"] = True


def _one_of(*values: str) -> tuple[Any, str]:
    return (lambda v: v in values), "one of " + ", ".join(values)


def _at_least(low: float) -> tuple[Any, str]:
    return (lambda v: v >= low), f"at least {low:g}"


def _within(low: float, high: float) -> tuple[Any, str]:
    return (lambda v: low <= v <= high), f"from {low:g} to {high:g}"


def _language_code() -> tuple[Any, str]:
    return (lambda v: 2 <= len(v) <= 7 and v.replace("-", "").isalpha() and v == v.lower()), "a code of ISO 639-1, such as en"


_FINETUNE_RULES = {
    "length": _at_least(8), "batch": _at_least(0), "steps": _at_least(0), "lr": _at_least(0), "end_lr": _at_least(0),
    "weight_decay": _at_least(0), "beta1": _within(0, 1), "beta2": _within(0, 1), "eps": _at_least(0), "clip": _at_least(0),
    "dropout": _within(0, 0.99), "compute_dtype": _one_of("float32", "bfloat16"), "remat": _one_of("none", "dots", "full"),
    "tokens_at_once": _at_least(0), "spike": _at_least(0), "dev_every": _at_least(0), "checkpoint_every": _at_least(0),
    "checkpoint_keep": _at_least(1), "checkpoint_keep_every": _at_least(0),
}  # fmt: skip
_RULES = [
    ("iterations", *_at_least(1)),
    ("seed", *_within(0, 2**32 - 1)),
    ("wrapper", *_one_of(*prompts.WRAPPERS)),
    ("segments.min_chars", *_at_least(1)),
    ("segments.language", *_language_code()),
    *(
        (f"segments.{name}", *_within(0, 1))
        for name in ("min_language_share", "max_link_share", "max_list_share", "max_fragment_share", "max_symbol_share", "max_digit_share",
                     "min_stop_word_share", "near_jaccard")
    ),
    ("segments.short_item", *_at_least(0)),
    ("segments.min_words", *_at_least(0)),
    ("segments.marks", *_at_least(1)),
    ("segments.page_seconds", *_at_least(0.1)),
    ("segments.page_megabytes", *_at_least(100)),
    ("segments.repeat_ngram", *_at_least(1)),
    ("segments.repeat_jaccard", *_within(0, 1)),
    ("segments.repeat_min_words", *_at_least(1)),
    ("segments.limit", *_at_least(0)),
    ("seed_pairs.single_reply", *_one_of("drop", "reviewed")),
    ("seed_pairs.limit", *_at_least(0)),
    ("seed_pairs.held_out", *_at_least(0)),
    ("augment.temperature", *_at_least(0)),
    ("augment.top_p", *_within(0, 1)),
    ("augment.max_new_tokens", *_at_least(1)),
    ("curate.mode", *_one_of("sampled", "expected")),
    ("curate.samples", *_at_least(1)),
    ("curate.temperature", *_at_least(0)),
    ("curate.top_p", *_within(0, 1)),
    ("curate.max_new_tokens", *_at_least(1)),
    ("curate.select", *_one_of("threshold", "top_fraction")),
    ("curate.threshold", *_within(1, 5)),
    ("curate.fraction", *_within(0, 1)),
    ("decoding.length", *_at_least(16)),
    ("decoding.compute_dtype", *_one_of("float32", "bfloat16")),
    ("decoding.weights", *_one_of("compute", "int8")),
    ("decoding.tensor", *_at_least(0)),
    ("decoding.processes_per_replica", *_at_least(1)),
    ("decoding.slots", *_at_least(4)),
    ("decoding.steps_per_visit", *_at_least(1)),
    ("decoding.prefill_tokens", *_at_least(64)),
    ("decoding.publish_seconds", *_at_least(0)),
    *((f"{task}.{name}", *rule) for task in ("backward", "forward_seed", "forward") for name, rule in _FINETUNE_RULES.items()),
]


def to_json(config: Config) -> str:
    """The whole config as JSON, for the record."""
    return json.dumps(dict(leaves(config)), indent=2, sort_keys=True)
