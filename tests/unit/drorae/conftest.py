"""What tests of several rooms share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from drorae.errors import Notice


@pytest.fixture
def quiet() -> Iterator[None]:
    """No notice of damage is given where none is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        yield
