"""A project in the cloud that only pretends, and nothing left of it when a test ends."""

import pytest

from tests.launch import pods


@pytest.fixture
def cloud(tmp_path):
    cloud = pods.begin(tmp_path / "cloud")
    yield cloud
    cloud.end()
