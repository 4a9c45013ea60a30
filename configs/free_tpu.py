"""The method on a TPU that costs nothing, by LoRA and for one iteration: M_1 is the result. Text and training are else the paper's.

    configs/free_tpu.py        Llama-3.2-1B on eight v5e chips, as Kaggle has them
    configs/free_tpu.py:8b     Llama-3 8B on eight v5e chips
    configs/free_tpu.py:int8   Llama-3.2-1B on one v5e chip, with frozen and decoded weights in int8, and a tenth of the segments

Each stage is to take less than a session of nine hours; docs/free_tpu.md says which ones do, by `humpback plan`.
Weights (`base.source`), pairs and pages are the user's to bring; until then the demo's few stand in for both.
"""

from humpback import config, experiments

SEGMENTS_ON_ONE_CHIP = 50_000


def get_config(variant: str = "1b") -> config.Config:
    """`configs/free_tpu.py`, or one of the variants above."""
    if variant not in ("1b", "8b", "int8"):
        raise ValueError(f"configs/free_tpu.py has no variant {variant!r}; it has :1b, :8b and :int8")
    cfg = experiments.paper("llama3_8b" if variant == "8b" else "llama3_2_1b", "lora")
    cfg.iterations = 1
    cfg.segments.input = "package:humpback/demo/pages"
    cfg.seed_pairs.source = "package:humpback/demo/seed.jsonl"
    cfg.seed_pairs.held_out = 30
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.compute_dtype = config.DEVICE
    cfg.decoding.compute_dtype = config.DEVICE
    if variant == "int8":
        for task in (cfg.backward, cfg.forward_seed, cfg.forward):
            task.lora_base = "int8"
        cfg.decoding.weights = "int8"
        cfg.segments.limit = SEGMENTS_ON_ONE_CHIP
    return cfg
