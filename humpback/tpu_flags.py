"""Flags of libtpu's compiler, by generation: those of published runs of LLaMA's size. Nothing was timed on a TPU here.

Sources, read in November 2026: github.com/AI-Hypercomputer/maxtext, in src/MaxText/configs v4/22b.sh, v5e/llama2_7b.sh, v5p/llama2_7b.sh
and trillium/llama2_7b_4096.sh, whose speeds planning/roofline.py names; what they mean: benchmarks/xla_flags_library.py.
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
_TWO_CORES = (  # of a chip that are one device
    "--xla_tpu_megacore_fusion_allow_ags=false",
    "--xla_enable_async_collective_permute=true",
    "--xla_tpu_enable_ag_backward_pipelining=true",
)
_MORE_VMEM = ("--xla_tpu_scoped_vmem_limit_kib=98304",)  # of 128 MiB, for fused operations
FLAGS = {
    "v4": ("--xla_enable_async_all_gather=true",),
    "v5e": (*_GATHERED_MEANWHILE, *_REDUCED_LATER),
    "v5p": (*_GATHERED_MEANWHILE, *_REDUCED_LATER, *_TWO_CORES),
    "v6e": (*_GATHERED_MEANWHILE, *_MORE_VMEM),
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
