"""A stage that trains adapters: its folder, what is measured, and the ways out of it and back."""

import json
import pathlib

import numpy as np
import pytest

from humpback.commands.convert import convert
from humpback.convert import sources
from humpback.errors import UserError
from humpback.model.weights import leaves
from humpback.models import folders
from humpback.stages.base import convert_base
from humpback.stages.finetune import finetune
from humpback.stages.seed import seed
from tests.tiny import CONFIG


def read(path, **how):
    source = sources.open_source(str(path), **how)
    return {"/".join(leaf): source.read(leaf) for leaf, _ in leaves(CONFIG)}


def equal(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, inputs):
    """A run whose backward model is of adapters over bfloat16."""
    from humpback import config
    from humpback.stages.directory import Run
    from tests import tiny_config

    cfg = tiny_config.get_config()
    given = dict(flag.removeprefix("--config.").split("=", 1) for flag in inputs if flag.startswith("--config."))
    cfg.base.source, cfg.seed_pairs.source = given["base.source"], given["seed_pairs.source"]
    cfg.backward.lora_rank, cfg.backward.lr, cfg.backward.end_lr = 4, 2e-2, 2e-2
    run = Run(config.finish(cfg), tmp_path_factory.mktemp("adapted") / "run")
    convert_base(run)
    seed(run)
    finetune(run, "backward")
    return run


def test_the_stage_keeps_adapters_and_measures_with_them(trained):
    stage = trained.workdir / "backward"
    info, manifest = folders.read_info(stage), json.loads((stage / "manifest.json").read_text())
    assert info.adapter.weights == trained.weights_digest("base") == manifest["weights"]["base"]
    assert set(manifest["weights"]) - {"base"} == {
        f"layers/{layer}/{name}/{part}" for layer in range(2) for name in info.adapter.names for part in "ab"
    }
    assert sum(file.stat().st_size for file in pathlib.Path(stage / "weights").rglob("*") if file.is_file()) < 200_000
    rows = [json.loads(line) for line in (stage / "held_out.jsonl").read_text().splitlines()]
    nats = {model: sum(row["nats"] for row in rows if row["model"] == model) for model in ("base", "backward")}
    assert nats["backward"] < nats["base"]


def test_a_folder_of_adapters_becomes_a_whole_model_in_two_forms(trained, tmp_path, capsys):
    stage, merged = str(trained.workdir / "backward"), read(trained.workdir / "backward")
    convert(stage, str(tmp_path / "hf"), "huggingface")
    said = capsys.readouterr().out
    assert "rounded once to bfloat16: logits differ by up to " in said
    apart = float(said.partition("differ by up to ")[2].partition(",")[0])
    assert 0 < apart < 0.1
    assert equal(read(tmp_path / "hf"), merged)
    assert "Adapters of rank 4 (alpha 8)" in (tmp_path / "hf" / "README.md").read_text()
    exact, base = read(trained.workdir / "backward", exact=True), read(trained.workdir / "base")
    assert equal({name: array.astype(merged[name].dtype) for name, array in exact.items()}, merged)
    for name in ("embedding", "layers/0/ffn_norm"):
        assert np.array_equal(merged[name], base[name].astype(merged[name].dtype))


def test_adapters_go_to_peft_and_come_back(trained, tmp_path, capsys):
    stage, base = str(trained.workdir / "backward"), str(trained.workdir / "base")
    convert(stage, str(tmp_path / "peft"), "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8.0) and set(config["target_modules"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    with pytest.raises(UserError, match=r"is a LoRA adapter, not a model .*name the base where there is a flag --base"):
        sources.open_source(str(tmp_path / "peft"))
    convert(str(tmp_path / "peft"), str(tmp_path / "back"), base=base)
    assert "4 layers" not in capsys.readouterr().out
    wanted, found = read(trained.workdir / "backward", exact=True), read(tmp_path / "back")
    # Onto the base as it lies there, in float32, and not as it was rounded for the training.
    assert max(np.abs(wanted[name] - found[name]).max() for name in wanted) < 1e-2
    rounded, plain = read(trained.workdir / "backward"), read(base)
    assert np.abs(found["layers/1/o"] - plain["layers/1/o"]).max() > 1e-3
    assert rounded["layers/1/o"].dtype != plain["layers/1/o"].dtype
    assert folders.read_info(tmp_path / "back").direction == "backward"


@pytest.mark.parametrize(
    "field, value", [("use_rslora", True), ("use_dora", True), ("modules_to_save", ["lm_head"]), ("rank_pattern", {"q_proj": 8})]
)
def test_adapters_that_mean_something_else_are_refused_by_name(trained, tmp_path, field, value):
    convert(str(trained.workdir / "backward"), str(tmp_path / "peft"), "peft")
    file = tmp_path / "peft" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(UserError, match=f"adapter_config.json: {field} is "):
        sources.open_source(str(tmp_path / "peft"), base=str(trained.workdir / "base"))


def test_what_has_no_adapters_does_not_go_to_peft_and_takes_no_base(trained, tmp_path):
    base = str(trained.workdir / "base")
    with pytest.raises(UserError, match="is a Humpback model folder; --to_format=peft takes a model folder that holds adapters alone"):
        convert(base, str(tmp_path / "peft"), "peft")
    with pytest.raises(UserError, match="holds all weights, so it takes no --base"):
        convert(base, str(tmp_path / "hf"), "huggingface", base=base)
