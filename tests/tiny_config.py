"""The config of `tests/tiny.py`'s runs: a dozen pages, two iterations, everything small."""

from humpback import config


def get_config() -> config.Config:
    """base.source is set by flags."""
    cfg = config.Config()
    cfg.wrapper = "chatml"
    cfg.segments.input = "package:humpback/demo/pages"
    cfg.segments.max_chars = 1_000
    cfg.segments.limit = 12
    cfg.seed_pairs.source = "package:humpback/demo/seed.jsonl"
    cfg.seed_pairs.limit = 16
    cfg.seed_pairs.held_out_source = "package:humpback/demo/held_out.jsonl"
    cfg.seed_pairs.held_out = 4
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.length, task.batch, task.steps, task.checkpoint_every = 768, 4, 4, 1
        task.lr, task.end_lr = 1e-3, 9e-4
    cfg.augment.max_new_tokens = 16
    cfg.curate.mode = "expected"
    cfg.curate.select = "top_fraction"
    cfg.curate.fraction = 0.25
    cfg.decoding.length = 1_024
    cfg.decoding.slots = 4
    cfg.mesh.fsdp = 1
    return cfg
