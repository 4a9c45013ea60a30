"""Soak: planted faults, each in a copy of the tree: the test that should see it turns red."""

import os
import random

from tests.faults import plant


def test_faults(tmp_path):
    """HUMPBACK_SOAK_SCHEDULES times three faults (three), drawn by HUMPBACK_SOAK_SEED, or all of them for `all`."""
    seed, count = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), os.environ.get("HUMPBACK_SOAK_SCHEDULES", "1")
    faults = plant.read_faults()
    if count != "all":
        faults = random.Random(seed).sample(faults, min(3 * int(count), len(faults)))
    assert plant.plant(faults, tmp_path) == []
