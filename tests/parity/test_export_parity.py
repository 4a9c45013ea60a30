"""What an exported folder does in other people's programs: transformers, lm-eval, sentencepiece. Needs the `parity` extra."""

import importlib.util
import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install -e .[parity])")
pytest.importorskip("transformers", reason="transformers is not installed (pip install -e .[parity])")

import sentencepiece
import torch
import transformers

from humpback.convert import export
from humpback.convert.chat_template import tokenizer_files
from humpback.model.weights import make_tree
from humpback.tokens.tokenizer import JSON_FILE, Tokenizer
from tests import stories260k, tiny
from tests.in_memory import from_params


def test_stories260k_writes_the_same_story(test_data, tmp_path):
    """A trained model, from a format of neither side: transformers' greedy ids are those computed independently of both."""
    folder = test_data / "stories260k"
    cfg, params = stories260k.load(folder / "stories260K.bin")
    model = from_params(cfg, params, Tokenizer.load(folder / "tok512.model"))
    export.write_folder(str(tmp_path), model, export.Beside("plain", "base"))
    golden = json.loads((folder / "greedy.json").read_text())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path)).eval()
    prompt, wanted = torch.tensor([golden["prompt_ids"]]), golden["greedy_ids"]
    assert len(wanted) > 64 + prompt.shape[1]
    found = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=len(wanted) - prompt.shape[1], do_sample=False, eos_token_id=None
    )
    assert found[0].tolist() == wanted


SCRIPTS = [
    (0x20, 0x7F), (0xA0, 0x180), (0x370, 0x400), (0x400, 0x500), (0x590, 0x600), (0x600, 0x700), (0x900, 0x980), (0xE00, 0xE80),
    (0x1100, 0x1200), (0x2000, 0x2070), (0x2190, 0x2200), (0x3040, 0x3100), (0x4E00, 0x5200), (0xAC00, 0xAE00), (0xFE00, 0xFE10),
    (0x1F300, 0x1F650), (0x1F3FB, 0x1F400), (0x1D400, 0x1D500), (0x10330, 0x10350), (0x0, 0x20),
]  # fmt: skip
ODD = [" ", "  ", "   ", "\t", "\n", "\r\n", "\u200b", "\u200d", "\u00a0", "\ufeff", "\u2028", "▁", "<s>", "</s>", "<unk>", "<0x0A>",
       "\x7f", "\x85", "\U000e0061", "1,234.5", "[INST]", "e\u0301", "👩‍🚀", "🇩🇪", "ﬁ", "Ⅷ", "＜", "aaaa", "...."]  # fmt: skip


def make_lines(count: int) -> list[str]:
    """Lines of many scripts, emoji, spaces, tabs and control characters. No NUL, which ends a C string."""
    generator = random.Random(7)
    lines = []
    for _ in range(count):
        pieces = []
        for _ in range(generator.randrange(1, 9)):
            low, high = generator.choice(SCRIPTS)
            word = "".join(chr(generator.randrange(max(low, 1), high)) for _ in range(generator.randrange(1, 12)))
            pieces += [word, generator.choice(ODD) if generator.random() < 0.4 else " "]
        lines.append("".join(pieces) if generator.random() < 0.5 else " " + "".join(pieces).rstrip(" "))
    return lines


def test_ten_thousand_lines_of_mistrals_vocabulary():
    """A real LLaMA-like sentencepiece model of 32,000 pieces: its own library, ours, and the tokenizer.json that is exported, read by
    us and by transformers."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None:
        pytest.skip("mistral-common (pip install --no-deps) is not installed")
    file = pathlib.Path(spec.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    ours = Tokenizer.load(file)
    exported = Tokenizer(tokenizer_files(ours, "", 2048), "exported")
    assert exported.kind == JSON_FILE and exported.vocab_size == ours.vocab_size == processor.vocab_size() == 32000
    lines = make_lines(10_000)
    assert len(set(lines)) > 9_900
    for line in lines:
        ids = processor.encode(line)
        assert ours.encode(line) == ids, repr(line)
        assert exported.encode(line) == ids, repr(line)
    assert sum(len(processor.encode(line)) for line in lines) > 200_000


TASK = """
task: ten_lines
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {file}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""


def test_lm_eval_takes_an_exported_folder(tmp_path):
    """On ten lines of its own; the accuracy is the one that the model's own log-likelihoods give."""
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed (pip install -e .[parity])")
    tokenizer = tiny.make_tokenizer()
    rng = np.random.default_rng(0)
    params = make_tree(tiny.CONFIG, lambda path, w: (rng.normal(size=w.sizes(tiny.CONFIG)) / 2).astype(np.float32))
    export.write_folder(str(tmp_path / "hf"), from_params(tiny.CONFIG, params, tokenizer), export.Beside("chatml", "base"))
    rows = [{"question": f"What is {i} and {i}?", "choices": [" It is a tool", " Nobody knows it"], "answer": i % 2} for i in range(10)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ten_lines.yaml").write_text(TASK.format(file=tmp_path / "lines.jsonl"))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={tmp_path / 'hf'},dtype=float32",
        "--tasks", "ten_lines", "--include_path", str(tmp_path / "tasks"), "--device", "cpu", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "out").rglob("results_*.json")
    result = json.loads(file.read_text())
    assert result["n-samples"]["ten_lines"]["effective"] == 10
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "hf"), dtype=torch.float32).eval()

    def likelihood(question: str, choice: str) -> float:
        """Of the choice's ids after the question's, the two encoded as one string."""
        start, ids = len(tokenizer.encode(question)), torch.tensor([tokenizer.encode(question + choice)])
        with torch.no_grad():
            logs = torch.log_softmax(theirs(ids).logits[0, :-1].double(), -1)
        return float(logs.gather(1, ids[0, 1:, None])[start - 1 :].sum())

    right = [int(np.argmax([likelihood(row["question"], choice) for choice in row["choices"]])) == row["answer"] for row in rows]
    assert result["results"]["ten_lines"]["acc,none"] == pytest.approx(np.mean(right))
