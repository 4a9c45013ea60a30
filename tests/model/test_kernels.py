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
    q, k, _, prefix = jax.tree.map(lambda x: x.astype(jnp.bfloat16), arrays(200, 77, 8, 4))
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
        assert not kernels.takes_splash(q.astype(jnp.float32), k, None, None)  # it would round them
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


@pytest.mark.parametrize(
    ("K", "H", "dtype", "mesh"), [(4, 128, "bfloat16", (2, 1, 2)), (2, 64, "float32", (1, 1, 4)), (1, 128, "bfloat16", (1, 1, 1))]
)
def test_writing_into_a_cache_equals_plain_xla(K, H, dtype, mesh):
    """Bit for bit, at the first, the last and all sorts of places, of which two rows share a tile; all else stays."""
    B, S = 4, 384
    cache = [jax.random.normal(jax.random.key(i), shape).astype(dtype) for i, shape in enumerate([(B, K, H, S), (B, K, S, H)])]
    new = [jax.random.normal(jax.random.key(i), (B, K, H)) for i in (2, 3)]
    at_B = jnp.array([0, 383, 128, 143])
    expected = llama._write(cache[0], new[0][..., None], at_B, axis=1), llama._write(cache[1], new[1][:, :, None], at_B, axis=0)
    with on(mesh):
        found = jax.jit(functools.partial(kernels.write_rows, interpret=True))(*cache, *new, at_B)
    for mine, plain in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(mine, np.float32), np.asarray(plain, np.float32))


def test_where_a_cache_is_written_by_the_kernel():
    k_BKHS = jnp.zeros((2, 4, 128, 256))
    assert not kernels.takes_write(k_BKHS)
    with on((2, 1, 4)):
        assert not kernels.takes_write(k_BKHS)
    with tpu():
        assert kernels.takes_write(k_BKHS) and not kernels.takes_write(k_BKHS[..., :200])


@pytest.mark.parametrize("heads", [2, 4])  # of keys: grouped queries, and one query a key head
@pytest.mark.parametrize("shared", [0, 20])
def test_a_step_that_attends_before_it_writes(monkeypatch, heads, shared):
    """llama.decode_step as on a TPU, of rows with nothing, little and much in their caches, against the order of a CPU."""
    cfg = llama.LlamaConfig(vocab_size=64, d_model=64, num_layers=2, num_heads=4, num_kv_heads=heads, head_dim=H, d_ff=64)
    params = llama.decoding_params(cfg, llama.init_params(cfg, jax.random.key(0)))
    _, cache = llama.prefill(cfg, params, jax.random.randint(jax.random.key(1), (4, 128), 0, 64), jnp.array([128] * 4))
    prefix = None
    if shared:
        _, before = llama.prefill(cfg, params, jax.random.randint(jax.random.key(2), (1, 50), 0, 64), jnp.array([50]))
        prefix = llama.Prefix(jax.tree.map(lambda x: x[0], before), jnp.full(4, shared))
    ids, filled = jnp.array([3, 5, 7, 9]), jnp.array([0, 1, 100, 127])
    expected = jax.jit(lambda *given: llama.decode_step(cfg, *given))(params, cache, ids, filled, prefix)
    monkeypatch.setattr(kernels, "takes_write", lambda _: True)
    monkeypatch.setattr(kernels, "write_rows", functools.partial(kernels.write_rows, interpret=True))
    with on((2, 1, 2)):
        found = jax.jit(lambda *given: llama.decode_step(cfg, *given))(params, cache, ids, filled, prefix)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0), found, expected)
    stale = jax.tree.map(lambda x: jnp.full_like(x, 1e3), cache)  # what lies beyond a row's entries
    beyond = jnp.arange(128) >= filled[:, None]
    mix = tuple((jnp.where(beyond[:, None, None], s, k), jnp.where(beyond[:, None, :, None], t, v)) for (k, v), (s, t) in zip(cache, stale))
    with on((2, 1, 2)):
        other = jax.jit(lambda *given: llama.decode_step(cfg, *given))(params, mix, ids, filled, prefix)
    np.testing.assert_array_equal(other[0], found[0])  # changes no bit


@pytest.mark.parametrize(
    ("T", "block", "steps"), [(128, 128, 1), (200, 256, 1), (320, 512, 1), (512, 512, 1), (640, 512, 3), (896, 512, 3), (2048, 512, 10)]
)
def test_rows_go_to_the_multiple_of_a_block_that_costs_least(T, block, steps):
    assert kernels.block_for(T) == block and kernels.steps_of(T, block) == steps
