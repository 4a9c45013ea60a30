"""The named sizes, with the hyper-parameters their authors published."""

from humpback.model.weights import LlamaConfig, RopeScaling


def _llama1(D: int, L: int, N: int, F: int, **other) -> LlamaConfig:
    values = {"num_kv_heads": N, "rms_eps": 1e-6, "max_positions": 2048, **other}
    return LlamaConfig(
        vocab_size=32000, d_model=D, num_layers=L, num_heads=N, head_dim=D // N, d_ff=F, **values
    )


def _llama2(D: int, L: int, N: int, F: int, **other) -> LlamaConfig:
    return _llama1(D, L, N, F, rms_eps=1e-5, max_positions=4096, **other)


def _llama3(D: int, L: int, N: int, F: int, **other) -> LlamaConfig:
    values = {"max_positions": 8192, **other}
    return LlamaConfig(
        vocab_size=128256, d_model=D, num_layers=L, num_heads=N, num_kv_heads=8, head_dim=D // N, d_ff=F,
        rope_theta=500000.0, rms_eps=1e-5, **values,
    )  # fmt: skip


def _smollm2(D: int, L: int, N: int, K: int, F: int, **other) -> LlamaConfig:
    values = {"rope_theta": 100000.0, "rms_eps": 1e-5, "max_positions": 8192, **other}
    return LlamaConfig(
        vocab_size=49152, d_model=D, num_layers=L, num_heads=N, num_kv_heads=K, head_dim=64, d_ff=F, tied=True, **values
    )


def _later(D: int, L: int, N: int, K: int, F: int, V: int, **other) -> LlamaConfig:
    return LlamaConfig(vocab_size=V, d_model=D, num_layers=L, num_heads=N, num_kv_heads=K, head_dim=128, d_ff=F, **other)


SIZES: dict[str, LlamaConfig] = {
    "llama_7b": _llama1(4096, 32, 32, 11008),
    "llama_13b": _llama1(5120, 40, 40, 13824),
    "llama_33b": _llama1(6656, 60, 52, 17920),
    "llama_65b": _llama1(8192, 80, 64, 22016, rms_eps=1e-5),
    "llama2_7b": _llama2(4096, 32, 32, 11008),
    "llama2_13b": _llama2(5120, 40, 40, 13824),
    "llama2_70b": _llama2(8192, 80, 64, 28672, num_kv_heads=8),
    "llama3_8b": _llama3(4096, 32, 32, 14336),
    "llama3_70b": _llama3(8192, 80, 64, 28672),
    "llama3_2_1b": _llama3(2048, 16, 32, 8192, tied=True, max_positions=131072, rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192)),
    "tinyllama_1b": _llama1(2048, 22, 32, 5632, num_kv_heads=4, rms_eps=1e-5),
    "smollm2_135m": _smollm2(576, 30, 9, 3, 1536),
    "smollm2_360m": _smollm2(960, 32, 15, 5, 2560),
    "mistral_7b": _later(4096, 32, 32, 8, 14336, 32768, rope_theta=1e6, max_positions=32768, family="mistral"),
    "qwen2_5_7b": _later(
        3584, 28, 28, 4, 18944, 152064, rope_theta=1e6, rms_eps=1e-6, max_positions=131072, qkv_bias=True, family="qwen2"
    ),
    "qwen3_8b": _later(4096, 36, 32, 8, 12288, 151936, rope_theta=1e6, rms_eps=1e-6, max_positions=32768, qk_norm=True, family="qwen3"),
    "smollm3_3b": _later(
        2048, 36, 16, 4, 11008, 128256, rope_theta=5e6, rms_eps=1e-6, tied=True, max_positions=65536, no_rope_every=4, family="smollm3"
    ),
    "smollm2_1b7": _smollm2(2048, 24, 32, 32, 8192, rope_theta=130000.0),
}
