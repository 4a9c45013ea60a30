"""`humpback plan`: its flags, its table, the config it writes. The compiler is asked in tests/planning."""

import json

import pytest

from humpback import config, experiments
from humpback.commands import plan
from humpback.errors import UserError
from humpback.planning import tpu_slices
from tests.planning.compilers import Line

SLICES = [tpu_slices.parse(name) for name in ("v5e-16", "v4-8")]


def paper(architecture="llama_7b", prompts=0):
    cfg = experiments.paper(architecture)
    cfg.answers.prompts, cfg.answers.max_new_tokens = prompts, 300
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.steps, task.batch = 8, 32
    return config.finish(cfg)


def planned(compiler=None, slices=SLICES, quick=True):
    planner = plan.Planner(paper(), compiler or Line(limit=30.0, base=6.0, a_row=0.2), quick, 10_000, 4.0)
    return planner, plan.plan_all(planner, slices, 1)


def test_the_table():
    planner, plans = planned()
    text = plan.report(planner, plans, {"v5e": 2.0})
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["slice", "stage"] and [line.split()[:2] for line in lines[1:9]] == [
        [each.name, stage] for each in SLICES for stage in ("backward", "augment", "rate", "forward")
    ]
    assert "10,000 segments" in text and "Compiled: memory, programs, collectives." in text and "Modelled: time" in text
    whole = sum(each.chip_hours for each in plans[0])
    assert f"v5e-16: the whole run {whole / 16:.1f} hours, {whole:.0f} chip-hours, {2 * whole:,.0f} at 2 a chip-hour" in text
    assert all("all-gather 0.931 GiB (100 times)" in line for line in lines if "sends in a step:" in line)


def test_the_right_slice():
    planner, plans = planned()
    said = plan.advice(planner, plans, {})
    for number, stage in enumerate(plan.COMPILED):
        least = min((each[number] for each in plans), key=lambda each: each.chip_hours)
        assert said[number].startswith(f"{stage}: fewest chip-hours on {least.slice.name}")
    assert any(line.startswith("v5e: the largest slices that finetuning keeps busy") for line in said)
    dear = plan.advice(planner, plans, {"v5e": 0.01, "v4": 1e6})
    assert all("lowest cost on v5e-16" in line for line in dear[:4])
    assert all("lowest cost on v4-8" in line for line in plan.advice(planner, plans, {"v4": 1e6})[:4])  # the only one with a price
    assert plan.advice(planner, plans, {"v6e": 2.0})[:4] == said[:4]  # none of them has one
    nothing = planned(Line(limit=0.1))[1]
    told = plan.report(planner, nothing, {})
    assert "v5e-16: not the whole run, as this does not fit: backward, augment, rate, forward" in told and "yes" not in told
    assert plan.advice(planner, nothing, {})[0] == "backward: fits on none of these slices"


def test_answers_to_held_out_prompts_are_counted_where_they_are_asked_for():
    """All steps of an answer for each of M, M_0, M_1, M_2, as five prompts do not fill the slots; nothing more is compiled."""
    planner = plan.Planner(paper(prompts=5), Line(limit=30.0, base=6.0, a_row=0.2), True, 10_000, 4.0)
    plans = plan.plan_all(planner, SLICES, 1)
    without = planned()[1]
    for row, other in zip(plans, without, strict=True):
        assert [each.stage for each in row] == [*plan.COMPILED, "answers"] and row[:4] == other
        augment, asked = row[1], row[4]
        assert asked.records == 20 and asked.hours * 3600 == pytest.approx(4 * 300 * augment.times.seconds)
        assert asked.tokens == 20 * (37 + 300) and asked.settings == augment.settings
    assert "answers: fewest chip-hours on" in plan.report(planner, plans, {})
    whole = sum(each.chip_hours for each in plans[0])
    assert f"v5e-16: the whole run {whole / 16:.1f} hours, {whole:.0f} chip-hours" in plan.report(planner, plans, {})


