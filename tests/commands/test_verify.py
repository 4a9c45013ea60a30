"""`humpback verify`: what counts as the same, what is said of a difference, and the exit code."""

import dataclasses

import numpy as np
import pytest

from humpback.commands import verify
from humpback.convert import comparison, sources
from humpback.errors import UserError
from humpback.model.weights import make_tree
from tests import hf_layout, tiny

CFG = dataclasses.replace(tiny.CONFIG, num_layers=2, tied=True)


def params(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return make_tree(CFG, lambda path, weight: (rng.normal(size=weight.sizes(CFG)) / 2).astype(dtype))


@pytest.fixture
def folder(tmp_path):
    """Writes a model and opens it."""

    def made(name, values, cfg=CFG, tokenizer=None):
        hf_layout.write_hf(tmp_path / name, cfg, values, tokenizer or tiny.make_tokenizer())
        return sources.open_source(str(tmp_path / name))

    return made


def test_tensors(folder):
    a = folder("a", params())
    assert list(comparison.compare_tensors(a, a)) == []
    changed = params()
    changed["layers"]["1"]["down"][3, 5] += 0.25
    (line,) = comparison.compare_tensors(a, folder("b", changed))
    assert line.startswith("tensor layers/1/down: 1 of 512 numbers differ, by up to 0.25 ")
    # Of two types the wider one is rounded: the same number or not the same.
    rounded = params(dtype=np.float16)
    half = folder("half", rounded)
    assert list(comparison.compare_tensors(a, half)) == list(comparison.compare_tensors(half, a)) == []
    rounded["embedding"][7, 7] = np.nextafter(rounded["embedding"][7, 7], np.float16(9))
    (line,) = comparison.compare_tensors(a, folder("half-2", rounded))
    assert line.startswith("tensor embedding: 1 of 8192 numbers differ")
    changed["layers"]["1"]["down"][3, 5] = 1e5
    c = folder("c", changed)
    lines = [line for pair in ((c, half), (half, c)) for line in comparison.compare_tensors(*pair) if "layers/1/down" in line]
    assert [line.partition("; ")[2] for line in lines] == ["float16 cannot hold the other's largest numbers"] * 2


def test_configs_and_tokenizers(folder):
    a = folder("a", params())
    b = folder("b", params(), dataclasses.replace(CFG, rope_theta=500.0))
    assert list(comparison.compare_configs(a, b)) == ["rope_theta is 10000.0 in the source and 500.0 in the target"]
    files = tiny.make_tokenizer().files()
    files["tokenizer_config.json"] = b'{"eos_token": "<|endoftext|>", "bos_token": "<|im_start|>", "add_bos_token": true}'
    files["tokenizer.json"] = files["tokenizer.json"].replace(b'"individual_digits":true', b'"individual_digits":false')
    other = type(a.tokenizer)(files)
    lines = list(comparison.compare_tokenizers(a.tokenizer, other, ["2024"]))
    assert lines[:2] == ["the tokenizer's eos_id is 2 in the source and 0 in the target",
                         "the tokenizer's bos_id is None in the source and 1 in the target"]  # fmt: skip
    assert list(comparison.compare_tokenizers(a.tokenizer, a.tokenizer, ["2024"])) == []


def test_outcomes():
    """KL and greedy text by hand on two positions and three tokens."""
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], np.float32))
    other = np.log(np.array([[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]], np.float32))
    a = comparison.Outcome(logits, [0, 1, 2], [0.5, 0.5, 0.00001])
    result = comparison.compare_outcomes(a, comparison.Outcome(other, [0, 2, 2], []), 1e-4)
    kl = 0.8 * np.log(2) + 0.2 * np.log(1 / 3)
    assert result.kl == (pytest.approx(kl / 2, rel=1e-5), pytest.approx(kl, rel=1e-5))
    assert result.apart == pytest.approx(np.log(3), rel=1e-5) and result.greedy_differs == 1
    assert [token for token, _, _ in result.top] == [0, 1, 2] and result.top[0][1:] == (pytest.approx(0.8), pytest.approx(0.4))
    close = comparison.compare_outcomes(a, comparison.Outcome(logits, [0, 1, 1], []), 1e-4)
    assert close.apart == 0 and close.greedy_differs is None  # the two best were as good as each other
    shorter = comparison.compare_outcomes(a, comparison.Outcome(logits, [0], []), 1e-4)
    assert shorter.greedy_differs == 1


def test_greedy_is_what_whole_passes_give(folder):
    """The longer way: the text so far from the beginning, once for each token."""
    a = folder("a", params())
    ids = a.tokenizer.encode("How do I cut a mortise")
    (outcome,) = comparison.run_here(a, [ids], 5)
    text = list(ids)
    for token in outcome.greedy:
        (step,) = comparison.run_here(a, [text], 0)
        assert step.logits.shape == (len(text), 512) and int(step.logits[-1].argmax()) == token
        text.append(token)
    assert len(outcome.greedy) == 5 or outcome.greedy[-1] == a.tokenizer.eos_id


def test_the_command(folder, tmp_path, humpback):
    folder("a", params())
    changed = params()
    changed["layers"]["0"]["v"][:, 0] += 1.0
    folder("b", changed)
    (tmp_path / "texts").write_text("How do I cut a mortise?\n\nTwo\n")

    def run(target, *flags):
        return humpback("verify", f"--source={tmp_path / 'a'}", f"--target={tmp_path / target}", *flags)

    same = run("a", f"--text=@{tmp_path / 'texts'}", "--tokens=3", "--runner=humpback")
    assert same.returncode == 0, same.stderr[-2000:]
    assert same.stdout.rstrip().endswith("\nthe same model") and "tensors: 20 of 20 have the same bits" in same.stdout
    assert "recognised as a Hugging Face folder" in same.stdout and same.stdout.count("next token") == 2
    other = run("b", "--text=How do I cut a mortise?", "--tokens=3", "--runner=humpback")
    assert other.returncode == verify.DIFFERENT == 3
    assert "tensor layers/0/v" in other.stdout and "more than --tolerance=0.0001" in other.stdout
    assert other.stdout.rstrip().endswith("NOT the same model")


def test_texts_that_are_none(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    assert verify.read_texts("") == [] and verify.read_texts("a\nb") == ["a\nb"]
    for given, message in ((f"@{tmp_path / 'nothing'}", "no such file"), (f"@{tmp_path / 'empty'}", "no text is in this file")):
        with pytest.raises(UserError, match=message):
            verify.read_texts(given)
