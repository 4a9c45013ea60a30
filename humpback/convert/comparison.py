"""Whether two opened models are the same: their hyper-parameters, tokenizers, every tensor, and what they make of texts."""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from humpback import prompts, storage
from humpback.convert import export, tensor_ops, vocabulary
from humpback.convert.chat_template import PROBES, differing, rendered_probes, surrounding
from humpback.convert.huggingface import read_purpose
from humpback.convert.lazy_model import LazyParams
from humpback.convert.sources import Source
from humpback.errors import UserError
from humpback.model import llama
from humpback.model.modules import merge_outer
from humpback.model.weights import leaves
from humpback.tokens.tokenizer import CONFIG_FILE, JSON_FILE, MODEL_FILE, Tokenizer

TOP = 10  # of the likeliest next tokens


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one model makes of a text of T tokens: logits float32 [T, V], a greedy continuation, and by how much each of its tokens
    won over the second (empty where that is not known)."""

    logits: np.ndarray
    greedy: list[int]
    gaps: list[float]


def compare_configs(source: Source, target: Source) -> Iterator[str]:
    """A line for each hyper-parameter that differs."""
    theirs = dataclasses.asdict(target.config)
    named = {field.name for field in dataclasses.fields(source.config) if field.compare}  # what others call it is no difference
    for name, value in dataclasses.asdict(source.config).items():
        if name in named and theirs[name] != value:
            yield f"{name} is {value!r} in the source and {theirs[name]!r} in the target"


def compare_tokenizers(source: Tokenizer, target: Tokenizer, texts: Sequence[str]) -> Iterator[str]:
    """A line for each thing that the tokenizers do not agree on: ids of the end, the beginning and the filler, tokens that are special or
    added, and ids of texts, alone and behind the beginning."""
    for name in ("eos_id", "bos_id", "pad_id"):
        if (ours := getattr(source, name)) != (theirs := getattr(target, name)):
            yield f"the tokenizer's {name} is {ours} in the source and {theirs} in the target"
    for what in ("specials", "added"):
        ours, theirs = getattr(source, what), getattr(target, what)
        for text in sorted(text for text in ours.keys() | theirs.keys() if ours.get(text) != theirs.get(text)):
            kind = "special" if what == "specials" else "added"
            yield f"{kind} token {text!r} is {ours.get(text, 'none')} in the source and {theirs.get(text, 'none')} in the target"
    for text in (*PROBES, *texts):
        for encode in ("encode", "encode_alone"):
            yield from _apart(text, getattr(source, encode)(text), getattr(target, encode)(text), "the target")


def _apart(text: str, ours: list[int], theirs: list[int], whose: str) -> Iterator[str]:
    """A line when ids of a text differ."""
    if ours != theirs:
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        a, b = ours[at : at + 3], theirs[at : at + 3]
        yield f"the tokenizers differ from token {at} on: {text[:60]!r} is {a}… in the source and {b}… in {whose}"


def compare_chat(source: Source, target: Source) -> Iterator[str]:
    """A line for each thing in which two models are asked, or end, differently: chat template, ids of a rendered chat, ends, and what
    others' programs need to know of added tokens. A model folder of a run has the template that it would be exported with."""
    if _foreign_base(source, target) or _foreign_base(target, source):
        return
    ours, theirs = template(source), template(target)
    if ours != theirs:
        yield f"the chat templates differ: {_first_difference(ours, theirs)}"
    elif theirs != target.chat_template or target.direction != "base":
        for text in _chat_apart(source, target):
            yield f"the target gives a chat other ids than training had: {text[:80]!r}"
    one, other = (side.end_ids or export.end_ids(side, side.direction) for side in (source, target))
    if set(one) != set(other):
        yield f"a text ends at {sorted(one)} in the source and at {sorted(other)} in the target"
    if target.format == "huggingface":
        yield from _unlisted(target)


def _foreign_base(one: Source, other: Source) -> bool:
    """Whether one is a base in a run's form, which keeps no template, and the other is not an export of such a one."""
    kept = one.format == "checkpoint" and one.direction == "base"
    return kept and not (other.format == "checkpoint" or (other.format == "huggingface" and read_purpose(other.path)[1] is not None))


def template(model: Source) -> str:
    """The chat template that a model has, or is exported with where it has none."""
    return model.chat_template or export.template_of(model, model.wrapper, model.direction)


def _first_difference(a: str, b: str) -> str:
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"{a[at : at + 40]!r} in the source and {b[at : at + 40]!r} in the target, from character {at} on"


def _chat_apart(source: Source, target: Source) -> list[str]:
    """Rendered chats whose ids differ, by the tokenizers library alone, which has no part of ours."""
    file = os.path.join(target.path, JSON_FILE)
    if target.format != "huggingface" or not os.path.exists(file):
        return []
    rendered = rendered_probes(source.wrapper, source.direction, source.tokenizer)
    with open(file, "rb") as stream:
        return differing(stream.read(), rendered)


