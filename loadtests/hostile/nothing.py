"""The process that does nothing: it answers each HTTP request with the same 200, and holds nothing of it.

What an attack does to its honest clients is what the machine and the attacker alone do to them. For gRPC that is
`loadtests.floor_grpc`.

    python -m loadtests.hostile.nothing PORT [CERTIFICATE KEY CLIENT-CA]
"""

import asyncio
import re
import resource
import signal
import ssl
import sys
from typing import Any

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MAX_HEADER = 65_536


class Nothing(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: Any = None
        self._header = b""
        self._body_left = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        data, self._header = self._header + data, b""
        at = answers = 0
        while at < len(data):
            if self._body_left:
                dropped = min(self._body_left, len(data) - at)
                self._body_left -= dropped
                at += dropped
            else:
                end = data.find(b"\r\n\r\n", at)
                if end < 0:
                    self._header = data[at:]
                    if len(self._header) > _MAX_HEADER:
                        self._transport.abort()
                    break
                length = _LENGTH.search(data, at, end)
                self._body_left = int(length[1]) if length else 0
                at = end + 4
            answers += not self._body_left
        if answers:
            self._transport.write(ANSWER * answers)


async def serve(port: int, files: list[str]) -> None:
    """On loopback until SIGTERM."""
    context = None
    if files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files[2])
        context.load_cert_chain(files[0], files[1])
        context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Nothing, "127.0.0.1", port, ssl=context, backlog=2048)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


def main(port: int, files: list[str]) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(serve(port, files))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
