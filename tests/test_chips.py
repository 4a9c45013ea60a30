"""The table of chips."""

import pytest

from humpback.chips import CHIPS, of_device


@pytest.mark.parametrize("name", CHIPS)
def test_the_units_of_the_table(name):
    """Figures in FLOP/s, bytes and bytes/s: each is within the range that any TPU of these years has, and they fit together."""
    chip = CHIPS[name]
    assert 1e14 < chip.flops < 1e15 and 5e11 < chip.bandwidth < 5e12 and 1e10 < chip.link < 2e11 and 1e9 < chip.network < 2e10
    assert 16 * 2**30 <= chip.memory <= 96 * 2**30 and chip.links in (4, 6) and chip.cores in (1, 2)
    # The compiler keeps a little of the memory for itself, or on v5p counts in another way, and never gives more than is there.
    assert 0.95 < chip.limit / chip.memory < 1.01
    assert 150 < chip.flops / chip.bandwidth < 600  # operations a byte at which computing takes as long as reading


def test_the_published_interconnect():
    """Bidirectional bandwidth per chip, GB/s, as Cloud TPU's pages have it: both ways over all links."""
    found = {name: 2 * chip.links * chip.link / 1e9 for name, chip in CHIPS.items()}
    assert found == {"v4": 600, "v5e": 400, "v5p": 1200, "v6e": 800}


def test_the_clock_and_the_matrix_units_come_to_the_peak():
    units = {"v4": 8 * 2 * 128**2, "v5e": 4 * 2 * 128**2, "v5p": 8 * 2 * 128**2, "v6e": 4 * 2 * 256**2}
    assert {name: chip.flops / chip.clock for name, chip in CHIPS.items()} == pytest.approx(units, rel=0.005)


def test_chips_are_known_by_what_jax_calls_their_devices():
    assert [of_device(chip.kind) for chip in CHIPS.values()] == list(CHIPS.values())
    assert of_device("TPU v3") is None and of_device("cpu") is None
