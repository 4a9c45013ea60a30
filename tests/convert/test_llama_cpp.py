"""llama.cpp's own vocabularies and the ids of its texts, where HUMPBACK_LLAMA_CPP names them (tests/golden/llama_cpp.py brings them)."""

import pathlib

import pytest

from humpback.convert import gguf, vocabulary

SEPARATOR = "\n__ggml_vocab_test__\n"


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "llama-bpe", "qwen2"])
def test_each_text_has_llama_cpps_ids(llama_cpp, name):
    file = str(llama_cpp / "models" / f"ggml-vocab-{name}.gguf")
    texts = pathlib.Path(f"{file}.inp").read_bytes().decode().removesuffix(SEPARATOR).split(SEPARATOR)
    ids = [[int(number) for number in line.split()] for line in pathlib.Path(f"{file}.out").read_text().splitlines()]
    tokenizer = vocabulary.from_gguf(gguf._fields(gguf._open(file), file), file)
    assert len(texts) == len(ids) == 46 and max(map(len, ids)) > 50
    for text, wanted in zip(texts, ids, strict=True):
        assert tokenizer.encode(text) == wanted, repr(text)
