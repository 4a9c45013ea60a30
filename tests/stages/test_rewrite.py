"""A model rewrites the curated responses: what is faithful is taken, else the draft stays; both are scored alike; M_t trains on them."""

import dataclasses

import pytest

from humpback.decoding.engine import Engine, Result
from humpback.errors import UserError
from humpback.models import folders
from humpback.records import Example, Judged, Rewrite, read_shards, write_shards
from humpback.stages import finetune, report, rewrite, summary
from humpback.stages.directory import Stage, read_manifest

DRAFTS = {
    "Tea": "Warm the pot with a little water. Put one spoon of leaves into it for each cup, and wait for four minutes.",
    "Bread": "Flour, water, salt and yeast are kneaded by hand until the dough is smooth. Then it rests for an hour.",
    "Snow": "A small drop freezes around a grain of dust, and six arms begin to grow from it on its way down.",
}
ANSWERS = {
    "Tea": "<answer>Warm the pot with a little water. Put one spoon of leaves into it for each cup, and wait.</answer>",
    "Bread": "<answer>Flour, water, salt and yeast are kneaded by hand until the dough is smooth. It was 1759.</answer>",
    "Snow": "A small drop freezes.",
}


@pytest.fixture
def rewritten_run(run_with_m0, monkeypatch):
    """rewritten_run(**fields): a run with curated examples, whose rewriter says ANSWERS."""

    def make(**fields):
        run = run_with_m0(iterations=1, **{"rewrite__by": "base", "rewrite__max_new_tokens": 64, "decoding__length": 512, **fields})
        base = folders.load_model(run.workdir / "base")
        made = [Example(f"{n:016x}", f"Tell me of {name}.", text, "augmented", "") for n, (name, text) in enumerate(DRAFTS.items())]
        write_shards(run.workdir / "curated-1", "curated", made, len(made))
        Stage(run.workdir / "curated-1", {}, {}, {}).finish(counts={"selected": len(made)}, files=["curated-00000-of-00001.jsonl"])

        def generate(engine, requests, sampler, stop_ids, **_):
            for request in requests:
                [name] = [name for name, text in DRAFTS.items() if text in base.tokenizer.decode(request.ids.tolist())]
                yield Result(request.id, tuple(base.tokenizer.encode(ANSWERS[name])), (-1.0,), "stop")

        monkeypatch.setattr(Engine, "generate", generate)
        return run

    return make


def test_what_is_faithful_takes_the_drafts_place(rewritten_run):
    run = rewritten_run()
    rewrite.rewrite(run, 1)
    manifest = read_manifest(run.workdir, "rewritten-1")
    assert manifest["counts"] == {"in": 3, "out": 3, "rejects": 0, "rewritten": 1, "drafts kept": 2, "score prompts cut": 0}
    assert manifest["dropped"] == {"draft kept: no markers": 1, "draft kept: new number": 1}
    made = {example.instruction: example for example in read_shards(run.workdir / "rewritten-1", "rewritten", Example)}
    assert made["Tell me of Tea."].response == ANSWERS["Tea"][8:-9] and made["Tell me of Snow."].response == DRAFTS["Snow"]
    assert {example.kind for example in made.values()} == {"augmented"}, "the tag of the web stays"
    [tea] = [r for r in read_shards(run.workdir / "rewritten-1", "rewrites", Rewrite) if not r.reason]
    assert (tea.draft, tea.output) == (DRAFTS["Tea"], ANSWERS["Tea"])
    scores = {judged.probe.kind: judged.score for judged in read_shards(run.workdir / "rewritten-1" / "rubric", "judged", Judged)}
    found = rewrite.read(run, 1)
    assert set(scores) == {"draft", "answer"} and found["scores"]["rubric"]["difference"] == scores["answer"] - scores["draft"]
    summary.summarize(run)
    told = "A^(1): 1 of 3 responses are rewritten by M; else the draft stays; rubric"
    assert told in (run.workdir / "report.md").read_text() and "fewer than 20 pairs" in report._rewritten_text(found)
    tokenizer = folders.load_model(run.workdir / "base").tokenizer
    data = finetune._stage_data(run, Stage(run.workdir / "forward-1", {}, {}, {}), "forward", "forward", 1, tokenizer)
    texts = [tokenizer.decode(list(example.ids)) for example in data.examples]
    assert any(made["Tell me of Tea."].response in text for text in texts) and not any(DRAFTS["Tea"] in text for text in texts)


def test_nobody_rewrites_unless_asked_to_and_a_draft_without_room_stays(rewritten_run):
    run = rewritten_run(rewrite__by="")
    rewrite.rewrite(run, 1)
    assert not (run.workdir / "rewritten-1").exists() and finetune._augmented(run) == "curated"
    run = rewritten_run(workdir=run.workdir.parent / "other", decoding__length=256, rewrite__by="forward", curate__mode="likelihood")
    rewrite.rewrite(run, 1)
    manifest = read_manifest(run.workdir, "rewritten-1")
    assert manifest["dropped"] == {"draft kept: no room": 3} and manifest["counts"]["drafts kept"] == 3
    assert rewrite.read(run, 1)["scores"] == {} and not list((run.workdir / "rewritten-1").glob("probes*"))


def test_there_must_be_room_to_write(make_run):
    with pytest.raises(UserError, match=r"rewrite\.max_new_tokens: 1024 leaves no room"):
        make_run(rewrite__by="base")
    assert dataclasses.replace(make_run().cfg.rewrite).by == ""
