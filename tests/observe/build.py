"""Records as a server makes them."""

from typing import Any

from serving.core.types import Timing
from serving.engine import Times
from serving.protocols.record import Inference, Record, Trace

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def trace(number: int = 1, *, sampled: bool = True, **more: str) -> Trace:
    return Trace(TRACE_ID, f"{number:016x}", sampled, **more)


def inference(began: float = 10.0, *, run_s: float = 0.25, rows: int = 2, **more: Any) -> Inference:
    """Read in 1 s, 2 s in the queue, 0.5 s of computing, written in 1 s."""
    timing = Timing(2.0, 0.5, 0.125, run_s, 0.125, rows)
    times = Times(began, began + 1, began + 4, began + 5)
    about = {"protocol": "oip_rest", "model": "m", "version": "3", "outcome": "ok"} | more
    return Inference(**about, began=began, ended=began + 5, times=times, timing=timing)


def failure(outcome: str = "invalid", began: float = 10.0) -> Inference:
    return Inference("oip_rest", "m", "3", outcome, began, began + 1)


def record(*inferences: Inference, **more: Any) -> Record:
    about: dict[str, Any] = {
        "transport": "http",
        "method": "POST",
        "path": "/v2/models/m/infer",
        "peer": "127.0.0.1:5",
        "began": 9.5,
        "ended": 15.5,
        "status": 200,
        "received_bytes": 100,
        "sent_bytes": 50,
    }
    return Record(**(about | more), inferences=list(inferences))


def call(*inferences: Inference, **more: Any) -> Record:
    """Of gRPC."""
    path = "/inference.GRPCInferenceService/ModelInfer"
    about = {"transport": "grpc", "method": "", "path": path, "peer": "ipv4:127.0.0.1:5", "status": "OK"}
    return record(*inferences, **(about | more))
