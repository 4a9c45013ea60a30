"""The attention kernel, in Pallas' interpret mode, against plain XLA; and where it is chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.model import attention, kernels, llama, sharding

H = 128
# T, P (0: no prefix), N, K, H, mesh (data, fsdp, tensor): multi-head, grouped, with fewer key heads than chips, and small heads.
CASES = [
    (256, 0, 4, 4, H, (1, 1, 1)),
    (300, 0, 4, 2, H, (1, 2, 2)),
    (200, 77, 8, 4, H, (2, 1, 4)),
    (130, 300, 4, 1, H, (1, 1, 4)),
    (128, 40, 8, 2, 64, (2, 1, 4)),
]


def arrays(T, P, N, K, H=H, B=2):
    """q, k, v, and a prefix of which the rows use all but one and none."""
    keys = iter(jax.random.split(jax.random.key(T + P), 5))
    q, k, v = (jax.random.normal(next(keys), (B, T, heads, H)) for heads in (N, K, K))
    if not P:
        return q, k, v, None
    prefix = jax.random.normal(next(keys), (K, H, P)), jax.random.normal(next(keys), (K, P, H)), jnp.array([P - 1, 0])
    return q, k, v, prefix


def ragged(T, B=2):
    """Segment numbers of packed rows, the last ones padding."""
    return jnp.array([np.searchsorted([T // 3, T // 2, T - 20 - b], np.arange(T), side="right") for b in range(B)])


def on(shape):
    return jax.set_mesh(sharding.make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))]))


@pytest.mark.parametrize(("T", "P", "N", "K", "H", "mesh"), CASES)
def test_the_kernel_equals_plain_xla(T, P, N, K, H, mesh):
    q, k, v, prefix = arrays(T, P, N, K, H)
    with on(mesh):
        found = jax.jit(functools.partial(kernels.splash_attention, interpret=True))(q, k, v, None, prefix)
    np.testing.assert_allclose(found, attention.prompt_attention(q, k, v, prefix), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("N", "K", "H", "mesh"), [(4, 2, H, (1, 2, 2)), (4, 1, H, (1, 1, 4)), (2, 2, 64, (1, 2, 1))])
def test_segments_and_gradients(N, K, H, mesh):
    T = 256
    q, k, v, _ = arrays(T, 0, N, K, H)
    segments_BT, target = ragged(T), jax.random.normal(jax.random.key(9), q.shape)

    def loss(attend, q, k, v):
        out = attend(q, k, v, segments_BT)
        return (out * target).mean(), out

    plain = jax.jit(jax.value_and_grad(functools.partial(loss, attention.causal_attention), argnums=(0, 1, 2), has_aux=True))
    kernel = functools.partial(loss, functools.partial(kernels.splash_attention, interpret=True))
    with on(mesh):
        (_, found), gradients = jax.jit(jax.value_and_grad(kernel, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    (_, expected), expected_gradients = plain(q, k, v)
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * float(jnp.abs(theirs).max()), rtol=0)


def tpu(tensor=4):
    mesh = jax.sharding.AbstractMesh((2, 1, tensor), sharding.MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    return jax.sharding.use_abstract_mesh(mesh.update(abstract_device=jax.sharding.AbstractDevice("TPU v5 lite", 1, platform="tpu")))


def test_where_the_kernel_runs():
    """On a TPU, whatever this host is, for all it can take; nowhere else."""
    q, k, _, prefix = arrays(200, 77, 8, 4)
    segments_BT = ragged(200)
    assert not kernels.takes_splash(q, k, None, prefix)  # no mesh
    with on((2, 1, 4)):
        assert not kernels.takes_splash(q, k, None, prefix)
    with tpu():
        assert kernels.takes_splash(q, k, None, prefix) and kernels.takes_splash(q, k, segments_BT, None)
        assert not kernels.takes_splash(q, k, segments_BT, prefix)
        assert kernels.takes_splash(q[..., :64], k[..., :64], None, None)  # SmolLM2's head size, filled up
        assert not kernels.takes_splash(q[:, :100], k[:, :100], None, None)
        assert not kernels.takes_splash(q, k[:, :, :3], None, None)  # neither divides the other
    with tpu(tensor=3):
        assert not kernels.takes_splash(q, k, None, None)  # 8 heads on 3 chips


def test_a_prefill_with_the_kernel(monkeypatch):
    """llama.prefill as on a TPU, ragged rows after a prefix, against the same without the kernel; logits and cache."""
    cfg = llama.LlamaConfig(vocab_size=64, d_model=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=H, d_ff=64)
    params = llama.decoding_params(cfg, llama.init_params(cfg, jax.random.key(0)))
    ids_BT = jax.random.randint(jax.random.key(1), (2, 150), 0, 64)
    _, prefix = llama.prefill(cfg, params, ids_BT[:1, :50], jnp.array([50]))
    prefix = jax.tree.map(lambda x: x[0], prefix)

    def prefill(params, ids_BT, prefix):  # a function of its own for each trace
        return llama.prefill(cfg, params, ids_BT, jnp.array([140, 9]), llama.Prefix(prefix, jnp.array([50, 20])))

    expected = jax.jit(prefill)(params, ids_BT, prefix)
    used = []
    monkeypatch.setattr(kernels, "takes_splash", lambda *_: used.append(1) or True)
    monkeypatch.setattr(kernels, "splash_attention", functools.partial(kernels.splash_attention, interpret=True))
    with on((2, 1, 2)):
        found = jax.jit(lambda *values: prefill(*values))(params, ids_BT, prefix)
    assert len(used) == cfg.num_layers - 1  # the last layer has one query a row
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b[0], atol=1e-5, rtol=0), found, expected)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5, rtol=0)