def test_json_has_every_figure():
    planner, plans = planned(quick=False, slices=SLICES[:1])
    found = json.loads(json.dumps(plan.to_json(planner, plans, {"v5e": 1.5})))
    (only,) = found["slices"]
    assert (only["slice"], only["topology"], only["chips"], only["fits"]) == ("v5e-16", "v5e:4x4", 16, True)
    stage = {each["stage"]: each for each in only["stages"]}["augment"]
    assert stage["cost"] == pytest.approx(1.5 * stage["chip_hours"]) and stage["headroom"] == stage["limit"] - stage["needed"]
    assert stage["most"] and set(stage["times"]) >= {"compute", "memory", "roofline", "seconds"}
    assert stage["programs"]["augment generate"]["memory"]["arguments"] > 0


def test_the_config_that_is_written(tmp_path):
    """It is the same experiment: every field that decides a result is the old one's, and `config.finish` takes it."""
    _, plans = planned(slices=SLICES[:1])
    cfg, path = paper(), tmp_path / "planned.py"
    plan.apply(cfg, plans[0], str(path), "for v5e-16")
    values: dict = {}
    exec(path.read_text(), values)
    before, after = dict(config.leaves(cfg)), dict(config.leaves(config.finish(values["get_config"]())))
    assert {name for name in before if config.compared(name) and before[name] != after[name]} == set()
    training, augment = plans[0][0], plans[0][1]
    assert {name: after[name] for name in training.settings} == training.settings
    assert after["decoding.slots"] == augment.settings["decoding.slots"] and after["decoding.tensor"] > 0
    plan.apply(cfg, plans[0], str(path), "for v5e-16")  # the same once more
    with pytest.raises(UserError, match="with other contents"):
        plan.apply(cfg, plans[0], str(path), "for another")


def test_what_does_not_fit_is_not_written(tmp_path):
    _, plans = planned(Line(limit=0.1), slices=SLICES[:1])
    with pytest.raises(UserError, match="not written, because this does not fit: backward, augment, rate, forward"):
        plan.apply(paper(), plans[0], str(tmp_path / "planned.py"), "")
    assert not list(tmp_path.iterdir())


def test_prices():
    assert plan.read_prices("1.5", SLICES) == {"v5e": 1.5, "v4": 1.5}
    assert plan.read_prices("v5e:1.2, v4:3", SLICES) == {"v5e": 1.2, "v4": 3.0}
    assert plan.read_prices(None, SLICES) == {}
    with pytest.raises(UserError, match="--price=v5e:1,v5:2: v5 is none of the generations v4, v5e, v5p, v6e"):
        plan.read_prices("v5e:1,v5:2", SLICES)
    with pytest.raises(UserError, match="--price=cheap: must be a number"):
        plan.read_prices("cheap", SLICES)


def test_a_config_without_a_size_is_refused():
    cfg = config.Config()
    with pytest.raises(UserError, match=r"base\.architecture: '' is none of llama_7b"):
        plan.Planner(config.finish(cfg), Line(), True, 0, 4.0)
    cfg.base.architecture, cfg.forward.length = "llama_7b", 4096
    with pytest.raises(UserError, match=r"forward\.length: 4096 tokens are more than the model's 2048"):
        plan.Planner(config.finish(cfg), Line(), True, 0, 4.0)


def test_the_command_line(tmp_path, humpback):
    wrong = humpback("plan", "--config=configs/llama_7b.py", "--tpu=v5e-12")
    assert wrong.returncode == 2 and "humpback: TPU slice 'v5e-12': v5e counts chips" in wrong.stderr and "Traceback" not in wrong.stderr
    none = humpback("plan", "--config=configs/llama_7b.py", "--tpu=v5e-16", f"--cache={tmp_path}", "--python=/nowhere/python")
    assert none.returncode == 2 and "--python=/nowhere/python: cannot be run" in none.stderr, none.stderr
