"""Which versions exist, which are wanted, which are ready.

`layout` reads directories, `policy` decides (both without threads or clocks of their own), `version` is one loaded
version with its state machine, `manager` reconciles what is with what should be and publishes the `catalog`.
"""
