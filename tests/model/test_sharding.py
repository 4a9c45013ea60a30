"""Meshes and rules: every weight's sharding as a literal table, strict failures, 1 device = 8 devices."""

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from humpback.model import llama, sharding
from humpback.model.sharding import DECODING_RULES, TRAINING_RULES, make_mesh, param_shardings
from humpback.model.sizes import SIZES

MESH = (2, 2, 2)

# The shape of LLaMA 7B (32 key/value heads), and of a model with fewer key/value heads than queries.
TRAINING_TABLE = {
    "embedding": P("tensor", "fsdp"),
    "attention_norm": P(None),
    "q": P("fsdp", "tensor", None),
    "k": P("fsdp", "tensor", None),
    "v": P("fsdp", "tensor", None),
    "o": P("tensor", None, "fsdp"),
    "ffn_norm": P(None),
    "gate": P("fsdp", "tensor"),
    "up": P("fsdp", "tensor"),
    "down": P("tensor", "fsdp"),
    "final_norm": P(None),
    "head": P("fsdp", "tensor"),
}
DECODING_TABLE = {
    "embedding": P("tensor", None),
    "attention_norm": P(None),
    "q": P(None, "tensor", None),
    "k": P(None, "tensor", None),
    "v": P(None, "tensor", None),
    "o": P("tensor", None, None),
    "ffn_norm": P(None),
    "gate": P(None, "tensor"),
    "up": P(None, "tensor"),
    "down": P("tensor", None),
    "final_norm": P(None),
    "head": P(None, "tensor"),
}
# Eight shards of `tensor`, four key/value heads: k and v are whole on every shard.
FEW_HEADS_TABLE = {**DECODING_TABLE, "k": P(None, None, None), "v": P(None, None, None)}


def specs(tree):
    """leaf name -> its PartitionSpec, of the first layer and what is outside the layers."""
    outer = {name: leaf.spec for name, leaf in tree.items() if name != "layers"}
    layers = tree["layers"].get("0", tree["layers"])
    return {**outer, **{name: leaf.spec for name, leaf in layers.items()}}


@pytest.mark.parametrize(
    ("name", "mesh", "rules", "table"),
    [
        ("llama_7b", MESH, TRAINING_RULES, TRAINING_TABLE),
        ("llama_7b", MESH, DECODING_RULES, DECODING_TABLE),
        ("llama2_70b", (1, 2, 4), TRAINING_RULES, TRAINING_TABLE),
        ("llama2_70b", (1, 1, 8), DECODING_RULES, DECODING_TABLE),
        ("tinyllama_1b", (1, 1, 8), DECODING_RULES, FEW_HEADS_TABLE),
    ],
)
def test_sharding_of_every_weight(name, mesh, rules, table):
    cfg, mesh = SIZES[name], make_mesh(*mesh)
    shardings = param_shardings(cfg, mesh, rules)
    assert specs(shardings) == table
    assert jax.tree.structure(shardings) == jax.tree.structure(llama.abstract_params(cfg))
    assert all(specs({**shardings, "layers": {"0": layer}}) == table for layer in shardings["layers"].values())
    stacked = param_shardings(cfg, mesh, rules, stacked=True)
    in_layers = set(stacked["layers"])
    assert specs(stacked) == {leaf: P(None, *spec) if leaf in in_layers else spec for leaf, spec in table.items()}
    jax.tree.map(  # every array can really be cut like that
        lambda leaf, where: where.shard_shape(leaf.shape), llama.abstract_params(cfg), shardings
    )


