"""Reads llama2.c's stories260K.bin, a trained LLaMA of 260,032 parameters, into our config and tree. For tests only."""

import pathlib
import struct

import numpy as np

from humpback.model.llama import LlamaConfig, Params


def load(path: pathlib.Path) -> tuple[LlamaConfig, Params]:
    """Seven int32 (dim, hidden, layers, heads, kv heads, vocabulary, positions), then float32 tensors, output rows first.

    Its rotary pairs are neighbours (2i, 2i + 1); ours are halves (i, i + H/2): the rows of q and k are put in our order.
    """
    data = path.read_bytes()
    D, F, L, N, K, V, positions = struct.unpack("<7i", data[:28])
    H = D // N
    cfg = LlamaConfig(V, D, L, N, K, H, F, rope_theta=1e4, rms_eps=1e-5, tied=True, max_positions=positions)
    floats = np.frombuffer(data, np.float32, offset=28)
    used = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal used
        used += int(np.prod(shape))
        return floats[used - int(np.prod(shape)) : used].reshape(shape)

    def halves(rows_LHeadsHD: np.ndarray) -> np.ndarray:
        return np.concatenate([rows_LHeadsHD[:, :, 0::2], rows_LHeadsHD[:, :, 1::2]], axis=2)

    embedding = take(V, D)
    attention_norm = take(L, D)
    q = halves(take(L, N, H, D)).transpose(0, 3, 1, 2)
    k = halves(take(L, K, H, D)).transpose(0, 3, 1, 2)
    v = take(L, K, H, D).transpose(0, 3, 1, 2)
    o = take(L, D, N, H).transpose(0, 2, 3, 1)
    ffn_norm = take(L, D)
    gate = take(L, F, D).transpose(0, 2, 1)
    down = take(L, D, F).transpose(0, 2, 1)
    up = take(L, F, D).transpose(0, 2, 1)
    final_norm = take(D)
    take(2, positions, H // 2)  # llama2.c's cosines and sines
    if used != floats.size:
        raise ValueError(f"{path} has {floats.size} numbers, its header says {used}")
    stacked = {
        "attention_norm": attention_norm, "q": q, "k": k, "v": v, "o": o,
        "ffn_norm": ffn_norm, "gate": gate, "up": up, "down": down,
    }  # fmt: skip
    layers = {str(layer): {name: array[layer] for name, array in stacked.items()} for layer in range(L)}
    return cfg, {"embedding": embedding, "layers": layers, "final_norm": final_norm}
