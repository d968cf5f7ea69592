"""What holds for every test: a busy machine makes none of them fail."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kubeconfig FILE` runs the suite of endpoint behaviour on a real cluster as well."""
    parser.addoption("--kubeconfig", type=Path, default=None, help="of a cluster that tests may use")
