"""Traces, made or recorded, replayed under each batching policy by serving/batching/simulation: `python -m
loadtests.simulate --help`."""
