"""Bytes over HTTP and gRPC, for requests that no official client would make, and a look at the server's process."""

import re
from pathlib import Path
from typing import Any

import grpc
import httpx

from tests.e2e.clients import RefusedError
from tests.e2e.server import LIMIT_S, Server

OIP = "inference.GRPCInferenceService"
PREDICTION = "tensorflow.serving.PredictionService"
MODEL = "tensorflow.serving.ModelService"

_NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Plain:
    """One connection of each kind. Not for several threads at once."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.url, timeout=LIMIT_S)
        self.channel = grpc.insecure_channel(server.grpc, options=_NO_LIMIT)

    def __enter__(self) -> "Plain":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.channel.close()

    def post(self, path: str, data: bytes, **headers: str) -> httpx.Response:
        return self.http.post(path, content=data, headers=headers)

    def call(self, service: str, method: str, data: bytes, **more: Any) -> bytes:
        """Raises: RefusedError."""
        try:
            answer: bytes = self.channel.unary_unary(f"/{service}/{method}", None, None)(data, timeout=LIMIT_S, **more)
        except grpc.RpcError as error:
            raise _refusal(error) from None
        return answer

    def stream(self, service: str, method: str, *messages: bytes) -> list[bytes]:
        """All that is answered to these messages. Raises: RefusedError."""
        answers = self.channel.stream_stream(f"/{service}/{method}", None, None)(iter(messages), timeout=LIMIT_S)
        try:
            return list(answers)
        except grpc.RpcError as error:
            raise _refusal(error) from None


def _refusal(error: Any) -> RefusedError:
    return RefusedError(error.code().name, error.details() or "")


# The server's process and its helpers, as the system sees them


def helpers(pid: int) -> list[int]:
    """The processes of a server that read and write large bodies for it."""
    return [child for child in children(pid) if b"offload" in Path(f"/proc/{child}/cmdline").read_bytes()]


def children(pid: int) -> list[int]:
    """Those of a process that have not ended."""
    listed = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    return [child for text in listed for child in map(int, text.split()) if lives(child)]


def lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return re.search(r"^State:\t[ZX]", status, re.MULTILINE) is None


def memory(pid: int, which: str = "VmRSS") -> int:
    """Bytes in memory of a process; `VmHWM` is the most since it was started, or since `forget_peak`."""
    match = re.search(rf"^{which}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
