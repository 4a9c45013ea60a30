"""What an exported dataset does in other people's loaders: Hugging Face's datasets and TRL's trainer, without a network.

Needs the `parity` extra.
"""

import subprocess
import sys

import pytest

pytest.importorskip("datasets", reason="datasets is not installed (pip install -e .[parity])")

import jax
from etils import epath

from humpback.commands import export
from humpback.convert.export import Beside, write_folder
from humpback.model import llama
from tests import tiny
from tests.export import a_run
from tests.in_memory import from_params

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


TRAIN = """
import math, sys
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer
found = load_dataset(sys.argv[1], split="train")
config = SFTConfig(output_dir=sys.argv[3], max_steps=1, per_device_train_batch_size=2, max_length=512, report_to="none", use_cpu=True,
                   save_strategy="no", bf16=False)
trainer = SFTTrainer(model=sys.argv[2], args=config, train_dataset=found)
before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
done = trainer.train()
assert done.global_step == 1 and 0 < done.training_loss < 20, done
assert any((before[name] != weight).any() for name, weight in trainer.model.named_parameters())
print("trained", len(found))
"""
PLAIN = {"with_seed": False, "tags": False, "drop_emails": False}


def run_offline(tmp_path, code, *arguments):
    """The standard output of a program without a network."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


@pytest.mark.parametrize("by_reference", [False, True])
def test_load_dataset_reads_the_folder_offline(tmp_path, by_reference):
    """Curated and seed pairs together, which as JSON lines have columns of different types."""
    export.export(epath.Path(a_run.make(tmp_path / "run")), epath.Path(tmp_path / "out"), OPTIONS, "", by_reference)
    told = run_offline(tmp_path, LOAD if not by_reference else LOAD.replace("found[0]", "found[-1]"), tmp_path / "out")
    assert "'text_sha256'" in told and "'probabilities'" in told


@pytest.mark.parametrize("kind", ["pairs", "answers"])
def test_trl_trains_a_step_on_the_folder(tmp_path, kind):
    """Of TRL 1.16, on curated and seed pairs and on the answers of `humpback generate`, with a model that was exported as well."""
    pytest.importorskip("trl", reason="trl is not installed (pip install -e .[parity])")
    source = a_run.make(tmp_path / "run") if kind == "pairs" else a_run.answers(tmp_path / "answers")
    facts = export.export(epath.Path(source), epath.Path(tmp_path / "out"), OPTIONS if kind == "pairs" else PLAIN, "", False)
    model = from_params(tiny.CONFIG, llama.init_params(tiny.CONFIG, jax.random.key(0)), tiny.make_tokenizer())
    write_folder(str(tmp_path / "model"), model, Beside("chatml", "forward"))
    told = run_offline(tmp_path, TRAIN, tmp_path / "out", tmp_path / "model", tmp_path / "trained")
    assert f"trained {facts['rows']}" in told and facts["rows"] > 2
