"""Servers and clients are those of the end-to-end tests."""

from tests.e2e.conftest import api, serve

__all__ = ["api", "serve"]
