"""This server beside others on the same machine: one model, one generator, each server in an environment of its own.

`python -m loadtests.compare`. README.md tells the method.
"""
