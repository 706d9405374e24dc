"""Servers for what trainers publish; see `tests.e2e.conftest`."""

from tests.e2e.conftest import pytest_runtest_makereport, serve

__all__ = ["pytest_runtest_makereport", "serve"]
