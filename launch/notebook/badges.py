"""Writes the address of Humpback's sources into the notebook, and its badges for Colab and Kaggle: launch/notebook/badges.py [ADDRESS]

ADDRESS is https://github.com/OWNER/NAME; without it, it is setup.py's `url`, and where that is empty there are no badges.
"""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NOTEBOOK = HERE / "humpback_tpu.ipynb"
PATH = "blob/main/launch/notebook/humpback_tpu.ipynb"
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
TITLE = "# Humpback on a free TPU"


def url() -> str:
    """setup.py's."""
    return re.search(r'^    url="(.*)",', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE)[1]


def badges(address: str) -> str:
    """Two badges as Markdown; "" without an address. ValueError for one that Colab and Kaggle cannot open."""
    if not address:
        return ""
    match = GITHUB.fullmatch(address)
    if not match:
        raise ValueError(f"{address!r}: must be https://github.com/OWNER/NAME; Colab and Kaggle open notebooks from there alone")
    return (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{match[1]}/{PATH})\n"
        "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        f"(https://kaggle.com/kernels/welcome?src=https://github.com/{match[1]}/{PATH})"
    )


def written(text: str, address: str) -> str:
    """The notebook's text with this address."""
    notebook = json.loads(text)
    title, source = notebook["cells"][:2]
    found = badges(address)
    title["source"] = (f"{TITLE}\n\n{found}" if found else TITLE).splitlines(keepends=True)
    source["source"] = [re.sub(r'^HUMPBACK_SOURCE = ".*?"', f'HUMPBACK_SOURCE = "{address}"', line) for line in source["source"]]
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(written(NOTEBOOK.read_text(encoding="utf-8"), sys.argv[1] if len(sys.argv) > 1 else url()), encoding="utf-8")
