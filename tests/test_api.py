"""The public API on tiny models, against whole forward passes; README's example; what an import costs."""

import functools
import math
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import humpback
from humpback import prompts
from humpback.errors import UserError
from humpback.model import llama
from humpback.models import folders
from tests import tiny

README = pathlib.Path(__file__).parents[1] / "README.md"
LENGTH = 640
PAIRS = [("Name a tool.", "A chisel cuts wood."), ("Why?", "Because it rains, and the rain is wet.")]
PAGE = next((README.parent / "humpback" / "demo" / "pages").glob("*.html"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> pathlib.Path:
    """A folder with runs/demo/backward and runs/demo/forward-2, the same tiny weights under both names."""
    folder = tmp_path_factory.mktemp("api")
    model = folders.load_model(tiny.make_base(folder / "base"))
    for name, direction in (("backward", "backward"), ("forward-2", "forward")):
        info = folders.ModelInfo(model.info.config, direction, model.info.wrapper)
        folders.save_model(folder / "runs" / "demo" / name, info, model.params, model.tokenizer)
    return folder


@pytest.fixture(scope="module")
def forward(runs):
    return humpback.load(runs / "runs" / "demo" / "forward-2", dtype="float32", length=LENGTH)


@pytest.fixture(scope="module")
def backward(runs):
    return humpback.load(runs / "runs" / "demo" / "backward", dtype="float32", length=LENGTH)


def log_probs(path: pathlib.Path, prompt: prompts.Prompt, lead: str = "") -> tuple[folders.Model, list[int], np.ndarray]:
    """The model, the prompt's ids with `lead` behind them, and the log-probabilities f32 [V] of what follows."""
    model = folders.load_model(path)
    wrapper = prompts.WRAPPERS[model.info.wrapper]
    ids = model.tokenizer.encode_wrapped(wrapper.prefix, prompt.content, wrapper.suffix) + model.tokenizer.encode(lead)
    return model, ids, np.asarray(jax.nn.log_softmax(whole_pass(model, ids)[-1]))


def whole_pass(model: folders.Model, ids: list[int]) -> jax.Array:
    """Logits f32 [T, V] of a sequence by itself; one program for all, as no token sees what fills up behind it."""
    padded_1T = np.zeros((1, LENGTH), np.int32)
    padded_1T[0, : len(ids)] = ids
    forward = jax.jit(llama.forward, static_argnums=0)
    return forward(model.info.config, llama.stack_layers(model.params), padded_1T, np.arange(LENGTH)[None])[0, : len(ids)]


def test_log_likelihood_is_that_of_a_whole_pass(runs, forward, backward):
    for loaded, name, condition, target in (
        (forward, "forward-2", lambda pair: prompts.forward_prompt(pair[0]), lambda pair: pair[1]),
        (backward, "backward", lambda pair: prompts.backward_prompt(pair[1]), lambda pair: pair[0]),
    ):
        expected = []
        for pair in PAIRS:
            model, ids, _ = log_probs(runs / "runs" / "demo" / name, condition(pair))
            ends = [*model.tokenizer.encode(target(pair)), model.tokenizer.eos_id]
            table = np.asarray(jax.nn.log_softmax(whole_pass(model, ids + ends)))
            expected.append(math.fsum(float(table[len(ids) - 1 + at, token]) for at, token in enumerate(ends)))
        assert loaded.log_likelihood(PAIRS) == pytest.approx(expected, abs=1e-3)


def test_ratings_are_the_mean_of_the_digits(runs, forward):
    expected = []
    for pair in PAIRS:
        model, _, row = log_probs(runs / "runs" / "demo" / "forward-2", prompts.rating_prompt(*pair, "expected"), "Score: ")
        weights = [math.exp(row[model.tokenizer.encode(f"Score: {digit}")[-1]]) for digit in (1, 2, 3, 4, 5)]
        expected.append(sum(digit * weight for digit, weight in zip((1, 2, 3, 4, 5), weights, strict=True)) / sum(weights))
    assert forward.rate(PAIRS) == pytest.approx(expected, abs=1e-4)
    assert forward.rate(PAIRS[::-1]) == forward.rate(PAIRS)[::-1]


def test_an_answer_depends_on_its_text_and_the_seed_alone(forward):
    texts = ["How do I sharpen a chisel?", "Why is the sky blue?", "How do I sharpen a chisel?"]
    answers = forward.generate(texts, temperature=2.0, top_p=1.0, max_new_tokens=12)
    assert answers == forward.generate(texts, temperature=2.0, top_p=1.0, max_new_tokens=12)
    assert forward.generate(texts[1:], temperature=2.0, top_p=1.0, max_new_tokens=12) == [answers[1], answers[0]]
    assert answers[2] != answers[0]  # one that comes twice is answered twice
    assert forward.generate(texts, seed=1, temperature=2.0, top_p=1.0, max_new_tokens=12) != answers


def test_greedy_begins_with_the_likeliest_token(runs, backward):
    text = "Iron pans rust when they stay wet."
    model, _, row = log_probs(runs / "runs" / "demo" / "backward", prompts.backward_prompt(text))
    [answer] = backward.backtranslate([text], temperature=0, max_new_tokens=1)
    assert answer == model.tokenizer.decode([int(row.argmax())]).strip()


@pytest.mark.parametrize(
    ("name", "call", "text"),
    [
        ("forward", lambda model: model.backtranslate(["x"]), "is a forward model; backtranslate needs backward"),
        ("backward", lambda model: model.generate(["x"]), "is a backward model; generate needs base or forward"),
        ("backward", lambda model: model.rate(PAIRS), "is a backward model; rate needs base or forward"),
        ("forward", lambda model: model.generate(["Why?", " "]), "text 1: is empty"),
        ("forward", lambda model: model.generate(["word " * 600]), "text 0: .* do not fit into 640"),
        ("forward", lambda model: model.log_likelihood([PAIRS[0], ("Why?", " ")]), "pair 1: has an empty response"),
    ],
)
def test_what_cannot_be_done_is_said(forward, backward, name, call, text):
    with pytest.raises(UserError, match=text):
        call({"forward": forward, "backward": backward}[name])


def test_a_wrong_folder_or_number_of_devices_is_said(runs):
    with pytest.raises(UserError, match="no such model folder"):
        humpback.load(runs / "nowhere")
    with pytest.raises(UserError, match="does not divide"):
        humpback.load(runs / "runs" / "demo" / "backward", tensor=3)


def test_the_example_of_the_readme_runs(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    monkeypatch.setattr(humpback, "load", functools.partial(humpback.load, length=LENGTH, dtype="float32"))  # fewer programs
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_a_page_becomes_segments_without_jax():
    program = (
        "import sys, humpback\n"
        f"html = open({str(PAGE)!r}, encoding='utf-8').read()\n"
        "first, *_ = segments = humpback.segment(html, url='http://a/b')\n"
        "assert 600 <= len(first.text) <= 3_000 and first.header in html and first.text.split()[0] in html\n"
        "assert [each.text for each in humpback.segment(html.encode(), 'http://a/b')] == [each.text for each in segments]\n"
        "assert humpback.segment(html, min_chars=9_000, max_chars=9_001) == []\n"
        "assert 'jax' not in sys.modules, 'JAX was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_wrong_field_of_segments_is_said():
    with pytest.raises(UserError, match="has no field 'minimum'"):
        humpback.segment("<p>", minimum=3)
    with pytest.raises(UserError, match=r"segments.min_chars: 'x' is not of type int"):
        humpback.segment("<p>", min_chars="x")
