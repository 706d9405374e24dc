"""The command `serving`: one module per command. Errors are one line on standard error and a non-zero exit."""

from serving.cli.main import main

__all__ = ["main"]
