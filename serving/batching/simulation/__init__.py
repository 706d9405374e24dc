"""What a batcher would do with a trace: the real queue and the real policies, a made-up clock and a model of the model.

`latency` says how long a run takes, `replay` is the event loop, `summary` counts what came of it. Pure: no threads, no
clock; the same arguments give the same result to the last bit. It knows no files: loadtests/simulate reads traces.
"""
