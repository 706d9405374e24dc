"""What clients see while everything goes wrong: swaps, canaries, killed helpers, a killed server, a restart, a stop.

`python -m loadtests.chaos`. `scenario` is what is done, `judge` what clients may see of it; the load, the model and the
server are those of `loadtests.soak`.
"""
