"""Hours of mixed traffic while versions are swapped: is every request answered, and does anything grow?

What it is made of serves `loadtests.chaos` too: `law` (a model whose answers tell its version), `wire` and `clients`
(one request over each protocol, and what came of it), `traffic` (many, all kept), `counts` (them in figures), `site` (a
server that can be killed and started again).
"""
