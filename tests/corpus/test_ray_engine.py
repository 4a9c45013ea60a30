"""What of the Ray engine shows without a cluster; with one, tests/soak/test_ray.py compares its output with that of one machine."""

import re
from pathlib import Path

import pytest

from humpback.corpus import ray_engine
from humpback.corpus.duplicates import BANDS
from humpback.errors import UserError


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999", "nowhere", ""])
def test_no_cluster_is_told_at_once(address: str) -> None:
    with pytest.raises(UserError, match=rf"--ray_address={address}: no Ray cluster there .*ray start --head"):
        ray_engine.connect(address)


def test_a_host_with_other_versions_is_named() -> None:
    versions = {**ray_engine._versions(), "rensa": "0.0.1"}
    with pytest.raises(UserError, match=r"the Ray worker on .+ has rensa \S+ instead of 0\.0\.1; every host needs the same versions"):
        ray_engine._extract(None, versions)


def test_all_that_a_part_depends_on_is_compared() -> None:
    setup = (Path(__file__).parents[2] / "setup.py").read_text()
    corpus = re.findall(r'"([\w-]+)[^"]*"', re.search(r"^CORPUS = \[(.+?)\]", setup, re.MULTILINE | re.DOTALL)[1])
    assert set(corpus) <= set(ray_engine.PACKAGES) and {"humpback", "numpy"} <= set(ray_engine.PACKAGES)


def test_each_band_is_in_one_pass() -> None:
    assert sum(ray_engine.BANDS_AT_ONCE) == BANDS
