"""What the tests of model folders share."""

import pytest

from humpback.models.folders import Model
from tests.training import case


@pytest.fixture
def base() -> Model:
    """Fresh for each test."""
    return case.make_base()
