"""LLaMA 7B, the paper's ablations: Open Assistant seed, 502,133 web segments, two iterations, A_5, with the paper's values."""

from humpback import config, experiments


def get_config(variant: str = "") -> config.Config:
    """`configs/llama_7b.py`, or with adapters `configs/llama_7b.py:lora`; `base.source` and `segments.input` are set by flags."""
    return experiments.paper("llama_7b", variant)