def test_strict_failures():
    cfg, mesh = SIZES["llama_7b"], make_mesh(*MESH)
    without = {axis: rule for axis, rule in TRAINING_RULES.items() if axis != "ffn"}
    with pytest.raises(ValueError, match="no sharding rule for logical axis 'ffn'"):
        param_shardings(cfg, mesh, without)
    with pytest.raises(ValueError, match="sharding rule 'expert' is used by no weight"):
        param_shardings(cfg, mesh, {**TRAINING_RULES, "expert": "tensor"})
    with pytest.raises(ValueError, match="sharding rule 'ffn' names 'model'"):
        param_shardings(cfg, mesh, {**TRAINING_RULES, "ffn": "model"})
    with pytest.raises(ValueError, match="weight embedding: mesh axis 'tensor' is used by both 'vocab' and 'embed'"):
        param_shardings(cfg, mesh, {**TRAINING_RULES, "embed": ("fsdp", "tensor")})
    odd = dataclasses.replace(cfg, vocab_size=32001)
    with pytest.raises(ValueError, match=r"weight embedding: dimension V \('vocab'\) = 32001 is not divisible by mesh axis tensor = 2"):
        param_shardings(odd, mesh, TRAINING_RULES)
    three_heads = SIZES["smollm2_135m"]  # 3 key/value heads over 2 shards: neither cut nor fewer
    with pytest.raises(ValueError, match="weight layers/0/q: dimension N"):
        param_shardings(three_heads, mesh, TRAINING_RULES)
    with pytest.raises(ValueError, match=r"weight layers/0/k: dimension K \('kv_heads'\) = 3 is not divisible"):
        param_shardings(dataclasses.replace(three_heads, num_heads=12), mesh, TRAINING_RULES)


def test_arrays_of_a_vocabulary_that_does_not_divide_are_split_over_the_other_axes():
    cfg, mesh = SIZES["llama_7b"], make_mesh(*MESH)
    assert sharding.unpadded_shardings(cfg, mesh, TRAINING_RULES) == param_shardings(cfg, mesh, TRAINING_RULES)
    odd = sharding.unpadded_shardings(dataclasses.replace(cfg, vocab_size=32001), mesh, TRAINING_RULES)
    assert specs(odd) == {**TRAINING_TABLE, "embedding": P(None, "fsdp"), "head": P("fsdp", None)}


def test_meshes():
    mesh = make_mesh(2, -1, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert dict(make_mesh(devices=jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    for sizes, message in {
        (3, 2, 1): "takes 6 devices, there are 8",
        (3, -1, 1): "8 devices are not a multiple of 3",
        (-1, -1, 1): "at most one",
        (0, 8, 1): "positive",
    }.items():
        with pytest.raises(ValueError, match=message):
            make_mesh(*sizes)
    assert sharding.batch_sharding(mesh).spec == P(("data", "fsdp"))
    assert sharding.batch_sharding(mesh, axis=1).spec == P(None, ("data", "fsdp"))


def test_rows_and_whole_arrays_are_placed():
    mesh = make_mesh(2, 2, 2)
    assert sharding.batch_shards(mesh) == sharding.batch_shards(mesh.abstract_mesh) == 4
    rows = sharding.place(np.arange(8).reshape(4, 2), sharding.batch_sharding(mesh))
    assert sorted(shard.data.tolist() for shard in rows.addressable_shards) == [[[at, at + 1]] for at in (0, 0, 2, 2, 4, 4, 6, 6)]
    whole = sharding.place(np.arange(3), sharding.replicated(mesh))
    assert [shard.data.tolist() for shard in whole.addressable_shards] == [[0, 1, 2]] * 8


def test_nothing_else_names_the_batch_axes_or_places_arrays():
    package = pathlib.Path(sharding.__file__).parents[1]
    own = re.compile(r"\"data\", \"fsdp\"|shape\[\"data\"\]|make_array_from_|addressable_devices_indices_map")
    assert [path.name for path in package.rglob("*.py") if own.search(path.read_text())] == ["sharding.py"]


CFG = llama.LlamaConfig(64, 32, 2, 8, 4, 10, 48, tied=True, max_positions=256)


@pytest.fixture(scope="module")
def params():
    return jax.jit(llama.init_params, static_argnums=0)(CFG, jax.random.key(1))


def batch():
    ids_BT = jax.random.randint(jax.random.key(2), (4, 160), 0, CFG.vocab_size)
    segments_BT = jnp.asarray(np.repeat([[1] * 100 + [2] * 60], 4, 0))
    return ids_BT, jnp.asarray(np.repeat([[*range(100), *range(60)]], 4, 0)), segments_BT


def test_training_on_eight_devices_equals_one(params):
    mesh = make_mesh(*MESH)
    stacked = llama.stack_layers(params)
    key = jax.random.key(4)

    def loss(params, ids_BT, positions_BT, segments_BT):
        options = {"dropout": llama.Dropout(0.1, key), "remat": "dots"}
        logits_BTV = llama.forward(CFG, params, ids_BT, positions_BT, segments_BT, **options)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits_BTV[:, :-1]), ids_BT[:, 1:, None], axis=-1)
        return -picked.mean(), logits_BTV

    run = jax.value_and_grad(loss, has_aux=True)
    (one_loss, one_logits), one_grads = jax.jit(run)(stacked, *batch())
    shardings = param_shardings(CFG, mesh, TRAINING_RULES, stacked=True)
    rows = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        many = jax.jit(run, in_shardings=(shardings, rows, rows, rows), out_shardings=((None, rows), shardings))
        (loss, logits), grads = many(jax.device_put(stacked, shardings), *jax.device_put(batch(), rows))
    assert grads["layers"]["gate"].sharding.shard_shape((2, 32, 48)) == (2, 16, 24)
    assert len(logits.sharding.device_set) == 8
    np.testing.assert_allclose(loss, one_loss, atol=1e-5, rtol=0)
    np.testing.assert_allclose(logits, one_logits, atol=1e-4, rtol=0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=0), grads, one_grads)


