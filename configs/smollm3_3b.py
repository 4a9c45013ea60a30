"""SmolLM3 3B, a base younger than the paper: Open Assistant seed, 502,133 web segments, two iterations, A_5, with the paper's values."""

from humpback import config, experiments


def get_config() -> config.Config:
    """`configs/smollm3_3b.py`; `base.source` and `segments.input` are set by flags."""
    cfg = experiments.paper("smollm3_3b")
    cfg.wrapper = "chatml"
    return cfg
