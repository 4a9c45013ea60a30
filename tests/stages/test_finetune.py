"""The stage's flags, and a run whose training looks at a dev set."""

import json

import pytest

from humpback import prompts
from humpback.errors import UserError
from humpback.models import folders
from humpback.records import Example
from humpback.stages import finetune as stage_module
from humpback.stages import held_out
from humpback.stages.base import convert_base
from humpback.stages.directory import read_manifest
from humpback.stages.finetune import finetune, read_profile
from humpback.stages.seed import seed
from humpback.stages.summary import summarize
from humpback.tokens.examples import build_example
from humpback.training import evaluate
from tests import tiny


def test_what_trains_is_counted_and_what_does_not_is_warned_of(capsys):
    """An augmented pair that does not fit is no augmented pair of the table."""
    def pair(key: str, kind: str, instruction: str, response: str) -> Example:
        return Example(key * 16, instruction, response, kind, "")

    pairs = {
        "seed": [pair("0", "seed", "Why?", "Because."), pair("1", "seed", "Why so? " * 90, "Because.")],
        "augmented": [pair("2", "augmented", "Why?", "word " * 500), pair("3", "augmented", "Why?", "So.")],
    }
    left_out = []
    data = stage_module.training_data(pairs, tiny.make_tokenizer(), "forward", "chatml", 128, lambda *of: left_out.append(of))
    assert left_out == [("too_long", pairs["augmented"][0])]
    assert [example.id[0] for example in data.examples] == ["0", "1", "3"]
    assert [example.cut for example in data.examples] == [False, True, False]
    assert data.counts == {"examples": 3, "seed pairs": 2, "augmented pairs": 1, "prompts cut": 1}
    assert data.dropped == {"empty_target": 0, "too_long": 1}
    stage_module._warn_of_length("forward-3", pairs, data, "forward.length = 128")
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "WARNING: forward-3: 1 of 2 augmented pairs do not train, as they do not fit into forward.length = 128 or have no target",
        "WARNING: forward-3: 1 of 3 prompts are cut to fit into forward.length = 128",
    ]


@pytest.mark.parametrize("asked", ["3", "3:", ":4", "0:2", "5:4", "a:b", "1:2:3"])
def test_a_profile_is_two_steps(asked):
    with pytest.raises(UserError, match=f"--profile={asked}: must be FROM:TO"):
        read_profile(asked, "somewhere")


def test_the_dev_set_is_looked_at_and_a_profile_is_written(make_run, tmp_path):
    """A whole stage: the dev set's losses are in the metrics, the chosen step in the manifest, the profile in its folder."""
    rows = [{"instruction": f"What is number {i}?", "response": f"Number {i} is the one after {i - 1}."} for i in range(6)]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"lr": 0.3, "end_lr": 0.3, "dev_every": 2, "checkpoint_keep_every": 4}
    run = make_run(seed_pairs__dev_source=str(tmp_path / "dev.jsonl"), **{f"forward_seed__{k}": v for k, v in fields.items()})
    convert_base(run)
    seed(run)
    finetune(run, "forward", 0, read_profile("2:2", tmp_path / "profile"))
    stage = tmp_path / "run" / "forward-0"
    metrics = [json.loads(line) for path in sorted(stage.glob("metrics/*")) for line in path.read_text().splitlines()]
    losses = {row["step"]: row["dev_loss"] for row in metrics if "dev_loss" in row}
    assert list(losses) == [2, 4]
    manifest = json.loads((stage / "manifest.json").read_text())
    assert manifest["step"] == min(losses, key=losses.__getitem__) and manifest["counts"]["dev pairs"] == 6
    assert (manifest["counts"]["held_out pairs"], manifest["dropped"]["held_out: too_long"]) == (3, 1)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    finetune(run, "forward", 0)  # done before, and what was to be kept stays
    assert (stage / "steps" / "00000004" / "checksums.json").exists()


@pytest.mark.parametrize("fields", [{"seed_pairs__held_out": 0}, {"decoding__length": 32}])
def test_without_a_held_out_pair_that_fits_nothing_is_measured(make_run, capsys, fields):
    run = make_run(forward_seed__steps=1, augment__max_new_tokens=4, curate__max_new_tokens=4, **fields)
    convert_base(run)
    seed(run)
    finetune(run, "forward", 0)
    assert (run.workdir / "forward-0" / "held_out.jsonl").read_text() == ""
    told = capsys.readouterr().err
    assert "forward-0: not measured, as no pair is held out (seed_pairs.held_out) or none fits into" in told
    assert "WARNING: forward-0: 12 of 16 examples are not trained on: forward_seed.steps and batch take 4" in told
    lost = 4 if "decoding__length" in fields else 0  # is counted, on the stage's line, in the manifest, and warned of
    manifest = read_manifest(run.workdir, "forward-0")
    assert (manifest["counts"]["held_out pairs"], manifest["dropped"]["held_out: too_long"]) == (0, lost)
    samples = json.loads((run.workdir / "forward-0" / "samples.json").read_text())
    assert {reason: len(rows) for reason, rows in samples.items()} == ({"held_out: too_long": 4} if lost else {})
    assert ("WARNING: forward-0: 4 of 4 held_out pairs do not measure, as they do not fit into decoding.length = 32" in told) == bool(lost)
    assert ("4 held_out: too_long" in told) == bool(lost) and "; dropped: 12 not trained on" in told
    assert summarize(run) is None


def test_each_set_is_measured_behind_its_own_prompts_and_behind_those_of_others(make_run, tmp_path):
    """Forward, three rotations of a set; a pair whose neighbour asks the same has none there. Backward only its own."""
    rows = [{"instruction": f"What is number {i % 3}?", "response": f"Number {i} is the one after {i - 1}."} for i in range(4)]
    (tmp_path / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = make_run(evaluation__sets=f"faq={tmp_path / 'faq.jsonl'}", seed_pairs__held_out=1)
    convert_base(run)
    seed(run)
    sets = held_out.read_sets(run.workdir, run.cfg.evaluation.sets)
    model = folders.load_model(run.workdir / "base")

    def measured(task: str) -> list[dict]:
        data = stage_module._stage_data(run, run.stage("x", (), module=""), "forward_seed", task, 0, model.tokenizer)
        assert data.counts["set-faq pairs"] == 4 and data.dropped["set-faq: too_long"] == 0
        assert data.dropped.get("set-faq behind other prompts: too_long") == (0 if task == "forward" else None)
        rows = stage_module.measure(run, task, model.info.config, {"base": model.params}, data.questions, run.mesh(), "float32")
        return [row for row in rows if "set" in row]

    pairs = {pair.id: pair for pair in sets["faq"]}
    found = measured("forward")
    assert {row["set"] for row in found} == {"faq"} and sum("rotation" not in row for row in found) == 4
    assert sorted(row.get("rotation", 0) for row in found).count(0) == 4 and len(found) == 4 + 12 - 2
    row = next(row for row in found if row.get("rotation") == 2)
    own = list(pairs).index(row["id"])
    asked = pairs[list(pairs)[(own + 2) % 4]].instruction
    prompt = prompts.forward_prompt(asked)
    example = build_example(model.tokenizer, "x", prompt, pairs[row["id"]].response, prompts.WRAPPERS["chatml"], 160)
    alone = evaluate.nll(model.info.config, model.params, [example], length=160, mesh=run.mesh())
    assert row["nats"] == pytest.approx(float(alone.nats[0]), rel=1e-4) and row["tokens"] == alone.tokens[0]
    backward = measured("backward")
    assert [sorted(row) for row in backward] == [["id", "model", "nats", "set", "task", "tokens"]] * 4
