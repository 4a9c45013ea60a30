"""`humpback evaluate`: what each task prints and writes, and what is said of files that it cannot read."""

import functools
import gzip
import json
import types

import jax
import numpy as np
import pytest

from humpback.commands import evaluate as command
from humpback.evaluation import diversity, winrate
from humpback.model import llama
from humpback.models import folders
from tests import tiny


@pytest.fixture
def evaluate(humpback, tmp_path):
    """evaluate(task, rows, *flags, name): (exit code, what was printed, what was told, figures)."""

    def run(task, rows, *flags, name="in.jsonl", text=None):
        data = (text if text is not None else "".join(json.dumps(row) + "\n" for row in rows)).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        done = humpback("evaluate", f"--task={task}", f"--input={tmp_path / name}", f"--out={tmp_path / 'out.json'}", *flags)
        figures = json.loads((tmp_path / "out.json").read_text()) if (tmp_path / "out.json").exists() else None
        return done.returncode, done.stdout, done.stderr, figures

    return run


def preference(model: str, baseline: str, value: float | None) -> dict:
    return {"instruction": "Why?", "dataset": "koala", "output_1": baseline, "output_2": model, "preference": value, "annotator": "a"}


def test_a_win_rate_with_and_without_difficulties(evaluate, tmp_path):
    rows = [preference("m" * (n % 7), "b" * (n % 5), 1 + (n * 7 % 10) / 10) for n in range(30)] + [preference("m", "b", None)]
    code, said, _, figures = evaluate("winrate", rows, name="a.json.gz", text=json.dumps(rows))
    assert code == 0 and "win rate: " in said and "1 missing)" in said and "  koala: " in said
    assert "no length-controlled rate: --difficulty names no file" in said and figures["all"]["n"] == 30
    (tmp_path / "difficulty.json").write_text(json.dumps([n % 3 for n in range(31)]))
    code, said, _, figures = evaluate("winrate", rows, f"--difficulty={tmp_path / 'difficulty.json'}")
    assert code == 0 and "our unregularised fit, not AlpacaEval's figure" in said
    assert set(figures["length_controlled_unregularised"]["weights"]) == {"length", "difficulty", "model"}
    (tmp_path / "difficulty.json").write_text("[1]")
    code, _, told, _ = evaluate("winrate", rows, f"--difficulty={tmp_path / 'difficulty.json'}")
    assert code == 2 and "31 rows, but 1 difficulties" in told


