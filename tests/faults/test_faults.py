"""The table of faults has not rotted: each can be planted, and its test is there. That it turns red: ./launch/soak.sh faults."""

import pathlib

import pytest

from tests.faults import plant

FAULTS = plant.read_faults()


@pytest.fixture(scope="module")
def sources() -> dict[pathlib.Path, str]:
    return plant.sources()


@pytest.fixture(scope="module")
def tests() -> dict[str, list[str]]:
    return plant.files_of_tests()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_it_can_be_planted(fault, sources, tests):
    places = fault.places(sources)
    assert len(places) == 1, f"find what does today what {fault.old!r} did, or take the fault out: it must stand once in humpback/"
    changed = sources[places[0]].replace(fault.old, fault.new)
    assert changed != sources[places[0]]
    compile(changed, places[0], "exec")
    files = tests.get(fault.test.partition("[")[0], [])
    assert len(files) == 1, f"there must be one test of the name {fault.test}, in {files}"
