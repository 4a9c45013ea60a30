"""The quickstart: the whole loop on a laptop's CPU with real weights, embedded pages and pairs, in a quarter of an hour.

These are not the paper's values: the base is SmolLM2-135M-Instruct, which has been instruction-tuned before, the sets are tiny and
the learning rate is five times the paper's, so that a few steps show an effect. `:ci` cuts segments, steps and held-out pairs. `:lora`
trains adapters, at the rate for fewer than 100 steps, fifteen times that of all weights.
"""

from humpback import config, experiments


def get_config(variant: str = "") -> config.Config:
    """`configs/demo.py`, `configs/demo.py:ci` or `configs/demo.py:lora`."""
    cfg = experiments.smollm2()
    cfg.segments.input = "package:humpback/demo/pages"
    cfg.segments.max_chars = 1_050  # a target is never cut, and must fit into a row of forward.length
    cfg.segments.limit = 56
    cfg.seed_pairs.source = "package:humpback/demo/seed.jsonl"
    cfg.seed_pairs.held_out_source = "package:humpback/demo/held_out.jsonl"
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.steps, task.checkpoint_every = 5, 3
        task.tokens_at_once = 700  # a step goes through the model in four parts: a gigabyte less memory, and no slower on a CPU
    cfg.backward.length = 336  # one example a row with little padding
    cfg.forward_seed.length = cfg.forward.length = 304
    cfg.decoding.length = 640
    cfg.answers.prompts, cfg.answers.max_new_tokens = 5, 128
    if variant == "ci":
        cfg.segments.limit = 12
        cfg.seed_pairs.held_out = 20  # of 34: a verdict needs so many
        cfg.answers.prompts, cfg.answers.max_new_tokens = 2, 32
        cfg.backward.steps = cfg.forward_seed.steps = 3
        cfg.forward.steps = 1
    elif variant == "lora":
        experiments.with_lora(cfg, config.cpu_dtype(), rate=15)
    elif variant:
        raise ValueError(f"configs/demo.py has no variant {variant!r}; it has :ci and :lora")
    return cfg
