"""Mistral 7B, a base younger than the paper: Open Assistant seed, 502,133 web segments, two iterations, A_5, with the paper's values."""

from humpback import config, experiments


def get_config() -> config.Config:
    """`configs/mistral_7b.py`; `base.source` and `segments.input` are set by flags."""
    return experiments.paper("mistral_7b")
