"""The same held-out prompts to all models: which, asked how, and what is said where there is nothing to ask. Kills: test_kill.py."""

import json

import pytest

from humpback.decoding.answers import Generated
from humpback.errors import UserError
from humpback.records import Example, read_shards
from humpback.report import texts
from humpback.stages import commandline, identity
from humpback.stages.answers import answer, choose, main
from humpback.stages.directory import read_manifest
from humpback.stages.seed import seed


def test_models_of_the_same_weights_say_the_same(run_with_m0, tmp_path):
    """They are asked for the same, in the same way, and draw by the same keys. One prompt has no room."""
    (tmp_path / "long.jsonl").write_text(json.dumps({"instruction": "Tell me more. " * 99, "response": "No."}) + "\n")
    sets = f"long={tmp_path / 'long.jsonl'}"
    run = run_with_m0(answers__prompts=50, answers__temperature=1.0, decoding__length=256, evaluation__sets=sets)
    pairs = choose(run)
    answer(run, 0)
    said = {}
    for name in ("base", "0"):
        folder = run.workdir / f"answers-{name}"
        assert list(read_shards(folder, "prompts", Example)) == pairs
        said[name] = {one.id: one for one in read_shards(folder, "generated", Generated)}
        manifest = read_manifest(run.workdir, f"answers-{name}")
        assert manifest["counts"].items() >= {"in": 5, "out": 4, "rejects": 1}.items()
        assert manifest["dropped"] == {"rejected: prompt too long": 1}
        assert "decoding.slots" in identity.found_before(folder)[0]  # for a resume, which process ever was the first
    assert said["base"] == said["0"] and len({one.output for one in said["0"].values()}) > 1
    shown = texts.answers(run.workdir, {name: read_manifest(run.workdir, name) for name in ("answers-base", "answers-0")})
    assert [one["people"] for one in shown] == [pair.response for pair in pairs]
    assert [one["instruction"] for one in shown if one["models"]["0"] is None] == [("Tell me more. " * 99).strip()]


def test_prompts_are_of_all_sets_each_once_and_train_nothing(make_run, tmp_path):
    asked = [{"instruction": f"Ask {n}?", "response": f"It is {n}, of set {n % 3}."} for n in range(20)]
    (tmp_path / "faq.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in [*asked, {**asked[0], "response": "Another."}]))
    fields = {"evaluation__sets": f"faq={tmp_path / 'faq.jsonl'}", "answers__prompts": 10}
    run = make_run(**fields)
    seed(run)
    chosen = choose(run)
    instructions = {pair.instruction for pair in chosen}
    assert len(instructions) == 10 and choose(run) == chosen
    assert not instructions & {pair.instruction for pair in read_shards(run.workdir / "seed", "seed", Example)}
    every = make_run(**fields | {"answers__prompts": 50})
    assert len(choose(every)) == 24 and choose(every)[:10] == chosen  # four are held out of the seed
    assert choose(make_run(**fields, seed=1)) != chosen


def test_nothing_is_asked_unless_asked_for_or_where_nothing_is_held_out(run_with_m0, make_run, monkeypatch):
    """By the command, which asks all models that there are."""
    run = run_with_m0(answers__prompts=0, seed_pairs__held_out=0)
    monkeypatch.setattr(commandline, "open_run", lambda: run)
    answer(run, 0)
    assert not (run.workdir / "answers-base").exists()
    with pytest.raises(UserError, match=r"answers\.prompts: 0 asks nothing"):
        main()
    run = make_run(workdir=run.workdir, answers__prompts=3, seed_pairs__held_out=0)
    main()
    assert read_manifest(run.workdir, "answers-base")["counts"] == read_manifest(run.workdir, "answers-0")["counts"] == {"in": 0}
    assert not (run.workdir / "answers-1").exists()
    assert texts.answers(run.workdir, {"answers-0": read_manifest(run.workdir, "answers-0")}) == []
    run = make_run(workdir=run.workdir.parent / "other")
    with pytest.raises(UserError, match="no forward model is complete"):
        main()
