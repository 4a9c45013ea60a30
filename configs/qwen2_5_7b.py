"""Qwen2.5 7B, a base younger than the paper: Open Assistant seed, 502,133 web segments, two iterations, A_5, with the paper's values."""

from humpback import config, experiments


def get_config() -> config.Config:
    """`configs/qwen2_5_7b.py`; `base.source` and `segments.input` are set by flags."""
    cfg = experiments.paper("qwen2_5_7b")
    cfg.wrapper = "chatml"
    return cfg