def test_activations_keep_their_rows_on_the_batch_axes(params):
    """In the scan each device holds only its own rows: nothing of the size of the whole batch is gathered."""
    mesh, seen = make_mesh(*MESH), []
    shardings = param_shardings(CFG, mesh, TRAINING_RULES, stacked=True)
    rows = sharding.batch_sharding(mesh)

    def run(params, ids_BT, positions_BT, segments_BT):
        x_BTD = llama.hidden(CFG, params, ids_BT, positions_BT, segments_BT)
        jax.debug.inspect_array_sharding(x_BTD, callback=seen.append)
        return x_BTD

    with jax.set_mesh(mesh):
        jax.jit(run, in_shardings=(shardings, rows, rows, rows))(
            jax.device_put(llama.stack_layers(params), shardings), *jax.device_put(batch(), rows)
        )
    assert seen[0].shard_shape((4, 160, 32)) == (1, 160, 32)


def test_greedy_decoding_on_eight_devices_equals_one(params):
    ids_BT = np.asarray(batch()[0][:, :20])
    lengths_B = np.array([20, 7, 1, 13])

    def write(params, place, rows):
        """16 greedy ids a row, and the logits of the last step."""
        logits_BV, chunk = jax.jit(functools.partial(llama.prefill, CFG))(params, rows(ids_BT), rows(lengths_B))
        cache = llama.insert_cache(jax.tree.map(place, llama.empty_cache(CFG, 4, 40)), chunk, jnp.arange(4))
        step, ids = jax.jit(functools.partial(llama.decode_step, CFG), donate_argnums=1), []
        for i in range(16):
            ids.append(np.asarray(logits_BV.argmax(axis=-1)))
            logits_BV, cache = step(params, cache, rows(ids[-1]), rows(lengths_B + i))
        return np.stack(ids), logits_BV

    turned = llama.decoding_params(CFG, params)
    one_ids, one_logits = write(turned, jnp.asarray, jnp.asarray)
    mesh = make_mesh(*MESH)
    by_head = NamedSharding(mesh, P(("data", "fsdp"), "tensor"))
    on = functools.partial(jax.device_put, device=sharding.batch_sharding(mesh))
    shardings = sharding.decoding_shardings(CFG, mesh)
    with jax.set_mesh(mesh):
        ids, logits = write(jax.device_put(turned, shardings), functools.partial(jax.device_put, device=by_head), on)
    np.testing.assert_array_equal(ids, one_ids)
    np.testing.assert_allclose(logits, one_logits, atol=1e-4, rtol=0)
