"""LLaMA 2 7B: Open Assistant seed, 502,133 web segments, two iterations, A_5, with the paper's values."""

from humpback import config, experiments


def get_config() -> config.Config:
    """`configs/llama2_7b.py`; `base.source` and `segments.input` are set by flags."""
    return experiments.paper("llama2_7b")
