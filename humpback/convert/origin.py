"""Where weights come from, and under which licence: read from their folder, kept beside what is made of them."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping

from etils import epath

from humpback import storage

FILE = "origin.json"
_KEPT = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)[\w.-]*", re.IGNORECASE)
_LARGEST = 1 << 20  # bytes of a text that is kept
# What a licence's text says -> its name in a model card. The first that is found counts.
_TEXTS = (
    (r"LLAMA 3\.3 COMMUNITY", "llama3.3"), (r"LLAMA 3\.2 COMMUNITY", "llama3.2"), (r"LLAMA 3\.1 COMMUNITY", "llama3.1"),
    (r"META LLAMA 3 COMMUNITY", "llama3"), (r"LLAMA 2 COMMUNITY", "llama2"), (r"Apache License\s+Version 2\.0", "apache-2.0"),
    (r"MIT License|Permission is hereby granted, free of charge", "mit"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Origin:
    """name: what its makers call the model, "" where nothing says so. licence: as model cards name it, "" where nothing does.
    texts: licence and notice files, by name."""

    name: str = ""
    licence: str = ""
    texts: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


NOWHERE = Origin()


def read(path: str) -> Origin:
    """Of a file's or folder's neighbours, or of what `write` left there."""
    folder = epath.Path(path)
    if not folder.is_dir():
        return Origin(os.path.basename(path).removesuffix(".gguf"))
    files = {item.name: item for item in folder.iterdir() if _KEPT.fullmatch(item.name) and item.is_file()}
    texts = {name: item.read_bytes() for name, item in sorted(files.items()) if item.stat().length <= _LARGEST}
    if (folder / FILE).exists():
        kept = storage.read_json(folder / FILE)
        return Origin(kept.get("name", ""), kept.get("licence", ""), texts)
    name, licence = _named(folder), _stated(folder)
    whole = b"\n".join(texts.values()).decode("utf-8", "replace")
    return Origin(name, licence or next((known for text, known in _TEXTS if re.search(text, whole, re.IGNORECASE)), ""), texts)


def _named(folder: epath.Path) -> str:
    config = storage.read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    return str(config.get("_name_or_path") or os.path.basename(os.path.abspath(folder)))


def _stated(folder: epath.Path) -> str:
    """`license` in the head of the folder's own card."""
    card = folder / "README.md"
    head = re.match(r"---\n(.*?)\n---", card.read_bytes().decode("utf-8", "replace"), re.DOTALL) if card.exists() else None
    found = re.search(r"^license: *['\"]?([\w.-]+)", head[1], re.MULTILINE) if head else None
    return found[1] if found else ""


def write(path: str, origin: Origin) -> None:
    """Keeps it in a model folder; what is there stays."""
    for name, data in {**origin.texts, FILE: (json.dumps({"name": origin.name, "licence": origin.licence}) + "\n").encode()}.items():
        if not (epath.Path(path) / name).exists():
            storage.publish(epath.Path(path) / name, data)
