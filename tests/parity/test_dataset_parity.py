"""What an exported dataset does in other people's loaders: Hugging Face's datasets, without a network. Needs the `parity` extra."""

import subprocess
import sys

import pytest

pytest.importorskip("datasets", reason="datasets is not installed (pip install -e .[parity])")

from etils import epath

from humpback.commands import export
from tests.export import a_run

OPTIONS = {"with_seed": True, "tags": False, "drop_emails": False}
LOAD = """
import sys
from datasets import load_dataset
found = load_dataset(sys.argv[1], split="train")
assert len(found) == 11, found
assert [turn["role"] for turn in found[0]["messages"]] == ["user", "assistant"]
assert found[0]["messages"][1]["content"] == found[0]["response"] and found[-1]["kind"] == "seed"
print(sorted(found.features))
"""


@pytest.mark.parametrize("by_reference", [False, True])
def test_load_dataset_reads_the_folder_offline(tmp_path, by_reference):
    """Curated and seed pairs together, which as JSON lines have columns of different types."""
    export.export(epath.Path(a_run.make(tmp_path / "run")), epath.Path(tmp_path / "out"), OPTIONS, "", by_reference)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    load = LOAD if not by_reference else LOAD.replace("found[0]", "found[-1]")
    done = subprocess.run([sys.executable, "-c", load, str(tmp_path / "out")], env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "'text_sha256'" in done.stdout and "'probabilities'" in done.stdout
