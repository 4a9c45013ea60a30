"""The config of `tests/tiny.py`'s runs: a dozen pages, two iterations, everything small."""

from humpback import config


def get_config() -> config.Config:
    """The inputs are set by flags, see `tiny.make_inputs`."""
    cfg = config.Config()
    cfg.wrapper = "chatml"
    cfg.segments.input = "package:humpback/demo/pages"
    cfg.segments.min_chars, cfg.segments.max_chars = 300, 800
    cfg.segments.limit = 12
    cfg.seed_pairs.limit = 16
    cfg.seed_pairs.held_out = 4
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.length, task.batch, task.steps, task.checkpoint_every = 256, 4, 4, 1
        task.lr, task.end_lr = 1e-3, 9e-4
    cfg.augment.max_new_tokens = 24
    cfg.curate.mode = "expected"
    cfg.curate.max_new_tokens = 16
    cfg.curate.select = "top_fraction"
    cfg.curate.fraction = 0.25
    cfg.answers.prompts, cfg.answers.max_new_tokens = 2, 24
    cfg.decoding.length = 160  # two buckets for each prompt: a program is dear, and longer prompts are cut
    cfg.decoding.slots = 4
    cfg.decoding.compute_dtype = "float32"
    return cfg
