"""The method on a TPU that costs nothing: Llama-3.2-1B on eight v5e chips (Kaggle), each stage within a session of nine hours.

Text and training are the paper's, with one iteration: M_1 is the result. Weights (`base.source`), pairs and pages are the user's to
bring; until then the demo's few stand in for both. docs/free_tpu.md has what `humpback plan` says of it.
"""

from humpback import config


def get_config(variant: str = "1b") -> config.Config:
    """`configs/free_tpu.py`."""
    if variant != "1b":
        raise ValueError(f"configs/free_tpu.py has no variant {variant!r}; it has :1b")
    cfg = config.paper("llama3_2_1b")
    cfg.iterations = 1
    cfg.segments.input = "package:humpback/demo/pages"
    cfg.seed_pairs.source = "package:humpback/demo/seed.jsonl"
    cfg.seed_pairs.held_out = 30
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.compute_dtype = config.DEVICE
    cfg.decoding.compute_dtype = config.DEVICE
    return cfg
