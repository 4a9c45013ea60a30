"""Flags of libtpu's compiler, by generation: those of published runs of LLaMA's size. Nothing was timed on a TPU here.

Sources, read in November 2026: github.com/AI-Hypercomputer/maxtext, in src/MaxText/configs v4/22b.sh and v5e/llama2_7b.sh; what they
mean: benchmarks/xla_flags_library.py. v5p and v6e get none: libtpu 0.0.52 refuses there the fusion of all-gathers that is published.
tests/planning/test_tpu_flags.py asks the compiler, which ends over a flag that it does not know.
"""

import re
from collections.abc import MutableMapping

from humpback import internals, metadata

VARIABLE = "LIBTPU_INIT_ARGS"
_GATHERED_MEANWHILE = (  # weights are gathered for the next products while these are computed
    "--xla_enable_async_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
)
_REDUCED_LATER = (  # gradients that several slices share are reduced out of the loop over the layers
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)
FLAGS = {
    "v4": ("--xla_enable_async_all_gather=true",),
    "v5e": (*_GATHERED_MEANWHILE, *_REDUCED_LATER),
}
_TYPE = re.compile(r"(v4|v5litepod|v5e|v5p|v6e)-")


def set_flags(environment: MutableMapping[str, str]) -> None:
    """Sets the flags of this TPU machine's generation in VARIABLE, unless somebody has set it. To be called before JAX loads libtpu.

    Nothing happens on another machine, or where the metadata server does not say what this one is.
    """
    if VARIABLE in environment or environment.get("JAX_PLATFORMS") == "cpu" or not internals.on_tpu_machine():
        return
    if flags := FLAGS.get(_generation(environment)):
        environment[VARIABLE] = " ".join(flags)


def _generation(environment: MutableMapping[str, str]) -> str:
    """The name in FLAGS; "" where it is not known."""
    kind = environment.get("TPU_ACCELERATOR_TYPE", "")
    if not kind:
        try:
            kind = metadata.environment_of(metadata.tpu()).get("ACCELERATOR_TYPE", "")
        except metadata.Silent:
            return ""
    match = _TYPE.match(kind)
    return match[1].replace("litepod", "e") if match else ""
