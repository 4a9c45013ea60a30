"""XLA's workarounds on a CPU: each in the compiled text, and the plain way beside it, as the jaxlib that is installed compiles it."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from jax import lax

from humpback import config
from humpback.decoding import sampling
from humpback.model import attention, cpu, llama, modules, products

BF16, F32 = jnp.bfloat16, jnp.float32
pytestmark = pytest.mark.optimized

LOOKED_AT = ("0.10.2", "0.12.0")
narrow_products = pytest.mark.skipif(config.cpu_dtype() != "bfloat16", reason="this CPU has no instructions for bfloat16 products")


def array(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


def text(function, *arguments):
    """What XLA made of it for the CPU, without its notes."""
    return re.sub(r", metadata=\{[^}]*\}", "", jax.jit(function).lower(*arguments).compile().as_text())


def operands(compiled):
    """The types of the left operands of the products."""
    types = []
    for computation in compiled.split("\n\n"):
        of = dict(re.findall(r"%([\w.-]+)(?:: | = )(\w+)\[", computation)) | dict(re.findall(r"([\w.-]+): (\w+)\[", computation))
        types += [of[name] for name in re.findall(r" dot\(%([\w.-]+), ", computation)]
    return types


def count(pattern, compiled):
    return len(re.findall(pattern, compiled))


def needed(*versions):
    """Whether the installed jaxlib needs the workaround, which is said of those that were looked at; newer ones may go without."""
    if jaxlib.__version__ not in LOOKED_AT:
        pytest.skip(f"what jaxlib {jaxlib.__version__} needs was not looked at; cpu.py says what was")
    return jaxlib.__version__ in versions


@narrow_products
def test_products_come_out_in_float32():
    a, b = array(64, 32, dtype=BF16), array(48, 32, dtype=BF16)
    assert operands(text(functools.partial(products.einsum, "ri,oi->ro"), a, b)) == ["bf16"]
    plain = operands(text(functools.partial(jnp.einsum, "ri,oi->ro"), a, b))
    assert plain == (["f32"] if needed("0.10.2") else ["bf16"])


@narrow_products
@pytest.mark.parametrize("outputs", [16, 48])
def test_gradients_are_products_of_turned_matrices(outputs):
    a, b = array(64, 32, dtype=BF16), array(64, outputs, dtype=BF16)
    plain = functools.partial(jnp.einsum, "ri,ro->io", preferred_element_type=F32)
    assert operands(text(products.crossed, a, b)) == ["bf16"]
    swapped = operands(text(lambda a, b: products.einsum("ir,ro->io", a.T, b), a, b))
    assert (operands(text(plain, a, b)) == ["f32"] and swapped == ["f32"]) == needed("0.10.2", "0.12.0")


def test_turning_spreads_a_nan_and_nothing_else():
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(jax.jit(cpu.turn)(x), x.T)
    x[0, 0] = np.nan
    assert np.isnan(jax.jit(cpu.turn)(x)).all()


@narrow_products
def test_several_matrices_are_one_product_forwards_and_two_backwards():
    def run(x, *weights):
        return sum(jnp.sum(out) for out in products.matmul(jnp.dtype(BF16), x, weights))

    given = array(64, 32), array(32, 48), array(32, 16), array(32, 24)
    assert operands(text(run, *given)) == ["bf16"]
    backward = text(jax.grad(lambda *given: run(*given) ** 2, argnums=(0, 1, 2, 3)), *given)
    assert operands(backward) == ["bf16"] * 3


@pytest.mark.parametrize("wide", [True, False])
def test_between_products_nothing_is_widened(wide):
    """One entry of a cache is changed, and a layer's array is put beside the others': only what changes is touched."""
    dtype = cpu.activation_dtype("cpu", BF16) if wide else BF16

    def write(cache_BSH, new_B1H, at_B):
        put = functools.partial(lax.dynamic_update_slice_in_dim, axis=0)
        return jax.vmap(put)(cache_BSH, new_B1H.astype(dtype), at_B)

    def layers(x, weights):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), x.astype(dtype)), x, weights)

    cache = text(lambda cache, new, at: lax.fori_loop(0, 5, lambda i, cache: write(cache, new + i, at + i), cache),
                 array(4, 96, 16, dtype=dtype), array(4, 1, 16), array(4, dtype=jnp.int32))  # fmt: skip
    stacked = text(layers, array(64, 32), array(6, 32, 32))
    widened = count(r"\[4,96,16\]\S* convert\(", cache) > 0 and count(r"\[6,64,32\]\S* convert\(", stacked) > 0
    assert widened == (not wide and needed("0.10.2"))


def test_rotary_tables_are_computed_once():
    cfg = llama.LlamaConfig(64, 32, 3, 2, 1, 16, 48)

    def plain(cfg, positions_BT):
        angles = positions_BT[..., None].astype(F32) * attention.inverse_frequencies(cfg)
        return jnp.cos(angles), jnp.sin(angles)

    def layers(make, positions_BT, x_BTNH, weights_LHH):
        tables = make(cfg, positions_BT)
        for weight_HH in weights_LHH:
            x_BTNH = attention.rotate(x_BTNH, tables) @ weight_HH
        return x_BTNH

    given = array(2, 24, dtype=jnp.int32), array(2, 24, 2, 16), [array(16, 16)] * 3
    assert count(r" cosine\(", text(functools.partial(layers, attention.rope_tables), *given)) == 1
    assert (count(r" cosine\(", text(functools.partial(layers, plain), *given)) >= 3) == needed("0.10.2", "0.12.0")


@narrow_products
def test_a_loop_of_steps_widens_no_embedding():
    def steps(look, table_VD, ids_B):
        def step(_, ids_B):
            rows_BD = jnp.take(*look(table_VD, ids_B), axis=0).astype(F32)
            return jnp.argmax(products.einsum("rd,vd->rv", rows_BD.astype(BF16), table_VD), -1).astype(jnp.int32)

        return lax.fori_loop(0, 9, step, ids_B)

    given = array(512, 64, dtype=BF16), array(4, dtype=jnp.int32)
    widened = r"tuple\S* \(.*f32\[512,64\]"  # beside what the loop carries
    assert not count(widened, text(functools.partial(steps, cpu.in_the_loop), *given))
    plain = text(functools.partial(steps, lambda table_VD, ids_B: (table_VD, ids_B)), *given)
    assert (count(widened, plain) > 0) == needed("0.10.2")


@narrow_products
def test_a_single_row_widens_no_head():
    cfg = llama.LlamaConfig(512, 64, 1, 4, 4, 16, 48, tied=True)
    params = {"embedding": array(512, 64, dtype=BF16), "final_norm": array(64)}
    ours = text(lambda params, x: modules.merge_outer(cfg, params).logits(x), params, array(1, 64, dtype=BF16))
    assert operands(ours) == ["bf16"] and not count(r"f32\[512,64\]", ours)
    plain = text(functools.partial(products.einsum, "rd,vd->rv"), array(1, 64, dtype=BF16), params["embedding"])
    assert (count(r"f32\[512,64\]", plain) > 0) == needed("0.10.2", "0.12.0")


def test_a_mask_is_not_written_out_for_every_head(monkeypatch):
    B, K, G, T, H = 2, 3, 2, 64, 16

    def layers(q_BKGTH, keys, values, used_BP):
        mask_BTS = attention._prompt_mask(used_BP, 0, T)
        for k_BKSH, v_BKSI in zip(keys, values):
            q_BKGTH = attention._prompt_block(q_BKGTH, k_BKSH, v_BKSI, mask_BTS)
        return q_BKGTH

    given = array(B, K, G, T, H), [array(B, K, T + 8, H)] * 3, [array(B, K, T + 8, H + 1)] * 3, array(B, 8, dtype=jnp.bool_)

    def written():
        """How many arrays of all heads' scores every layer takes."""
        compiled = text(lambda *given: layers(*given), *given)
        names = re.findall(rf"%(\S+) = f32\[{B},{K},{G * T},{T + 8}\]", compiled)
        return sum(count(rf"%{re.escape(name)}[,)]", compiled) >= 3 for name in names)

    assert written() == 0
    monkeypatch.setattr(cpu, "layer_by_layer", lambda *arrays: arrays)
    assert (written() > 0) == needed("0.10.2")


