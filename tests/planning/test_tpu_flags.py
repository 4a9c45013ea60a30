"""The compiler takes the flags of each generation, and would not take others."""

import importlib.util
import os
import subprocess
import sys

import pytest

from humpback import tpu_flags
from humpback.planning import compile as planning

PROGRAM = """
import jax, jax.numpy as jnp
from humpback.model import sharding
from humpback.planning import compile as planning
mesh = sharding.make_mesh(fsdp=-1, devices=planning.topology({topology!r}))
x = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P("fsdp")))
planning.compile_for(jax.jit(jnp.matmul), (x, x))
"""
TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2"}


def compile_with(flags: str, topology: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, tpu_flags.VARIABLE: flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", PROGRAM.format(topology=topology)], env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason=f"libtpu is not installed: {planning.INSTALL}")
@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_flags_are_accepted(generation):
    assert set(TOPOLOGIES) == set(tpu_flags.FLAGS)
    done = compile_with(" ".join(tpu_flags.FLAGS[generation]), TOPOLOGIES[generation])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Unknown command line flag" in compile_with("--xla_tpu_nonsense=true", TOPOLOGIES[generation]).stderr
