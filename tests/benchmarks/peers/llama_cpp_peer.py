"""llama.cpp by its low-level calls, several sequences in one batch, for the benchmark of decoding (answering.py). Runs in .venv-llama.

It reads the quickstart's own GGUF file, whose weights have 4 bits: less to read than any other side has.
"""

import os
import time
from typing import Any

import llama_cpp
from answering import answer

BATCH = 512  # tokens of one call
MODELS: dict[str, Any] = {}
SILENT = llama_cpp.llama_log_callback(lambda *_: None)


def versions() -> dict[str, str]:
    """Of the libraries."""
    return {"llama_cpp": llama_cpp.__version__}


def load(name: str, folder: str, dtype: str) -> dict[str, Any]:
    """The file model.gguf of a folder, under a name; `dtype` is that of the file."""
    llama_cpp.llama_log_set(SILENT, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(f"{folder}/model.gguf".encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise ValueError(f"{folder}/model.gguf: llama.cpp cannot read it")
    MODELS[name] = model
    return {}


def generate(
    name: str, batches: list[list[list[int]]], new_tokens: int, ends: list[int], head: int, temperature: float, top_p: float
) -> dict[str, Any]:
    """Prompts, batch by batch, a sequence each; the seconds of the whole and the tokens written; the same from the first draws on.
    `ends` and `head` have no use here: every sequence gets all its tokens.
    """
    seconds, later, written = 0.0, 0.0, 0
    for rows in batches:
        longest = max(map(len, rows)) + new_tokens
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = -(-longest // 256) * 256 * len(rows), len(rows)
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = os.cpu_count()
        context = llama_cpp.llama_init_from_model(MODELS[name], params)
        samplers = [_sampler(temperature, top_p, seed) for seed in range(len(rows))]
        batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        started = time.perf_counter()
        drawn = [_read(context, batch, number, row, samplers[number]) for number, row in enumerate(rows)]
        first = time.perf_counter()
        for step in range(new_tokens - 1):
            tokens = [(token, len(row) + step, number, True) for number, (token, row) in enumerate(zip(drawn, rows, strict=True))]
            _decode(context, batch, tokens)
            drawn = [llama_cpp.llama_sampler_sample(sampler, context, number) for number, sampler in enumerate(samplers)]
        seconds, later = seconds + time.perf_counter() - started, later + time.perf_counter() - first
        written += len(rows) * new_tokens
        for sampler in samplers:
            llama_cpp.llama_sampler_free(sampler)
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
    records = sum(map(len, batches))
    return {"seconds": seconds, "tokens": written, "later_seconds": later, "later_tokens": written - records}


def _sampler(temperature: float, top_p: float, seed: int) -> Any:
    sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for part in (
        llama_cpp.llama_sampler_init_temp(temperature),
        llama_cpp.llama_sampler_init_top_p(top_p, 1),
        llama_cpp.llama_sampler_init_dist(seed),
    ):
        llama_cpp.llama_sampler_chain_add(sampler, part)
    return sampler


def _read(context: Any, batch: Any, number: int, ids: list[int], sampler: Any) -> int:
    """Reads a prompt as sequence `number`; the first token that is drawn after it."""
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        _decode(context, batch, [(token, start + i, number, start + i == len(ids) - 1) for i, token in enumerate(part)])
    return llama_cpp.llama_sampler_sample(sampler, context, -1)


def _decode(context: Any, batch: Any, tokens: list[tuple[int, int, int, bool]]) -> None:
    """One call for (token, position, sequence, whether its logits are wanted)."""
    batch.n_tokens = len(tokens)
    for i, (token, position, sequence, wanted) in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, position, 1, sequence, wanted
    if code := llama_cpp.llama_decode(context, batch):
        raise ValueError(f"llama_decode returned {code}")


if __name__ == "__main__":
    answer(versions, load, generate)