def test_the_scores_of_a_block_are_written_out_for_their_largest(monkeypatch):
    """What the barrier costs where it does: see cpu.largest_first."""
    q, k, v = array(1, 3, 2, 64, 16), array(1, 3, 64, 16), array(1, 3, 64, 17)

    def written():
        mask_BTS = attention._prompt_mask(None, 0, 64)
        return count(r"%\S+ = f32\[1,3,128,64\]\S* fusion", text(lambda *given: attention._prompt_block(*given, mask_BTS), q, k, v))

    assert (written() > 0) == needed("0.12.0")
    monkeypatch.setattr(cpu, "largest_first", lambda largest: largest)
    assert written() == 0


def test_a_long_cache_is_looked_at_in_chunks_and_a_short_one_whole():
    def look(S):
        run = lambda *given: attention.cache_attention(*given)  # noqa: E731
        return text(run, array(2, 4, 16), array(2, 2, 16, S), array(2, 2, S, 16), array(2, dtype=jnp.int32))

    short, long = look(cpu.LONG_CACHE), look(cpu.LONG_CACHE + 1)
    assert not count(r" while\(", short) and count(rf"\[2,2,16,{cpu.CHUNK}\]", long) and count(r" while\(", long)


def test_masses_are_summed_up_by_no_library():
    masses = array(4, 384, 128)
    ours = text(lambda x: sampling._total(jnp.exp(x)), masses)
    plain = text(lambda x: jnp.exp(x).sum(1).sum(-1), masses)
    assert not count("__ynn_fusion", ours)
    assert (count("__ynn_fusion", plain) > 0) == needed("0.10.2", "0.12.0")


def test_every_workaround_says_who_needs_it():
    """One that names no jaxlib and is not timed would stay for ever."""
    public = [value for name, value in vars(cpu).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert len(public) > 10
    assert [function.__name__ for function in public if not re.search(r"0\.10\.2|timed", function.__doc__)] == []
