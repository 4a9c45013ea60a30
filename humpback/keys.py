"""Random keys: what a draw is for decides its key, never when, where or beside what it is made."""

import functools
import zlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

_WORD = 2**32
_AT_ONCE = 1 << 14  # keys of one call: calls of the same shape share a program


def key_for(seed: int, purpose: str, *numbers: int | jax.Array) -> jax.Array:
    """The key of one draw: the seed, then the purpose, then each number, folded in one after another.

    `purpose` is a fixed string ("dropout backward"); its CRC-32 is used, which is the same in every process and release,
    unlike Python's `hash`. Each number must fit 32 bits (an identifier is two: `id_halves`); numbers may also be traced
    uint32 scalars. The generator is named, so that a jax setting cannot change a result. Raises ValueError for a seed or
    number that does not fit 32 bits, instead of folding it down to one that another draw has.
    """
    key = jax.random.key(_check(seed), impl="threefry2x32")
    key = jax.random.fold_in(key, zlib.crc32(purpose.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, _check(number) if isinstance(number, int) else number)
    return key


def id_halves(record_id: str) -> tuple[int, int]:
    """Both 32-bit halves of a record's 16 hex digits, high half first; ValueError for anything else."""
    if len(record_id) != 16:
        raise ValueError(f"record id {record_id!r} is not 16 hex digits")
    return int(record_id[:8], 16), int(record_id[8:], 16)


def record_keys(seed: int, purpose: str, record_ids: list[str], sample: int = 0) -> np.ndarray:
    """Key data uint32 [len(record_ids), 2] of `key_for(seed, purpose, high, low, sample)` for many records in one call."""
    halves = np.array([id_halves(record_id) for record_id in record_ids], np.uint32).reshape(-1, 2)
    fold = jax.vmap(functools.partial(_fold_record, key_for(seed, purpose)), in_axes=(0, 0, None))
    return np.asarray(jax.random.key_data(fold(halves[:, 0], halves[:, 1], np.uint32(sample))))


def record_words(seed: int, purpose: str, record_ids: list[str]) -> np.ndarray:
    """A random word uint32 of each record, drawn by its key."""
    draw = jax.vmap(lambda data: jax.random.bits(jax.random.wrap_key_data(data, impl="threefry2x32"), (), "uint32"))
    return np.asarray(draw(record_keys(seed, purpose, record_ids)))


def drawn(seed: int, purpose: str, ids: Sequence[int]) -> np.ndarray:
    """The ids uint64 in an order of chance, which follows from seed, purpose and the ids alone."""
    unique = np.unique(np.array(ids, np.uint64))
    ranks = np.empty(len(unique), np.uint64)
    for start in range(0, len(unique), _AT_ONCE):
        part = unique[start : start + _AT_ONCE]
        names = [f"{int(number):016x}" for number in part] + ["0" * 16] * (_AT_ONCE - len(part))
        words = record_keys(seed, purpose, names)[: len(part)].astype(np.uint64)
        ranks[start : start + _AT_ONCE] = (words[:, 0] << np.uint64(32)) | words[:, 1]
    return unique[np.argsort(ranks, kind="stable")]


def _fold_record(key: jax.Array, high: ArrayLike, low: ArrayLike, sample: ArrayLike) -> jax.Array:
    for number in (high, low, sample):
        key = jax.random.fold_in(key, number)
    return key


def _check(number: int) -> int:
    if not 0 <= number < _WORD:
        raise ValueError(f"{number} does not fit 32 bits; fold it in as two numbers")
    return number
