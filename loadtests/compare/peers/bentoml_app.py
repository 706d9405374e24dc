# mypy: disable-error-code="import-not-found,misc,untyped-decorator"
"""BentoML: one worker with its adaptive batching, which learns how long to hold a batch; no access log."""

import bentoml
import numpy as np

from loadtests.compare.peers.model import Model, Rows, max_batch_size

# How long a request may take in all; what would take longer is refused. This is its default, and no slower than less.
MAX_LATENCY_MS = 60_000


@bentoml.service(
    workers=1,
    threads=1,
    traffic={"timeout": 30, "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
)
class Mlp:
    def __init__(self) -> None:
        self._model = Model()

    @bentoml.api(
        batchable=True, batch_dim=0, max_batch_size=max_batch_size(), max_latency_ms=MAX_LATENCY_MS, route="/json"
    )
    def infer(self, x: np.ndarray) -> Rows:
        return self._model(x.astype(np.float32))
