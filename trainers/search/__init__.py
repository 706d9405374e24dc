"""Searches for good settings of a trainer; `command.py` is the command, and each trial a process of its own."""
