"""Our logits against transformers' on tiny random models, odd values in every field, 200 positions, float32."""

import jax.numpy as jnp
import numpy as np
import pytest

from humpback.model import llama
from tests.golden import make_llama_logits
from tests.golden.llama_cases import CASES, POSITIONS, make_ids, make_params

pytest.importorskip("torch", reason="parity with transformers needs torch: pip install '.[parity]'")
pytest.importorskip("transformers", reason="parity needs transformers: pip install '.[parity]'")


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers(name):
    cfg = CASES[name]
    theirs = make_llama_logits.hf_logits(name)
    positions_BT = jnp.broadcast_to(jnp.arange(POSITIONS), (2, POSITIONS))
    ours = llama.forward(cfg, llama.stack_layers(make_params(name, cfg)), jnp.asarray(make_ids(name, cfg)), positions_BT)
    assert theirs.std() > 0.5  # logits so small that any two models agree would prove nothing
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    golden = np.load(make_llama_logits.PATH)[name]  # and the golden file is what transformers says today
    np.testing.assert_allclose(golden, theirs[:, make_llama_logits.SHOWN], atol=2e-5, rtol=0)
