"""The model card of an exported folder: what the model is, how it is asked, and the facts of the run that made it."""

import json
from typing import Any

from etils import epath

from humpback import prompts, storage
from humpback.convert.sources import FORMATS, Source
from humpback.model.weights import parameter_count

_PAPER = "https://arxiv.org/abs/2308.06259"
_HEADER = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- instruction-backtranslation
- humpback
---
"""
_ASKED = {
    "base": "It was not finetuned here. The chat template asks it as a finetuned model would be asked, with both tags.",
    "forward": "It answers instructions. The chat template puts both tags after what the user says, as training had them:",
    "backward": "It writes the instruction that a text answers: the text is what the user says, the chat template adds the request.",
}


def model_card(source: Source, wrapper: str) -> str:
    """README.md in Markdown. The facts come from the manifests of the stage's folder and of those it was made from, if it is one."""
    manifests = _manifests(epath.Path(source.path)) if source.format == "checkpoint" else {}
    name, cfg = epath.Path(source.path).name, source.config
    lines = [
        f"# {name}",
        "",
        f"A LLaMA of {parameter_count(cfg):,} parameters ({cfg.num_layers} layers, {cfg.max_positions:,} positions), written by Humpback "
        f"from {FORMATS[source.format]}. Its direction is **{source.direction}**, its chat wrapper {wrapper}.",
        "",
        _ASKED[source.direction],
    ]
    if source.direction == "forward":
        lines += ["", f"> {prompts.SEED_TAG} {prompts.WEB_TAG}"]
    if manifests:
        lines += ["", f"The method is *Self-Alignment with Instruction Backtranslation* ([Li et al., 2023]({_PAPER})).", ""]
        lines += _facts(epath.Path(source.path), manifests)
    lines += ["", "The licence is that of the base's weights, and of the data."]
    return _HEADER + "\n".join(lines) + "\n"


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
