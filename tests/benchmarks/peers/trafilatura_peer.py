"""Trafilatura's and resiliparse's main text of pages, for segment.py and web_pages.py (answering.py). Runs in .venv-trafilatura."""

import gzip
import os
import pathlib
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import trafilatura
from answering import answer
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

PAGES: list[bytes] = []
READERS: dict[str, Callable[[bytes], str | None]] = {
    "trafilatura": lambda page: trafilatura.extract(page),
    "trafilatura_fast": lambda page: trafilatura.extract(page, fast=True),
    "resiliparse": lambda page: extract_plain_text(bytes_to_str(page, detect_encoding(page)), main_content=True),
}


def versions() -> dict[str, Any]:
    """What is compared with."""
    return {"trafilatura": metadata.version("trafilatura"), "resiliparse": metadata.version("resiliparse")}


def load(files: list[str], core: int) -> dict[str, Any]:
    """Reads the pages into memory; from now on one core is used."""
    os.sched_setaffinity(0, {core})
    PAGES[:] = [pathlib.Path(file).read_bytes() for file in files]
    return {}


def read(reader: str) -> dict[str, Any]:
    """Seconds of processor time for all pages, and how many characters of text they gave."""
    started, length = time.process_time(), 0
    for page in PAGES:
        length += len(READERS[reader](page) or "")
    return {"seconds": time.process_time() - started, "characters": length}


def texts(files: list[str], reader: str) -> dict[str, Any]:
    """The text of each page; an end in ".gz" says that it is packed."""
    pages = [gzip.decompress(data) if file.endswith(".gz") else data for file in files for data in [pathlib.Path(file).read_bytes()]]
    return {"texts": [READERS[reader](page) or "" for page in pages]}


if __name__ == "__main__":
    answer(versions, load, read, texts)
