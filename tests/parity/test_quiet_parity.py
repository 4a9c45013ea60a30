"""transformers has nothing to say when it loads an export: no warning, no weight that is new or left. Needs the `parity` extra.

By hand also under transformers 4.57, whose spelling the folders have: docs/weights.md.
"""

import logging
import warnings

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install -e .[parity])")
pytest.importorskip("transformers", reason="transformers is not installed (pip install -e .[parity])")

import transformers

from humpback.commands.convert import convert
from humpback.convert import gguf, vocabulary
from humpback.model.weights import LlamaConfig, RopeScaling, make_tree
from humpback.models import folders
from humpback.tokens.tokenizer import Tokenizer
from tests import tiny
from tests.convert.test_silent import chatml_files, llama2

# Name -> (family, wrapper, fields); the name also says which tokenizer.
CASES = {
    "sentencepiece": ("llama", "chatml", {"tied": True}),
    "tokenizer.json": ("llama", "inst", {"rope_factor": 2.0}),
    "llama3": ("llama", "plain", {"rope_scaling": RopeScaling(8.0, 1.0, 4.0, 64)}),
    "mistral": ("mistral", "inst", {}),
    "qwen2": ("qwen2", "chatml", {"qkv_bias": True}),
    "qwen3": ("qwen3", "chatml", {"qk_norm": True}),
    "smollm3": ("smollm3", "chatml", {"no_rope_every": 4, "tied": True}),
}


def make_tokenizer(name, request):
    if name in ("sentencepiece", "mistral"):
        return Tokenizer(chatml_files())
    if name == "tokenizer.json":
        return llama2()
    if name != "llama3":
        return tiny.make_tokenizer()
    file = str(request.getfixturevalue("llama_cpp") / "models" / "ggml-vocab-llama-bpe.gguf")  # 4.57 suspects so large vocabularies
    return vocabulary.from_gguf(gguf._fields(gguf._open(file), file), file)


@pytest.fixture
def said():
    """All that transformers logs from a warning on."""
    records: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.mark.parametrize("name", CASES)
def test_an_export_loads_without_a_word(tmp_path, request, said, name):
    family, wrapper, fields = CASES[name]
    tokenizer = make_tokenizer(name, request)
    cfg = LlamaConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, num_layers=5, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=20, family=family,
        max_positions=256, **fields,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    params = make_tree(cfg, lambda path, weight: rng.normal(size=weight.sizes(cfg)).astype(np.float32))
    folders.save_model(tmp_path / "m", folders.ModelInfo(cfg, "forward", wrapper), params, tokenizer)
    convert(str(tmp_path / "m"), str(tmp_path / "hf"), "huggingface")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "hf"))
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "hf"), output_loading_info=True)
        turns = [{"role": "user", "content": "How do I sharpen a chisel?"}]
        ids = theirs.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        model.generate(**ids, max_new_tokens=2)
    assert not said and not any(loaded.values()), (said, loaded)