def _unlisted(target: Source) -> Iterator[str]:
    """Added tokens that tokenizer_config.json does not list beside a tokenizer.model, where llama.cpp's converter looks for them."""
    if not os.path.exists(os.path.join(target.path, MODEL_FILE)):
        return
    config = storage.read_json(os.path.join(target.path, CONFIG_FILE)) if os.path.exists(os.path.join(target.path, CONFIG_FILE)) else {}
    listed = {int(number) for number in config.get("added_tokens_decoder", {})}
    with open(os.path.join(target.path, MODEL_FILE), "rb") as stream:
        there = vocabulary.pieces(stream.read())
    missing = sorted(text for text, number in target.tokenizer.specials.items() if number not in listed and there.get(text) != number)
    if there and missing:
        yield f"{CONFIG_FILE} does not list {', '.join(missing[:4])} ({len(missing)} in all): llama.cpp makes other tokens of them"


def compare_auto(source: Source, target: Source, texts: Sequence[str]) -> Iterator[str]:
    """A line for each text whose ids transformers' own AutoTokenizer gives otherwise: alone, and as a rendered chat."""
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(target.path)
    for text in (*PROBES, *texts):
        if all(isinstance(piece, str) for piece in source.tokenizer.split(text)):
            yield from _apart(text, source.tokenizer.encode(text), theirs(text, add_special_tokens=False)["input_ids"], "transformers")
    if theirs.chat_template and template(source) == export.own_template(source.wrapper, source.direction, source.tokenizer):
        wrapper, around = prompts.WRAPPERS[source.wrapper], surrounding(source.direction)
        ours = source.tokenizer.encode_wrapped(wrapper.prefix, around.head + PROBES[0] + around.tail, wrapper.suffix)
        ids = theirs.apply_chat_template([{"role": "user", "content": PROBES[0]}], add_generation_prompt=True)
        yield from _apart(f"chat: {PROBES[0]}", ours, list(ids if isinstance(ids, list) else ids["input_ids"]), "transformers")


def compare_tensors(source: Source, target: Source, look: Callable[[str], None] = lambda name: None) -> Iterator[str]:
    """A line for each tensor that is not the same, bit for bit; of two types the wider one is rounded to the other first.

    look: is told of each tensor when it has been compared.
    """
    for path, _ in leaves(source.config):
        name = "/".join(path)
        a, b = source.read(path), target.read(path)
        narrow = min((a, b), key=lambda array: (array.itemsize, ml_dtypes.finfo(array.dtype).max)).dtype
        try:
            a, b = (tensor_ops.cast(array, str(narrow), name, side.path) for array, side in ((a, source), (b, target)))
        except UserError:  # a number too large for the narrower type is none of its numbers
            yield f"tensor {name}: {a.dtype} in the source, {b.dtype} in the target; {narrow} cannot hold the other's largest numbers"
        else:
            if not tensor_ops.same_numbers(np.ascontiguousarray(a), np.ascontiguousarray(b)):
                yield _difference(name, a, b)
        look(name)


def _difference(name: str, a: np.ndarray, b: np.ndarray) -> str:
    apart, count, largest, step = 0.0, 0, 0.0, 1 << 20
    x, y = a.reshape(-1), b.reshape(-1)
    for start in range(0, x.size, step):
        p, q = (part[start : start + step].astype(np.float32) for part in (x, y))
        apart, largest = max(apart, float(np.abs(p - q).max())), max(largest, float(np.abs(p).max()))
        count += int((p != q).sum())
    return f"tensor {name}: {count} of {x.size} numbers differ, by up to {apart:.3g} (the source's largest is {largest:.3g})"


def run_here(model: Source, texts: Sequence[Sequence[int]], tokens: int) -> list[Outcome]:
    """Texts through this project's own model, in float32. Takes twice the memory of the weights for a moment."""
    cfg = model.config
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), model.params())
    length = max(map(len, texts)) + tokens
    forward = jax.jit(functools.partial(llama.forward, cfg))
    stacked = llama.stack_layers(params)
    logits = []
    for ids in texts:  # filled up behind to one length, so that one program serves all
        row = np.zeros((1, length), np.int32)
        row[0, : len(ids)] = ids
        logits.append(np.asarray(forward(stacked, row, np.arange(length)[None]))[0, : len(ids)])
    del stacked
    greedy = _greedy(cfg, llama.decoding_params(cfg, params), texts, length, tokens, model.tokenizer.eos_id)
    return [Outcome(found, *rest) for found, rest in zip(logits, greedy, strict=True)]


