"""Fixtures of the Python client's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.stack import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A home and its controller program, not started yet; every process of it is ended after the test."""
    stack = Stack(tmp_path)
    yield stack
    stack.down()
