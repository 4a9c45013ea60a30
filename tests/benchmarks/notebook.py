"""Executes launch/notebook/humpback_tpu.ipynb on this CPU with a tiny model, whole; and a second session from the first one's .zip.

    python tests/benchmarks/notebook.py [--here]

The kernel runs where JAX 0.7.2, numpy 2.1 and protobuf 6 stand first, as in the images of Colab and Kaggle (.venv-image, made here), so
that the notebook makes its own environment beside them. With --here it is this Python's environment, which has Humpback, and one session.
Exit code 1 unless each comes to its end, the second with the bytes of the first, and the image's packages are what they were.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import common

NOTEBOOK = common.ROOT / "launch" / "notebook" / "humpback_tpu.ipynb"
ITERATIONS = 1
SAID = ("all is well; what runs here, runs on cpu", "21 weights", "forward-1:", "<IPython.core.display.HTML object>", "humpback-run.zip:")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="in this environment, as .ci/run does")
    here = parser.parse_args().here
    python = sys.executable if here else str(common.python_of(".venv-image"))
    before = freeze(python)
    with tempfile.TemporaryDirectory(prefix="humpback-notebook-") as name:
        folder = pathlib.Path(name)
        flags = make_inputs(folder / "inputs")
        first = execute(python, folder / "first", flags)
        faults = [f"the first session did not say {text!r}" for text in SAID if text not in first]
        if not here:
            second = execute(python, folder / "second", flags, str(folder / "first" / "humpback-run.zip"))
            stages = len(list((folder / "first" / "work" / "run").glob("*/manifest.json")))
            if second.count("complete taken from") != stages:
                faults.append(f"the second session took {second.count('complete taken from')} of {stages} stages")
            faults += differences(folder / "first" / "work" / "run", folder / "second" / "work" / "run")
    if freeze(python) != before:
        faults.append("the packages of the kernel's environment are others than before")
    for fault in faults:
        common.say(f"ERROR: {fault}")
    return 1 if faults else 0


def make_inputs(folder: pathlib.Path) -> dict[str, object]:
    """Tiny weights in Hugging Face's form, pairs and a rubric, and what a user would write into the notebook's cells for them."""
    script = "import pathlib, sys; from tests import tiny; folder = pathlib.Path(sys.argv[1]); folder.mkdir(); tiny.make_inputs(folder)"
    convert = [f"--source={folder / 'base'}", f"--target={folder / 'huggingface'}", "--to_format=huggingface"]
    for command in (["-c", script, str(folder)], ["-m", "humpback", "convert", *convert]):
        subprocess.run([sys.executable, *command], cwd=common.ROOT, env=environment(), check=True)
    return {
        "HUMPBACK_SOURCE": str(common.ROOT),
        "CONFIG": "tests/tiny_config.py",
        "WEIGHTS": str(folder / "huggingface"),
        "PAIRS": str(folder / "pairs.jsonl"),
        "TPU": "",
        "FLAGS": [f"--config.curate.rubric_file={folder / 'rubric.txt'}", f"--config.iterations={ITERATIONS}"],
    }


def execute(python: str, folder: pathlib.Path, values: dict[str, object], resume_from: str = "") -> str:
    """One session; what it printed."""
    folder.mkdir()
    given = {**values, "FOLDER": str(folder / "work"), "RESUME_FROM": resume_from}
    words = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    common.say(f"a session in {python}")
    command = [python, str(common.ROOT / "tests" / "execute_notebook.py"), str(NOTEBOOK), str(folder), *words]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"error: the notebook ended with exit code {done.returncode}; its last words stand above")
    return done.stdout


def differences(a: pathlib.Path, b: pathlib.Path) -> list[str]:
    """Between two runs."""
    script = "import pathlib, sys; from tests import compare; print(*compare.differences(*map(pathlib.Path, sys.argv[1:])), sep='\\n')"
    command = [sys.executable, "-c", script, str(a), str(b)]
    told = subprocess.run(command, cwd=common.ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=True).stdout
    return [f"{line}: differs between the sessions" for line in told.splitlines() if line]


def environment() -> dict[str, str]:
    """A CPU's, and of the own environments one beside those that users make."""
    own = {"JAX_PLATFORMS": "cpu", "HUMPBACK_VENV": str(common.ROOT / ".venv-notebook")}
    return {**common.clean_environment(), **own}


def freeze(python: str) -> str:
    """The packages of an environment."""
    return subprocess.run([python, "-m", "pip", "freeze"], stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
