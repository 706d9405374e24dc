"""Finds the settings with which a model serves a latency bound best, by measuring.

`bench` loads the model and `offered` sends requests to its batcher, both in this process; `goal` says what is better
and `search` what is tried next, both by what they are told; `source` finds the model and its settings, `edit` changes
these, `report` says what was found and `others` how far that can be trusted. Nothing here is part of a running server.
"""
