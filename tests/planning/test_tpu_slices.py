"""Names of slices as the cloud has them."""

import itertools
import types

import pytest

from humpback.errors import UserError
from humpback.planning import tpu_slices


@pytest.mark.parametrize(
    ("name", "topology", "count", "total", "host"),
    [
        ("v5e-32", "v5e:4x8", 1, 32, 4),
        ("v5litepod-16", "v5e:4x4", 1, 16, 4),
        ("v5e-8", "v5e:2x4", 1, 8, 8),
        ("v5e-1", "v5e:1x1", 1, 1, 1),
        ("v4-32", "v4:2x2x4", 1, 16, 4),  # TensorCores: two a chip
        ("v4-8", "v4:2x2x1", 1, 4, 4),
        ("v5p-16", "v5p:2x2x2", 1, 8, 4),
        ("v5p-128", "v5p:4x4x4", 1, 64, 4),
        ("v6e-16", "v6e:4x4", 1, 16, 4),
        ("v6e-256", "v6e:16x16", 1, 256, 4),
        ("v4:4x4x12", "v4:4x4x12", 1, 192, 4),
        ("2xv5e-16", "v5e:4x4", 2, 32, 4),
    ],
)
def test_names(name, topology, count, total, host):
    found = tpu_slices.parse(name)
    assert (found.topology, found.count, found.chips, found.chips_a_host) == (topology, count, total, host)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v3-8", "v3 is not planned for: its chips are two devices each; take v4, v5e, v5p, v6e"),
        ("2xv2-8", "v2 is not planned for"),
        ("tpu7x:2x2x1", "tpu7x is not planned for"),
        ("v7x-8", "must be a name of the cloud's"),
        ("v5-8", "must be a name of the cloud's"),
        ("v5e", "must be a name of the cloud's"),
        ("v5e-0", "must be a name of the cloud's"),
        ("0xv5e-8", "must be a name of the cloud's"),
        ("v5e-12", "v5e counts chips, and has v5e-1, v5e-4, v5e-8"),
        ("v4-4", "v4 counts TensorCores, two a chip, and has v4-8, v4-16"),
        ("v4-9", "v4 counts TensorCores"),
        ("v5e:2x2x2", "v5e has 2 sizes"),
        ("v4:4x4", "v4 has 3 sizes"),
    ],
)
def test_other_names_are_refused(name, said):
    with pytest.raises(UserError, match=f"TPU slice '{name}': .*{said}"):
        tpu_slices.parse(name)


def test_larger_slices_and_parts():
    assert tpu_slices.parse("v5e-16").larger().name == "v5e-32" and tpu_slices.parse("v5e-256").larger() is None
    assert tpu_slices.parse("v4-8").larger().name == "v4-16" and tpu_slices.parse("2xv6e-8").larger().name == "2xv6e-16"
    assert tpu_slices.parse("v4-32").part(8).topology == "v4:2x2x2"


@pytest.mark.parametrize(
    ("name", "together", "links"),
    [
        *(("v5e-16", 16, 2), ("v5e-16", 4, 1), ("v5e-256", 256, 4), ("v5e-128", 128, 3), ("v5e-1", 1, 1)),
        *(("v4-128", 64, 6), ("v4-64", 32, 5), ("v4-8", 4, 2)),
    ],
)
def test_the_links_that_bring_data(name, together, links):
    """A ring's axis brings it over two links, another over one: on v5e axes of 16 are rings, on v4 multiples of 4."""
    found = tpu_slices.parse(name)
    assert found.speed(together) == links * found.chip.link


def test_the_slice_of_devices():
    """Of JAX's: their kind, where they lie, in how many slices."""

    def devices(kind, sizes, slices=1):
        places = list(itertools.product(*map(range, sizes)))
        return [types.SimpleNamespace(device_kind=kind, coords=(*p, 0)[:3], slice_index=s) for s in range(slices) for p in places]

    here = tpu_slices.of_devices(devices("TPU v5 lite", (4, 4)), 4)
    assert (here.generation, here.sizes, here.chips_a_host, here.hosts_in_one) == ("v5e", (4, 4), 4, 4)
    two = tpu_slices.of_devices(devices("TPU v4", (2, 2, 4), slices=2), 4)
    assert (two.sizes, two.count, two.chips, two.hosts_in_one) == ((2, 2, 4), 2, 32, 4)
    one = tpu_slices.of_devices(devices("TPU v5 lite", (2, 1)), 2)  # of a host that shares its chips out
    assert (one.chips_a_host, one.hosts_in_one, one.part(2)) == (2, 1, one)
    assert tpu_slices.of_devices(devices("cpu", (8,)), 8) is None
