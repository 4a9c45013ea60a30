"""How tests compile for this machine's CPU: quickly, or with every optimisation, as for a user.

Most of the suite's time would go into compiling thousands of tiny programs that run once or twice. Without LLVM's optimisations and
XLA's newer generator of loops they take a sixth of it. A test whose claim depends on them is marked `optimized` and sees what
users see: that rows and neighbours change no bit, what real weights give, how fast and large a user's program is.
"""

import os
from typing import Any

import jax
from jax._src import compiler  # options for every compilation have no public setting

from humpback.decoding import executables

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True, "xla_cpu_use_fusion_emitters": False}
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())  # for the processes that tests start

_own_flags = os.environ.get("XLA_FLAGS", "")
_get_options = compiler.get_compile_options
_now_quick = False


def share(folder: str) -> None:
    """This process, and those that it starts, keep in a folder what took long to compile, and read what is there."""
    values = {"compilation_cache_dir": folder, "persistent_cache_min_compile_time_secs": 0.1, "persistent_cache_enable_xla_caches": "none"}
    for name, value in values.items():
        os.environ[f"JAX_{name.upper()}"] = str(value)
        jax.config.update(f"jax_{name}", value)


def choose(quick: bool) -> None:
    """From now on programs are compiled so, here and in processes that are started; those of the other kind are forgotten."""
    global _now_quick
    if quick == _now_quick:
        return
    # A version that knows an option no more says so here. XLA reads the variable once, and must have done so before it is set.
    jax.jit(lambda x: x + 1).lower(0.0).compile(QUICK)
    os.environ["XLA_FLAGS"] = f"{_own_flags} {FLAGS}" if quick else _own_flags
    compiler.get_compile_options = _get_quick_options if quick else _get_options
    _now_quick = quick
    jax.clear_caches()
    executables.compiled.cache_clear()


def _get_quick_options(*arguments: Any, device_assignment: Any, env_options_overrides: dict | None = None, **named: Any) -> Any:
    """JAX's options for one compilation; on this machine's devices, and not on TPUs that are not here, with QUICK."""
    here = device_assignment.flat[0].platform == "cpu"
    overrides = {**(QUICK if here else {}), **(env_options_overrides or {})}
    return _get_options(*arguments, device_assignment=device_assignment, env_options_overrides=overrides, **named)
