"""Keys are fixed numbers: other values would change every draw of every run."""

import jax
import numpy as np
import pytest

from humpback.keys import id_halves, key_for, record_keys


def data(key: jax.Array) -> list[int]:
    return np.asarray(jax.random.key_data(key)).tolist()


def test_keys_are_the_same_in_every_process_and_release():
    assert data(key_for(0, "order backward", 3)) == [1662103935, 3600705661]
    assert data(key_for(7, "sample", *id_halves("00000001ffffffff"), 0, 12)) == [115688471, 502049049]


def test_every_part_counts_and_so_does_its_place():
    keys = [key_for(0, "a"), key_for(1, "a"), key_for(0, "b"), key_for(0, "a", 0), key_for(0, "a", 0, 1), key_for(0, "a", 1, 0)]
    assert len({tuple(data(key)) for key in keys}) == len(keys)


def test_keys_of_many_records_are_those_of_each():
    ids = ["00000001ffffffff", "ffffffff00000001", "0123456789abcdef"]
    for sample in (0, 2):
        assert record_keys(7, "sample", ids, sample).tolist() == [data(key_for(7, "sample", *id_halves(i), sample)) for i in ids]


def test_traced_numbers_give_the_same_key():
    traced = jax.jit(lambda step: jax.random.key_data(key_for(5, "dropout", step)))(np.uint32(9))
    assert traced.tolist() == data(key_for(5, "dropout", 9))


def test_both_halves_of_an_id():
    assert id_halves("0000000aFFFFFFFF") == (10, 2**32 - 1)
    with pytest.raises(ValueError, match="16 hex digits"):
        id_halves("abc")


@pytest.mark.parametrize("number", [-1, 2**32])
def test_numbers_that_would_be_folded_down_raise(number):
    with pytest.raises(ValueError, match="32 bits"):
        key_for(0, "a", number)
    with pytest.raises(ValueError, match="32 bits"):
        key_for(number, "a")
