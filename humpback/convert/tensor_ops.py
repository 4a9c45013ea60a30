"""What happens to one tensor's numbers on the way: turned, checked, cast. No copy but the result is made.

Everything goes in strips, since a boolean array of a whole tensor, or a turned one read column by column, would cost more than
reading the file.
"""

import concurrent.futures
from collections.abc import Iterator

import jax
import ml_dtypes
import numpy as np

from humpback.errors import UserError

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
# The bits of infinity; with more it is not a number.
_INFINITE = {"float32": 0x7F800000, "bfloat16": 0x7F80, "float16": 0x7C00}
_STRIP = 1 << 18  # numbers, so that a strip stays in the cache


def turn(array: np.ndarray) -> np.ndarray:
    """The transposed matrix, contiguous, not to be written to. XLA's way to a device that wants it so takes a quarter of numpy's time."""
    return np.asarray(jax.device_put(array.T, jax.local_devices(backend="cpu")[0]))


def ahead(values: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same arrays, each made by a thread while the one before is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = pool.submit(next, values, None)
            yield value
            del value


def same_numbers(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tensors are alike in shape, type and every bit."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    a, b = (array.reshape(-1).view(f"u{array.itemsize}") for array in (one, other))
    return all(np.array_equal(a[i : i + _STRIP], b[i : i + _STRIP]) for i in range(0, a.size, _STRIP))


def check_finite(array: np.ndarray, name: str, where: str) -> None:
    """Raises UserError naming the tensor when a number of it is infinite or none. array: of one of DTYPES, contiguous."""
    infinite, bits = _INFINITE[str(array.dtype)], 8 * array.itemsize
    flat = array.reshape(-1)
    for start in range(0, flat.size, _STRIP):
        strip = flat[start : start + _STRIP]
        # As integers, numbers from infinity on are the largest: those without a sign read as signed ones, those with one as unsigned.
        if strip.view(f"i{array.itemsize}").max() >= infinite or strip.view(f"u{array.itemsize}").max() >= infinite + (1 << (bits - 1)):
            at = start + int((~np.isfinite(strip)).argmax())
            place = tuple(int(i) for i in np.unravel_index(at, array.shape))
            raise UserError(
                f"{where}: tensor {name} holds {float(array[place])} at {place}; a model with such a number computes nothing but "
                "that, so the file is broken: copy or download it again"
            )


def cast(array: np.ndarray, dtype: str, name: str, where: str) -> np.ndarray:
    """The finite array in one of DTYPES, rounded to nearest. UserError when a number is too large for it."""
    if str(array.dtype) == dtype:
        return array
    out = np.empty(array.shape, DTYPES[dtype])
    # Of the float types here, each holds all of a narrower exponent's numbers.
    narrower = ml_dtypes.finfo(DTYPES[dtype]).max < ml_dtypes.finfo(array.dtype).max
    into, out_of = out.reshape(-1), array.reshape(-1)
    with np.errstate(over="ignore"):
        for start in range(0, into.size, _STRIP):
            part = out_of[start : start + _STRIP].astype(DTYPES[dtype])
            if narrower and not np.isfinite(part).all():
                at = start + int((~np.isfinite(part)).argmax())
                place = tuple(int(i) for i in np.unravel_index(at, array.shape))
                raise UserError(
                    f"{where}: tensor {name} holds {float(out_of[at]):g} at {place}, which {dtype} cannot hold (its largest number is "
                    f"{float(ml_dtypes.finfo(DTYPES[dtype]).max):g}); keep the type, or take bfloat16"
                )
            into[start : start + _STRIP] = part
    return out
