"""LLaMA 3 8B, a base younger than the paper: Open Assistant seed, 502,133 web segments, two iterations, A_5, with the paper's values."""

from humpback import config, experiments


def get_config(variant: str = "") -> config.Config:
    """`configs/llama3_8b.py`, or with adapters `configs/llama3_8b.py:lora`; `base.source` and `segments.input` are set by flags."""
    return experiments.paper("llama3_8b", variant)
