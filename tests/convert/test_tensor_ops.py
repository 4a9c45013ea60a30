"""What is done to a tensor's numbers: turned, looked at, cast."""

import ml_dtypes
import numpy as np
import pytest

from humpback.convert import tensor_ops
from humpback.errors import UserError

TYPES = sorted(tensor_ops.DTYPES)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(3, 5), (1000, 700), (33, 40_000), (1, 9)])
def test_turn(shape, dtype):
    array = np.random.default_rng(0).normal(size=shape).astype(tensor_ops.DTYPES[dtype])
    turned = tensor_ops.turn(array)
    assert turned.flags.c_contiguous and turned.dtype == array.dtype
    assert np.array_equal(turned.view(f"u{array.itemsize}"), array.view(f"u{array.itemsize}").T)
    assert np.array_equal(tensor_ops.turn(array[:, ::2]), array[:, ::2].T)  # of a view, too


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_number_that_is_not_finite_is_named_with_its_place(dtype, bad):
    array = np.zeros((700, 900), tensor_ops.DTYPES[dtype])
    array[:] = ml_dtypes.finfo(array.dtype).max  # the largest number is one
    tensor_ops.check_finite(array, "w", "file")
    array[512, 77] = bad
    with pytest.raises(UserError, match=rf"file: tensor w holds {bad} at \(512, 77\)"):
        tensor_ops.check_finite(array, "w", "file")


def test_cast_rounds_to_nearest_and_refuses_what_does_not_fit():
    values = np.array([1 / 3, 65504.0, -65519.0, 1e-9, 0.0], np.float32)
    for dtype, kind in tensor_ops.DTYPES.items():
        cast = tensor_ops.cast(values, dtype, "w", "file")
        assert cast.dtype == kind and np.array_equal(cast, values.astype(kind))
    assert tensor_ops.cast(values, "float32", "w", "file") is values
    large = np.zeros((600, 700), ml_dtypes.bfloat16)
    large[599, 1] = 70000
    for dtype in ("bfloat16", "float32"):
        assert tensor_ops.cast(large, dtype, "w", "file")[599, 1] == large[599, 1]
    with pytest.raises(UserError, match=r"w holds 70144 at \(599, 1\), which float16 cannot hold .its largest number is 65504"):
        tensor_ops.cast(large, "float16", "w", "file")
    with pytest.raises(UserError, match="which bfloat16 cannot hold"):
        tensor_ops.cast(np.array([3.4e38], np.float32), "bfloat16", "w", "file")


def test_ahead_gives_the_same_and_no_more_than_one_before_it_is_needed():
    made = []

    def values():
        for i in range(5):
            made.append(i)
            yield np.array(i)

    seen = []
    for value in tensor_ops.ahead(values()):
        assert len(made) <= len(seen) + 2
        seen.append(int(value))
    assert seen == made == [0, 1, 2, 3, 4]

    def broken():
        yield np.array(1)
        raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        list(tensor_ops.ahead(broken()))