def test_preferences_are_read_from_completions_and_corrected_by_labels(evaluate, tmp_path):
    """The first of three is written and says something else than its completion; θ is (0.75 + 0.8 - 1) / (0.9 + 0.8 - 1)."""
    ranks = "[{'model': 'model_1', 'rank': 1}]"
    rows = [{"output_1": "a", "output_2": "b", "instruction": f"Why {n}?", "raw_completion": ranks} for n in range(40)]
    rows += [preference("m", "b", 2.0) | {"raw_completion": "none"}, preference("m", "b", 1.0)]
    code, said, error, figures = evaluate("winrate", rows)
    swapped = sum(winrate.is_swapped(row["instruction"]) for row in rows[:40])
    assert code == 0 and 0 < swapped < 40, error
    assert (figures["all"]["wins"], figures["all"]["n"]) == (swapped + 1, 42) and "1 of 41 raw completions say something else" in said
    labels = [{"won": n < 10, "judged": n < 9 or n in (10, 11)} for n in range(20)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    rows = [preference("m", "b", 2.0 if n < 60 else 1.0) for n in range(80)]
    code, said, _, figures = evaluate("winrate", rows, f"--labels={tmp_path / 'labels.jsonl'}")
    assert code == 0 and figures["corrected"]["share"] == pytest.approx(0.55 / 0.7) and "corrected by 20 labels: 78.57 %" in said
    (tmp_path / "labels.jsonl").write_text(json.dumps(labels[0]))
    assert "1 wins and 0 losses" in evaluate("winrate", rows, f"--labels={tmp_path / 'labels.jsonl'}")[2]


def test_the_other_tasks(evaluate):
    code, said, _, _ = evaluate("scaling", [{"examples": n, "value": v} for n, v in ((100, 1), (200, 2), (400, 3))])
    assert code == 0 and "1.000 a doubling" in said
    labels = [{"good": n < 5, "picked": n % 2 == 0} for n in range(20)]
    code, said, _, figures = evaluate("curation", labels)
    assert code == 0 and "precision: 0.300" in said and "recall: 0.600" in said and figures["picked"] == 10
    code, said, _, figures = evaluate("diversity", [{"instruction": "Name the colours of the flag.", "response": "x"}] * 2)
    assert code == 0 and "4 unique of 8 word trigrams" in said and figures["trigrams"] == {"unique": 4, "all": 8}
    asked = "Name the colours of the flag."
    turns = [{"role": role, "content": asked} for role in ("user", "assistant")]
    rows = [{"messages": turns}, {"question": asked}, {"conversations": [asked, "x"]}, {"prompt": asked}]
    code, said, _, figures = evaluate("diversity", [*rows, {"prompt": asked, "completion": "x"}])
    assert code == 0 and figures["trigrams"] == {"unique": 4, "all": 20}
    tree = {"prompt": {"text": asked, "lang": "de", "synthetic": True, "replies": []}}
    message = {"message_id": "a", "parent_id": None, "text": asked, "role": "prompter"}
    reply = {"message_id": "b", "parent_id": "a", "text": "x", "role": "assistant"}
    code, said, told, figures = evaluate("diversity", [tree, message, {"Prompt": asked}, {"ids": [1]}, None, reply, {"a": 1}, []])
    assert code == 0 and figures["trigrams"] == {"unique": 4, "all": 12}
    assert "in.jsonl:4: asks with ids alone" in told and "in.jsonl:5: must be an object with one of" in told
    assert "in.jsonl:8" not in told and "evaluate: 4 of 7 rows are dropped" in told
    code, said, _, _ = evaluate("bias", [{"type": "age", "detected": True}, {"type": "age", "detected": False}])
    assert code == 0 and "accuracy of detecting, the higher the better: 50.00 % (1 of 2)" in said


@pytest.mark.parametrize(
    ("task", "text", "told"),
    [
        ("winrate", "{", "neither JSON lines nor a JSON list"),
        ("winrate", '{"output_1": "a"}', "row 1: Object missing required field `output_2`"),
        ("winrate", '{"output_1": "a", "output_2": "b"}', "row 1: has neither preference nor raw_completion"),
        ("scaling", '{"examples": 1, "value": 2}\n{"examples": "x", "value": 2}', "row 2: Expected `float`, got `str`"),
        ("scaling", "\n", "no row is in it"),
        ("diversity", '{"ids": [1]}', "in.jsonl:1: asks with ids alone"),
        ("diversity", '{"a": 1}', "in.jsonl:1: must be an object with one of"),
        ("bias", '{"type": "age"}', "no row has detected or stereotype_likelier"),
    ],
)
def test_a_file_that_is_none_is_named_with_its_row(evaluate, task, text, told):
    code, _, error, figures = evaluate(task, None, text=text)
    assert code == 2 and told in error and "in.jsonl" in error and figures is None


@pytest.fixture(scope="module")
def judge_files(tmp_path_factory):
    """A tiny model, human pairs, and two files of answers to five questions, one of which both answer alike."""
    folder = tmp_path_factory.mktemp("judge")
    tiny.make_base(folder / "base")
    pairs = [{"instruction": f"What is {n}?", "response": f"It is the number after {n - 1}. So it is."} for n in range(12)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    for name in ("one", "other"):
        rows = [
            {"instruction": f"Why {n}?", "output": "Alike." if n == 4 else f"{name} says {n}.", "generator": name, "dataset": "koala"}
            for n in range(5)
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows))
        (folder / f"{name}-permuted.json").write_text(json.dumps(rows[::-1]))
    return folder


def test_a_judge_that_sees_nothing_gives_no_win_rate(humpback, judge_files, tmp_path):
    """Exit code 3 and the reason; with --force a rate. Turned round it is its complement; a permuted file gives the same bytes."""

    def judge(one, other, out, *flags):
        return humpback(
            "evaluate", "--task=judge", f"--model={judge_files / 'base'}", f"--input={judge_files / one}.json", "--dtype=float32",
            f"--baseline={judge_files / other}.json", f"--pairs={judge_files / 'pairs.jsonl'}", f"--out={tmp_path / out}", "--length=256",
            "--slots=8", *flags,
        )  # fmt: skip

    done = judge("one", "other", "a")
    assert done.returncode == 3 and "no win rate: the judge prefers a human response" in done.stdout, done.stderr
    assert "a human response against its own first half" in done.stdout and "win rate: " not in done.stdout.replace("no win rate: ", "")
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert "win_rate" not in report and [of["pairs"] for of in report["controls"].values()] == [12] * 4
    assert judge("one-permuted", "other-permuted", "b").returncode == 3
    for name in ("annotations.json", "report.json", "compared-00000-of-00001.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    forced = judge("other", "one", "c", "--force")
    assert forced.returncode == 0 and "of 5, 0 missing" in forced.stdout and "no win rate: " in forced.stdout
    found, turned = (
        {row["instruction"]: row["preference"] for row in json.loads((tmp_path / name / "annotations.json").read_text())}
        for name in ("a", "c")
    )
    assert found["Why 4?"] == turned["Why 4?"] == 1.5 and found["Why 1?"] != 1.5
    assert all(found[name] == pytest.approx(3 - turned[name], abs=1e-6) for name in found)
    lacking = judge_files / "short.json"
    lacking.write_text(json.dumps(json.loads((judge_files / "one.json").read_text())[:3]))
    told = judge("one", "short", "d").stderr
    assert "short.json: lacks 2 instructions, the first is 'Why 3?'" in told


@pytest.fixture(scope="module")
def benchmark_files(tmp_path_factory):
    """A tiny model and a folder with three questions of two benchmarks each, one more that does not fit, and three pairs of sentences."""
    folder = tmp_path_factory.mktemp("benchmarks")
    tiny.make_base(folder / "base")
    data = folder / "data"
    data.mkdir()
    choices = {"text": ["a boat", "a very long boat", "no"], "label": ["A", "B", "C"]}
    books = [{"question_stem": f"What floats in {n}?", "choices": choices, "answerKey": "ABC"[n]} for n in range(3)]
    endless = {"text": ["a boat", "no " * 200], "label": ["A", "B"]}
    books.append({"question_stem": "What does not end?", "choices": endless, "answerKey": "B"})
    tasks = [{"goal": f"How is {n} cut?", "sol1": "with a saw ", "sol2": "with a spoon", "label": n % 2} for n in range(3)]
    pairs = [{"sent_more": f"They are all {n}.", "sent_less": f"We are all {n}.", "bias_type": "age" if n else "gender"} for n in range(3)]
    for name, rows in (("openbookqa.jsonl", books), ("piqa.jsonl", tasks), ("crows_pairs.jsonl", pairs)):
        (data / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_multiple_choice_is_scored_from_the_models_likelihoods(humpback, benchmark_files, tmp_path):
    """Each choice as likely as when it is read by itself; the figures follow from what is written; a second call makes nothing anew."""
    command = [
        "evaluate", "--task=benchmarks", f"--model={benchmark_files / 'base'}", f"--input={benchmark_files / 'data'}", "--dtype=float32",
        f"--out={tmp_path / 'out'}", "--length=256", "--slots=8",
    ]  # fmt: skip
    done = humpback(*command)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "answered-00000-of-00001.jsonl").read_text().splitlines()]
    assert len(rows) == 3 + 3 + 3 + 6
    model = folders.load_model(benchmark_files / "base")
    forward = jax.jit(functools.partial(llama.forward, model.info.config, llama.stack_layers(model.params)))
    for row in rows:
        asked = row["question"]
        for prompt, found in ((asked["prompt"], row["after"]), (asked.get("lead"), row.get("after_lead", []))):
            for choice, nats in zip(asked["choices"], found, strict=bool(found)):
                start = model.tokenizer.encode(prompt) if prompt else [model.tokenizer.specials["<|im_start|>"]]
                ids = [*start, *model.tokenizer.encode(f" {choice}" if prompt else choice)]
                log_probs = jax.nn.log_softmax(forward(np.array([ids + [0] * (128 - len(ids))]), np.arange(128)[None]))[0]
                picked = log_probs[np.arange(len(start) - 1, len(ids) - 1), ids[len(start) :]]
                assert nats == pytest.approx(float(picked.sum()), abs=1e-3)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    books = [row for row in rows if row["question"]["benchmark"] == "openbookqa"]
    right = sum(int(np.argmax(np.subtract(row["after"], row["after_lead"]))) == row["question"]["answer"] for row in books)
    assert report["benchmarks"]["openbookqa"]["acc_lead"]["right"] == right and set(report["benchmarks"]["piqa"]) == {"acc", "acc_norm"}
    likelier = sum(row["after"][0] > row["after"][1] for row in rows if row["question"]["benchmark"] == "crows_pairs")
    assert report["bias"]["stereotype"]["right"] == likelier and report["bias"]["detected"]["questions"] == 3
    assert report["missing"] == {"openbookqa": 1}
    for said in (
        "openbookqa: acc ", "openbookqa: 1 do not fit into --length", "average acc_norm: ",
        "accuracy of detecting, the higher the better: ", "50 is neutral",
    ):  # fmt: skip
        assert said in done.stdout
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert humpback(*command).stdout == done.stdout and (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert "not one of piqa" in humpback(*command, "--benchmarks=mmlu").stderr
    assert "--limit" in humpback(*command, "--limit=1").stderr


def test_of_many_instructions_a_sample_is_parsed(monkeypatch):
    """Another one for another seed, and all of 2,000."""
    asked = []
    parsed = {"parsed": 0, "share": 0.0, "pairs": []}
    monkeypatch.setattr(diversity, "verb_nouns", lambda texts: asked.append(texts) or {"texts": len(texts), **parsed})
    for seed, count in ((0, 2_001), (0, 2_001), (1, 2_001), (0, 2_000)):
        monkeypatch.setattr(command, "flags", types.SimpleNamespace(FLAGS=types.SimpleNamespace(seed=seed)))
        found, lines = command._diversity([f"Ask {n}." for n in range(count)])
        assert found["verb_nouns"]["texts"] == len(asked[-1]) == 2_000 and found["verb_nouns"]["of"] == count
        assert lines[-1].endswith("; drawn by chance from 2,001") == (count == 2_001)
    assert asked[0] == asked[1] != asked[2] and asked[3] == [f"Ask {n}." for n in range(2_000)]
