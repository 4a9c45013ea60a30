"""The model card of an exported folder: what the model is, how it is asked, and the facts of the run that made it."""

import json
import os
import re
from typing import Any

from etils import epath

from humpback import prompts, storage
from humpback.convert.families import name_of
from humpback.convert.origin import FILE as ORIGIN
from humpback.convert.origin import NOWHERE, Origin
from humpback.convert.sources import FORMATS, Source
from humpback.model.weights import parameter_count

_PAPER = "https://arxiv.org/abs/2308.06259"
_UNKNOWN = "Which licence that is nothing in the base's folder said; look it up before you pass the model on."
_LICENCES = {
    "llama": "**Built with Llama.** Whoever passes it on keeps this line, the licence and the notice, and a name that begins with Llama.",
    "noncommercial": "LLAMA 1's licence allows research only, nothing commercial.",
}
_SNIPPET = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
turns = [{"role": "user", "content": "How do I sharpen a chisel?"}]
ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=256)[0], skip_special_tokens=True))
```"""
_ASKED = {
    "base": "It was not finetuned here. The chat template asks it as a finetuned model would be asked, with both tags.",
    "forward": "It answers instructions. The chat template puts both tags after what the user says, as training had them:",
    "backward": "It writes the instruction that a text answers: the text is what the user says, the chat template adds the request.",
}


def model_card(source: Source, wrapper: str, origin: Origin = NOWHERE, licence: str = "") -> str:
    """README.md in Markdown. The facts come from the manifests of the stage's folder and of those it was made from, if it is one.

    origin: of the base's weights. licence: what the user says that it is under, as model cards name it.
    """
    manifests = _manifests(epath.Path(source.path)) if source.format == "checkpoint" else {}
    name, cfg, adapter = epath.Path(source.path).name, source.config, source.adapter
    lines = [
        f"# {name}",
        "",
        f"A {name_of(cfg)} model of {parameter_count(cfg):,} parameters ({cfg.num_layers} layers, {cfg.max_positions:,} positions), "
        f"written by Humpback from {FORMATS[source.format]}. Its direction is **{source.direction}**, its chat wrapper {wrapper}.",
        "",
        _ASKED[source.direction],
    ]
    if adapter is not None:
        lines += ["", f"Adapters of rank {adapter.rank} (alpha {adapter.alpha:g}) were trained over weights of type {adapter.type}, and "
                  "it is these that they belong to."]  # fmt: skip
    if source.direction == "forward":
        lines += ["", f"> {prompts.SEED_TAG} {prompts.WEB_TAG}"]
    if manifests:
        lines += ["", f"The method is *Self-Alignment with Instruction Backtranslation* ([Li et al., 2023]({_PAPER})).", ""]
        lines += _facts(epath.Path(source.path), manifests)
    lines += ["", "A system turn was not part of training: what it says goes before the first user text.", "", _SNIPPET]
    known = licence or origin.licence
    why = _LICENCES["llama"] if known.startswith("llama3") else _LICENCES["noncommercial"] if _first_llama(source) and not known else ""
    base = f" The base is {origin.name}." if origin.name else ""
    more = why or ("" if known else _UNKNOWN)
    lines += ["", "## Licence", "", f"The licence is that of the base's weights, and of the data.{base} {more}".rstrip()]
    return _header(origin, known, manifests) + "\n".join(lines) + "\n"


def base_folder(source: Source) -> str:
    """The folder that says where the weights come from: a run's base/, or the source's own."""
    own, base = epath.Path(source.path), epath.Path(source.path).parent / "base"
    if source.base_path:
        return source.base_path
    from_run = source.format == "checkpoint" and not (own / ORIGIN).exists() and base.exists()
    return os.fspath(base) if from_run else source.path


def _first_llama(source: Source) -> bool:
    return source.format == "meta" and source.config.rms_eps == 1e-6 and source.config.vocab_size == 32000


def _header(origin: Origin, licence: str, manifests: dict[str, dict[str, Any]]) -> str:
    """The card's YAML, which the Hub reads."""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", f"license: {licence or 'other'}"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", origin.name):
        lines += [f"base_model: {origin.name}"]
    if manifests:
        config: dict[str, Any] = {}
        for manifest in manifests.values():
            config |= manifest.get("config", {})
        source = str(config.get("seed_pairs.source") or "")
        named = "OpenAssistant/oasst1" if "oasst" in source else ""
        lines += ["datasets:", f"- {named}"] if named else []
        lines += ["language:", f"- {config.get('segments.language') or 'en'}"]
    return "\n".join([*lines, "tags:", "- instruction-backtranslation", "- humpback", "---", ""])


def _manifests(folder: epath.Path) -> dict[str, dict[str, Any]]:
    """Stage → manifest, of the folder's stage and of all that it was made from, the first ones first."""
    file = folder / "manifest.json"
    if not file.exists():
        return {}
    manifest = storage.read_json(file)
    found: dict[str, dict[str, Any]] = {}
    for name in manifest.get("inputs", {}):
        found |= {stage: content for stage, content in _manifests(folder.parent / name).items() if stage not in found}
    return {**found, folder.name: manifest}


def _facts(folder: epath.Path, manifests: dict[str, dict[str, Any]]) -> list[str]:
    own = manifests[folder.name]
    lines = ["## The run", "", "| stage | counts | dropped |", "|---|---|---|"]
    lines += [f"| {name} | {_numbers(content['counts'])} | {_numbers(content['dropped'])} |" for name, content in manifests.items()]
    summary = folder.parent / "summary.json"
    rounds = storage.read_json(summary).get("ratings", []) if summary.exists() else []
    for row in rounds:
        if f"ratings-{row['iteration']}" in manifests:
            histogram = ", ".join(f"{value}: {count}" for value, count in row["histogram"].items() if count)
            lines += ["", f"Ratings of iteration {row['iteration']}: {histogram}; invalid: {row['invalid_rate']:.1%}."]
    held_out = storage.read_json(summary).get("held_out", {}) if summary.exists() else {}
    for task, compared in held_out.items():
        for found in (found for found in compared if found["measure"] == "nll"):
            for row in (row for row in found["models"] if row["model"] in (folder.name, "base")):
                what = f"Held-out pairs ({found['set']}), {task}, under {row['model']}"
                lines += ["", f"{what}: {row['value']:.4f} nats a token."]
    config = own.get("config", {})
    hashes = {"seed": config.get("seed"), "config sha256": own.get("config_sha256"), "weights sha256": own.get("weights_sha256")}
    hashes |= {f"{name}, weights sha256": m["weights_sha256"] for name, m in manifests.items() if "weights_sha256" in m and m is not own}
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {name} | `{value}` |" for name, value in hashes.items() if value is not None]
    lines += ["", "## Training", "", "```json", json.dumps(config, indent=2, sort_keys=True), "```"]
    return lines


def _numbers(counts: dict[str, Any]) -> str:
    """Counts by name, those of a count by kind after one another."""
    flat = [(f"{name} {kind}", n) for name, kinds in counts.items() if isinstance(kinds, dict) for kind, n in kinds.items()]
    flat += [(name, n) for name, n in counts.items() if not isinstance(n, dict)]
    return ", ".join(f"{n} {name}" for name, n in flat if n)
