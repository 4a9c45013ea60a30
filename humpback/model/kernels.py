"""Pallas kernels on TPUs: JAX's own for attention, and one that writes into a cache. Whether they run is decided here alone, by
`takes_splash` and `takes_write`; elsewhere plain XLA does.

Prompts and training rows take splash attention, which never holds a (T, S) matrix and skips what lies above the diagonal. Decoding
attends by plain XLA (attention.cache_attention): JAX's paged kernels want keys as (K, pages, page, H) or, the ragged one, keys and
values in one array, ours lie as (B, K, H, S) and (B, K, S, H), so that both products are plain ones, and a step would have to copy
the whole cache; nor do they return the log-sum-exp by which a prefix that all rows share could be added. Dimension letters: see
weights.py.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from humpback.model.sharding import BATCH_AXES, MESH_AXES, batch_shards
from humpback.rounding import ceil_div, round_up

# Keys (K, H, P) and values (K, P, H) that stand before every row, and how many of them each row uses (B,).
Prefix = tuple[jax.Array, jax.Array, jax.Array]

LANES = 128  # a vector of a TPU: blocks and parts are multiples of it, and so are heads, filled up
ROWS = 16  # of values that are written at once: a tile of bfloat16
_BLOCKS = (512, 256, 128)  # queries and keys of one step of the kernel's grid
_STEP_PAIRS = 192 * 1_024  # of a query and a key, that could be computed while a step begins: planning/roofline's half microsecond on a v5e


def takes_splash(q_BTNH: jax.Array, k_BTKH: jax.Array, segments_BT: jax.Array | None, prefix: Prefix | None) -> bool:
    """Tells whether `splash_attention` runs for these arguments: on the TPUs of the mesh that is set, for all that it can do.

    The mesh says what is compiled for, also where no TPU is; without one (jax.set_mesh) it is plain XLA. So are products of float32,
    which the kernel rounds to bfloat16.
    """
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    on_tpu = device is not None and device.platform == "tpu" and q_BTNH.dtype != jnp.float32
    return on_tpu and _possible(mesh, q_BTNH, k_BTKH, segments_BT, prefix)


def _possible(
    mesh: jax.sharding.AbstractMesh, q_BTNH: jax.Array, k_BTKH: jax.Array, segments_BT: jax.Array | None, prefix: Prefix | None
) -> bool:
    (_, T, N, _), K, tensor = q_BTNH.shape, k_BTKH.shape[2], mesh.shape.get("tensor", 1)
    if segments_BT is not None and prefix is not None:
        return False  # the kernel compares segment numbers, and the prefix belongs to all of them
    shared = N % tensor == 0 and (K % tensor == 0 or tensor % K == 0)
    return T >= LANES and shared and set(mesh.axis_names) >= set(MESH_AXES)


def block_for(T: int) -> int:
    """Returns how many queries, and keys, one step of the kernel takes for rows of T tokens, which are filled up to a multiple of it.

    The cheapest: a large block computes padding and what lies above the diagonal, a small one begins more steps.
    """

    def cost(block: int) -> int:
        return steps_of(T, block) * (block**2 + _STEP_PAIRS)

    return min(_BLOCKS, key=cost)


def steps_of(T: int, block: int) -> int:
    """Counts the blocks of a row of T tokens that the causal mask does not pass over."""
    blocks = ceil_div(T, block)
    return blocks * (blocks + 1) // 2


def row_and_head_axes(B: int, K: int) -> tuple[Any, Any]:
    """Names the axes of the mesh that is set which share B rows, and K key heads; None for what they do not divide, or without them."""
    mesh = jax.sharding.get_abstract_mesh()
    if not set(mesh.axis_names) >= set(MESH_AXES):
        return None, None
    return BATCH_AXES if B % batch_shards(mesh) == 0 else None, "tensor" if K % mesh.shape["tensor"] == 0 else None


def splash_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array | None = None,
    prefix: Prefix | None = None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Computes attention.causal_attention on the mesh that is set: every chip has its rows and its query heads, and their keys.

    Forwards and backwards. Lengths and heads are padded to what the kernel takes. interpret: on any device, slowly, for tests.
    """
    (B, _, N, _), K = q_BTNH.shape, k_BTKH.shape[2]
    rows, heads = row_and_head_axes(B, K)  # without heads: fewer key heads than chips, every chip has all of them
    queries, keys, by_row, before = (PartitionSpec(*axes) for axes in ((rows, None, "tensor"), (rows, None, heads), (rows,), (heads,)))
    # What the kernel returns says nothing of the axes that it varies over, so that they cannot be checked.
    attend = jax.shard_map(
        functools.partial(_on_a_chip, G=0 if heads else N // K, interpret=interpret),
        in_specs=(queries, keys, keys, by_row, (before, before, by_row)),
        out_specs=queries,
        check_vma=False,
    )
    return attend(q_BTNH, k_BTKH, v_BTKH, segments_BT, prefix or (None, None, None))


def _on_a_chip(q_BTNH, k_BTKH, v_BTKH, segments_BT, prefix, G, interpret):
    """Runs the kernel on one chip's part. G: not 0 where the keys of all heads are here, to be chosen from."""
    B, T, N, H = q_BTNH.shape
    if G:
        k_BTKH, v_BTKH, prefix = _keys_of_queries(G, N, k_BTKH, v_BTKH, prefix)
    k_KHP, v_KPH, shared_B = prefix
    block = block_for(T)
    room_T, room_P = round_up(T, block), 0 if k_KHP is None else round_up(k_KHP.shape[2], block)
    # Zeros behind a head add nothing to a score, and of what comes out they are cut off again.
    q_BTNH, k_BTKH, v_BTKH = (pad(x, 3, round_up(H, LANES) - H) for x in (q_BTNH * H**-0.5, k_BTKH, v_BTKH))
    # Padding stands between the prefix and the row, where it has a number of its own, and behind the row, where nothing looks.
    q_BNTH, k_BKSH, v_BKSH = (pad(x.transpose(0, 2, 1, 3), 2, room_T - T) for x in (q_BTNH, k_BTKH, v_BTKH))
    ids = None
    if segments_BT is not None:
        ids_BT = pad(segments_BT, 1, room_T - T)
        ids = _splash().SegmentIds(ids_BT, ids_BT)
    if k_KHP is not None:
        before = (pad(pad(x, 1, room_P - x.shape[1]), 2, k_BKSH.shape[3] - H) for x in (k_KHP.transpose(0, 2, 1), v_KPH))
        k_BKSH, v_BKSH = (
            jnp.concatenate([jnp.broadcast_to(x_KPH.astype(x_BKSH.dtype), (B, *x_KPH.shape)), x_BKSH], axis=2)
            for x_KPH, x_BKSH in zip(before, (k_BKSH, v_BKSH), strict=True)
        )
        used_BP = (jnp.arange(room_P) < shared_B[:, None]).astype(jnp.int32)
        row_BT = jnp.ones((B, room_T), jnp.int32)
        ids = _splash().SegmentIds(row_BT, jnp.concatenate([used_BP, row_BT], axis=1))
    out_BNTH = jax.vmap(_kernel(N, room_T, room_P, block, interpret))(q_BNTH, k_BKSH, v_BKSH, ids)
    return out_BNTH[:, :, :T, :H].transpose(0, 2, 1, 3)


def takes_write(k_BKHS: jax.Array) -> bool:
    """Tells whether `write_rows` runs for this cache of keys: on the TPUs of the mesh that is set, for whole tiles."""
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    on_tpu = device is not None and device.platform == "tpu" and set(mesh.axis_names) >= set(MESH_AXES)
    return on_tpu and k_BKHS.shape[3] % LANES == 0


def write_rows(
    k_BKHS: jax.Array, v_BKSH: jax.Array, k_BKH: jax.Array, v_BKH: jax.Array, at_B: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Puts each row's key and value into place at_B[b] of its cache, which is changed where it lies; S is a multiple of 128.

    Written by XLA this is a loop over the rows on a TPU, because each row has a place of its own. interpret: on any device, for tests.
    """
    rows, heads = row_and_head_axes(*k_BKHS.shape[:2])
    cache, by_row = PartitionSpec(rows, heads), PartitionSpec(rows)
    write = functools.partial(_write_on_a_chip, interpret=interpret)
    # What the kernel returns says nothing of the axes that it varies over, so that they cannot be checked.
    return jax.shard_map(write, in_specs=(cache,) * 4 + (by_row,), out_specs=(cache, cache), check_vma=False)(
        k_BKHS, v_BKSH, k_BKH.astype(k_BKHS.dtype), v_BKH.astype(v_BKSH.dtype), at_B
    )


def _write_on_a_chip(k_BKHS, v_BKSH, k_BKH, v_BKH, at_B, *, interpret: bool):
    """Of the rows and heads that a chip has: of each row the tiles around its place are read, changed and written back."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    B, K, H, _ = k_BKHS.shape

    def kernel(at_B, k_1K1H, v_1K1H, old_k, old_v, new_k, new_v):
        at = at_B[pl.program_id(0)]
        lane = jax.lax.broadcasted_iota(jnp.int32, old_k.shape, 3)
        new_k[...] = jnp.where(lane == at % LANES, jnp.swapaxes(k_1K1H[...], 2, 3), old_k[...])
        row = jax.lax.broadcasted_iota(jnp.int32, old_v.shape, 2)
        new_v[...] = jnp.where(row == at % ROWS, v_1K1H[...], old_v[...])

    new = pl.BlockSpec((1, K, 1, H), lambda b, at_B: (b, 0, 0, 0))
    keys = pl.BlockSpec((1, K, H, LANES), lambda b, at_B: (b, 0, 0, at_B[b] // LANES))
    values = pl.BlockSpec((1, K, ROWS, H), lambda b, at_B: (b, 0, at_B[b] // ROWS, 0))
    grid = pltpu.PrefetchScalarGridSpec(num_scalar_prefetch=1, grid=(B,), in_specs=[new, new, keys, values], out_specs=[keys, values])
    call = pl.pallas_call(
        kernel,
        grid_spec=grid,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_BKHS, v_BKSH)],
        input_output_aliases={3: 0, 4: 1},  # the numbers of the places count, too
        interpret=interpret,
    )
    return tuple(call(at_B, k_BKH[:, :, None], v_BKH[:, :, None], k_BKHS, v_BKSH))


def _keys_of_queries(G, N, k_BTKH, v_BTKH, prefix):
    """Takes keys and values, the prefix's too, of the one key head that a chip's query heads share, from those of all heads."""
    head = jax.lax.axis_index("tensor") * N // G
    pick = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=head, slice_size=1)
    k_KHP, v_KPH, shared_B = prefix
    before = (None, None) if k_KHP is None else (pick(k_KHP, axis=0), pick(v_KPH, axis=0))
    return pick(k_BTKH, axis=2), pick(v_BTKH, axis=2), (*before, shared_B)


def _splash() -> Any:
    """Imports JAX's kernels where they are used: it takes half a second, which is lost at every start without a TPU."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    return splash_attention


def _kernel(N: int, T: int, P: int, block: int, interpret: bool) -> Any:
    """Makes a SplashAttentionKernel for q (N, T, H), k and v (K, P + T, H), segment ids."""
    splash = _splash()
    mask = splash.MultiHeadMask([splash.CausalMask((T, P + T), offset=P)] * N)
    sizes = splash.BlockSizes(
        **dict.fromkeys(("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq"), block)
    )
    return splash.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)


def pad(x: jax.Array, axis: int, count: int) -> jax.Array:
    """Appends `count` zeros along one axis."""
    return jnp.pad(x, [(0, count if i == axis else 0) for i in range(x.ndim)])
