"""README.md of an exported dataset: the YAML that loaders and hubs read, and what a reader must know."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
_LOAD = """\
```python
from datasets import load_dataset

dataset = load_dataset("DIR", split="train")
```"""
_UNSET = """\
No licence was named, so the metadata says `other`. Text from web pages belongs to its authors. The licence of the base model may
reach what the model wrote, the instructions or the answers. Whoever passes the data on must look at both."""
_REFERENCE = """\
This dataset is **by reference**: the texts and headers of the pages are not in it. Who holds the same pages fills them in by source
and byte range, and every text is checked by its hash:

```bash
humpback export --fill --source=DIR --input=PAGES --out=FILLED
```"""
DRAFTS = "These are the texts as people wrote them. The model was trained on rewritings of them, which are not exported."
_COLUMNS = {
    "messages": "the pair as a conversation of two turns",
    "kind": "`augmented`: a page's text and an instruction by the backward model; `seed`: by people; `generated`: an answer by a model",
    "score": "the rating by the rubric, of 1 to 5; `scores`, `probabilities`, `label_mass`, `rating_texts`: what it was made of",
    "likelihood": "how much likelier a token of the response is under the instruction, in nats, by the model `likelihood_model`",
    "url": "of the page; `source`, `start`, `end`: the bytes, of Parquet the rows, of the crawl that hold the page",
    "text_sha256": "of the response, in UTF-8",
    "instruction_model": "digest of the weights that wrote the instruction; `rating_model`: that rated; with their seeds",
}


def dataset_card(facts: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The card in Markdown."""
    size = next((name for most, name in _SIZES if facts["rows"] < most), "n>10M")
    languages = list(facts["languages"]) or facts["declared_languages"]
    yaml = ["license: " + json.dumps(facts["license"] or "other")]
    yaml += ["language:", *(f"- {json.dumps(code)}" for code in languages)] if languages else []
    yaml += ["task_categories:", "- text-generation", "size_categories:", f"- {size}"]
    yaml += ["tags:", "- instruction-backtranslation", "- humpback"]
    yaml += ["configs:", "- config_name: default", "  data_files:", "  - split: train", "    path: data/train-*.parquet"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts["kinds"].items())
    dropped = ", ".join(f"{count:,} with {reason}" for reason, count in facts["dropped"].items()) or "none"
    addresses = facts["rows_with_addresses"]
    lines = [
        f"# {facts['name']}",
        f"{facts['rows']:,} pairs of instruction and response ({kinds}), written by Humpback.",
        _LOAD,
        *([DRAFTS] if facts.get("rewritten") else []),
        *([_REFERENCE] if facts["by_reference"] else []),
        "## Licence",
        f"`{facts['license']}`, as named by who exported it." if facts["license"] else _UNSET,
        "## Contents",
        f"- E-mail addresses: {addresses:,} pairs hold one.\n- Left out: {dropped}.\n"
        + f"- The tag of training after the instruction in `messages`: {'yes' if facts['options'].get('tags') else 'no'}.",
        "\n".join(["| column | what |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in _COLUMNS.items() if name in columns)]),
        "## Made from",
        "\n".join(["```json", json.dumps(facts["made_from"], indent=2, sort_keys=True, ensure_ascii=False), "```"]),
    ]
    return "\n".join(["---", *yaml, "---"]) + "\n\n" + "\n\n".join(lines) + "\n"
