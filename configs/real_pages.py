"""The loop on pages nobody here wrote: launch/real_pages.sh on Debian's manuals, SmolLM2-135M-Instruct as the base, hours on a CPU.

As in configs/demo.py, these are not the paper's values. Pages and pairs are set by flags; the default pairs are the demo's.
"""

from humpback import config, experiments


def get_config() -> config.Config:
    """`configs/real_pages.py`."""
    cfg = experiments.smollm2()
    cfg.segments.max_chars = 1_600  # of the paper's 3,000: a target is never cut, and must fit into a row
    cfg.segments.limit = 300
    cfg.seed_pairs.source = "package:humpback/demo/seed.jsonl"
    cfg.seed_pairs.held_out = 30
    cfg.seed_pairs.limit = 64
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.steps, task.checkpoint_every = 6, 3
    return cfg
