"""Executes a notebook from its first cell to its last, as `Run all` does: execute_notebook.py NOTEBOOK FOLDER NAME=VALUE …

NAME=VALUE replaces what a cell assigns to NAME, as a user would; VALUE is JSON. FOLDER is where the kernel works, and where the
executed notebook is left. It takes nothing but nbclient and what that brings, because it also runs where Humpback is not installed.
"""

import json
import pathlib
import re
import sys

import nbclient
import nbformat


def main(path: str, folder: str, *values: str) -> None:
    """Executes and prints what the cells print. nbclient's CellExecutionError for a cell that raises."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for name, value in (given.split("=", 1) for given in values):
        pattern = re.compile(rf"^{name} = .*$", re.MULTILINE)
        assigning = [cell for cell in cells if pattern.search(cell.source)]
        if len(assigning) != 1:
            sys.exit(f"{path}: {len(assigning)} cells assign to {name}")
        line = f"{name} = {json.loads(value)!r}"
        assigning[0].source = pattern.sub(lambda _, line=line: line, assigning[0].source)
    client = nbclient.NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": folder}})
    try:
        client.execute()
    finally:
        nbformat.write(notebook, pathlib.Path(folder) / "executed.ipynb")
        for cell in cells:
            for output in cell.get("outputs", []):
                print(output.get("text", "") or output.get("data", {}).get("text/plain", ""), end="", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
