"""A judge is asked about human pairs, as it is about candidates, and what it sees is told."""

import pytest

from humpback import keys, prompts
from humpback.models import folders
from humpback.records import Example, Judged, Probe, read_shards
from humpback.stages import held_out, identity, judge, report
from humpback.stages.directory import read_manifest
from humpback.tokens.examples import build_example
from humpback.training import evaluate


def pairs(*instructions: str) -> list[Example]:
    return [Example(f"{number:016x}", text, f"response {number}", "seed", "") for number, text in enumerate(instructions)]


def test_probes_are_drawn_by_key_from_the_pairs_own_set():
    made = pairs(*(f"question {number}" for number in range(40)))
    probes = list(judge.probes_of("faq", made, 0))
    assert probes == list(judge.probes_of("faq", made, 0)) and len({probe.id for probe in probes}) == 120
    by_kind = {kind: {p.pair: p for p in probes if p.kind == kind} for kind in ("true", "swapped", "nonsense")}
    for pair in made:
        true, swapped, nonsense = (by_kind[kind][pair.id] for kind in by_kind)
        assert (true.instruction, true.response) == (pair.instruction, pair.response) == (nonsense.instruction, nonsense.response)
        assert swapped.response == pair.response and swapped.instruction != pair.instruction
    assert len({p.instruction for p in by_kind["swapped"].values()}) > 15
    assert [p.instruction for p in probes] != [p.instruction for p in judge.probes_of("faq", made, 1)]
    assert list(judge.probes_of("faq", made[:1], 0)) == [] and list(judge.probes_of("faq", pairs("same", "same"), 0)) == []


def test_partners_have_other_instructions_and_are_drawn_among_all_of_these():
    """Against the plain way: a list of the others for each pair, and the place that its word says."""
    named = [(f"{number:016x}", f"ask {number % 3 if number < 9 else number}") for number in range(14)]
    words = keys.record_words(7, "x", [record_id for record_id, _ in named]).tolist()
    for (_, asked), word, found in zip(named, words, held_out.partners(named, 7, "x"), strict=True):
        others = [place for place, (_, other) in enumerate(named) if other != asked]
        assert found == others[word * len(others) >> 32]
    assert held_out.partners([("0" * 16, "a"), ("1" * 16, "a")], 7, "x") == [None, None] and held_out.partners([], 7, "x") == []


def test_a_judge_is_measured_by_the_held_out_pairs_of_every_set(run_with_m0, tmp_path):
    (tmp_path / "faq.jsonl").write_text("".join(f'{{"instruction": "Why {n}?", "response": "So {n}."}}\n' for n in range(3)))
    run = run_with_m0(evaluation__sets=f"faq={tmp_path / 'faq.jsonl'}", decoding__length=256)
    judge.diagnose(run, 1)
    folder = run.workdir / "judge-1"
    manifest = read_manifest(run.workdir, "judge-1")
    assert manifest["counts"] == {"pairs": 7, "probes": 21, "prompts cut": 4} and not (folder / "rubric" / "parts").exists()
    assert "decoding.slots" in identity.found_before(folder)[0]
    assert set(manifest["files"]) >= {"probes-00000-of-00001.jsonl", "rubric/judged-00000-of-00001.jsonl"}
    made = list(read_shards(folder / "rubric", "judged", Judged))
    assert [record.probe for record in made] == list(read_shards(folder, "probes", Probe))
    assert all(1 <= record.score <= 5 and 0 < record.mass <= 1 and abs(sum(record.probabilities) - 1) < 1e-6 for record in made)
    true, nonsense = ([record.score for record in made if record.probe.kind == kind] for kind in ("true", "nonsense"))
    assert all(a != b for a, b in zip(true, nonsense, strict=True)), "another rubric"
    [(score, seen)] = judge.read(run, 1).items()
    assert score == "rubric"
    assert seen["pairs"] == 7 and seen["blind"] and {name: of["pairs"] for name, of in seen["sets"].items()} == {"held_out": 4, "faq": 3}
    by_hand = {(r.probe.set, r.probe.pair, r.probe.kind): r.score for r in made}
    above = sum(
        (score > (other := by_hand[name, pair, "swapped"])) + (score == other) / 2
        for (name, pair, kind), score in by_hand.items() if kind == "true"
    )  # fmt: skip
    assert seen["true_above"] == above / 7
    assert "BLIND" in report._judged(seen) and "absurd rubric" in report._judge_text(seen)


def test_without_pairs_to_swap_nothing_is_measured_and_no_model_is_opened(run_with_m0, monkeypatch):
    run = run_with_m0(seed_pairs__held_out=1)
    monkeypatch.setattr(judge, "serve", None)
    judge.diagnose(run, 1)
    manifest = read_manifest(run.workdir, "judge-1")
    assert judge.read(run, 1) == {"rubric": None} and manifest["counts"] == {"pairs": 0}
    assert manifest["dropped"] == {"no pair with another instruction": 1}
    assert "not measured, as no two pairs are held out" in report._judged(None)
    assert held_out.read_sets(run.workdir, "").keys() == {"held_out"}


def test_the_likelihood_is_probed_as_well_where_it_is_measured(run_with_m0):
    run = run_with_m0(curate__mode="likelihood", decoding__length=256)
    judge.diagnose(run, 1)
    made = list(read_shards(run.workdir / "judge-1" / "likelihood", "judged", Judged))
    assert not (run.workdir / "judge-1" / "rubric").exists() and len(made) == 12
    model = folders.load_model(run.workdir / "forward-0")
    for record in made:
        if record.probe.kind == "nonsense":
            assert record.score is None
            continue
        built = [
            build_example(model.tokenizer, "x", prompt, record.probe.response, prompts.WRAPPERS["chatml"], 256)
            for prompt in (prompts.forward_prompt(record.probe.instruction), prompts.UNASKED)
        ]
        under, alone = evaluate.nll(model.info.config, model.params, built, length=256, mesh=run.mesh()).nats
        assert record.score == pytest.approx((alone - under) / built[0].target_tokens, abs=1e-5)
    assert judge.read(run, 1)["likelihood"]["pairs"] == 4
