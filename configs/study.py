"""Does it help at 135M? The experiment of launch/study.sh, which sets files by flags: docs/evaluation.md says what is asked.

Not the paper's values: every example is seen twice in every arm, so that an arm with more examples takes more steps.
"""

from humpback import config, experiments


def get_config() -> config.Config:
    """`configs/study.py`."""
    cfg = experiments.smollm2()
    cfg.iterations = 1
    cfg.segments.max_chars = 1_600  # a target is never cut, and must fit into a row
    cfg.segments.limit = 4_000
    cfg.seed_pairs.held_out = 40  # H1
    cfg.seed_pairs.limit = 54
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.epochs, task.checkpoint_every = 2.0, 20
    cfg.curate.beside = "likelihood"
    return cfg
