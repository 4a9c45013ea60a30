"""Qwen3 8B, a base younger than the paper: Open Assistant seed, 502,133 web segments, two iterations, A_5, with the paper's values."""

from humpback import config, experiments


def get_config(variant: str = "") -> config.Config:
    """`configs/qwen3_8b.py`, or with adapters `configs/qwen3_8b.py:lora`; `base.source` and `segments.input` are set by flags."""
    cfg = experiments.paper("qwen3_8b", variant)
    cfg.wrapper = "chatml"
    return cfg