def _greedy(
    cfg: llama.LlamaConfig, params: llama.Params, texts: Sequence[Sequence[int]], length: int, tokens: int, eos: int
) -> Iterator[tuple[list[int], list[float]]]:
    prefill = jax.jit(functools.partial(llama.prefill, cfg))
    step = jax.jit(functools.partial(llama.decode_step, cfg), donate_argnums=1)
    for ids in texts:
        row = np.zeros((1, length), np.int32)
        row[0, : len(ids)] = ids
        logits, cache = prefill(params, row, np.array([len(ids)], np.int32))
        said: list[int] = []
        gaps: list[float] = []
        while len(said) < tokens and eos not in said:
            second, first = np.partition(np.asarray(logits[0]), -2)[-2:]
            said.append(int(logits[0].argmax()))
            gaps.append(float(first - second))
            at = np.array([len(ids) + len(said) - 1], np.int32)
            logits, cache = step(params, cache, np.array(said[-1:], np.int32), at)
        yield said, gaps


def rounding(exact: Source, rounded: Source) -> tuple[float, float]:
    """(largest |Δ logit|, mean KL divergence in nats) of the same model's weights before and after they were rounded, on PROBES.

    In float32; beside what stands outside the layers no more than one of these is in memory.
    """
    texts = [ids for text in PROBES if (ids := exact.tokenizer.encode_alone(text)[: exact.config.max_positions])]
    before, after = _logits_by_layer(exact, texts), _logits_by_layer(rounded, texts)
    found = [compare_outcomes(Outcome(a, [], []), Outcome(b, [], []), 0.0) for a, b in zip(before, after, strict=True)]
    kl = np.average([each.kl[0] for each in found], weights=[len(ids) for ids in texts])
    return max(each.apart for each in found), float(kl)


def _logits_by_layer(model: Source, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Logits float32 [T, V] of each text."""
    cfg, params = model.config, LazyParams(model)

    def turned(weights: Mapping[str, Any]) -> dict[str, Any]:
        return llama.decoding_params(cfg, {name: jnp.asarray(array, jnp.float32) for name, array in weights.items()})

    class Layers:
        def __getitem__(self, layer: str) -> dict[str, Any]:
            return turned(params["layers"][layer])

    rows = np.zeros((len(texts), max(map(len, texts))), np.int32)
    for row, ids in zip(rows, texts, strict=True):
        row[: len(ids)] = ids
    tree = {**turned({name: params[name] for name in params if name != "layers"}), "layers": Layers()}
    x_BTD, _ = llama.read(cfg, tree, jnp.asarray(rows), None, None, llama.FLOAT32)
    outer = merge_outer(cfg, tree)
    return [np.asarray(outer.logits(outer.norm(x_TD[: len(ids)]), turned=True)) for x_TD, ids in zip(x_BTD, texts, strict=True)]


def has_transformers() -> bool:
    """Whether a Hugging Face folder can be run by transformers here."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def run_transformers(model: Source, texts: Sequence[Sequence[int]], tokens: int) -> list[Outcome]:
    """Texts through transformers, in float32, from a Hugging Face folder."""
    import torch  # here, because they are only there where somebody installed them
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32).eval()
    # Not the folder's own: penalties there, or further tokens that end a text, are no property of the weights.
    theirs.generation_config = transformers.GenerationConfig(eos_token_id=model.tokenizer.eos_id)
    outcomes = []
    with torch.no_grad():
        for ids in texts:
            row = torch.tensor([list(ids)])
            said = theirs.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=tokens, do_sample=False) if tokens else row
            outcomes.append(Outcome(theirs(row).logits[0].numpy(), said[0, len(ids) :].tolist(), []))
    return outcomes


@dataclasses.dataclass(frozen=True)
class TextComparison:
    """Two outcomes of one text. apart: the largest |Δ logit|. kl: KL(source ‖ target) in nats, mean and largest over the positions.
    top: (id, source's probability, target's) of the source's likeliest next tokens. greedy_differs: at which token, None for never;
    where the source's two best are closer than what is tolerated, either is right.
    """

    apart: float
    kl: tuple[float, float]
    top: list[tuple[int, float, float]]
    greedy_differs: int | None


def compare_outcomes(source: Outcome, target: Outcome, tolerance: float) -> TextComparison:
    """Of the same ids."""
    p, q = (_log_softmax(outcome.logits.astype(np.float64)) for outcome in (source, target))
    kl = np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)
    best = np.argsort(-p[-1], kind="stable")[:TOP]
    differs = None
    if source.greedy != target.greedy:
        pairs = zip(source.greedy, target.greedy)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(source.greedy), len(target.greedy)))
        differs = at if at >= len(source.gaps) or source.gaps[at] > 2 * tolerance else None
    top = [(int(i), float(np.exp(p[-1, i])), float(np.exp(q[-1, i]))) for i in best]
    return TextComparison(float(np.abs(source.logits - target.logits).max()), (float(kl.mean()), float(kl.max())), top, differs)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
