"""A real S3 endpoint on this machine, and a way to it that can be slow, broken or gone."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
SECRET = "a-secret-that-nobody-may-see"
BUCKET = "bucket"
PAGE = 5  # objects in one answer of a listing


class S3:
    """moto's server in a process of its own, with one bucket."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env=os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.client: Any = self._client()
        self.client.create_bucket(Bucket=BUCKET)

    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="key",
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)

    def upload(self, directory: Path, prefix: str) -> None:
        """Every file below a directory."""
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(directory).as_posix()}", path.read_bytes())

    def keys(self, prefix: str = "") -> list[str]:
        listing = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for item in listing.get("Contents", [])]

    def remove(self, prefix: str) -> None:
        for key in self.keys(prefix):
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def close(self) -> None:
        self.client.close()
        self._process.communicate(timeout=30)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str  # as the header has it; empty: all of it


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of, or while, it is forwarded.

    `status`: it is answered so. `hang`: it is never answered. `cut`: the connection breaks after so many bytes of the
    answer. `rate`: bytes per second.
    """

    status: int = 0
    code: str = "Error"
    hang: bool = False
    cut: int | None = None
    rate: float = 0.0


Rule = Callable[[Request], Fault | None]


def no_faults(_request: Request) -> Fault | None:
    return None


class Way:
    """A proxy before an endpoint, one request per connection. It counts, and breaks what `rule` says."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self.rule: Rule = no_faults
        self.requests: list[Request] = []
        self.sent_bytes = 0  # of answers, heads included
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.port = 0
        self.open()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process take this way to S3."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def open(self) -> None:
        """Listens, on the same port each time."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Nobody is there any more: connections break, and new ones are refused."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed.set()
        self.shut()

    def gets(self, key: str) -> list[Request]:
        """The requests for the content of an object."""
        return [r for r in self.requests if r.method == "GET" and r.path == f"/{BUCKET}/{key}"]

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with self._lock:
                    self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):
                self._answer(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _answer(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(65536)
            if not data:
                return
            head += data
        request = _read(head.decode("latin-1"))
        self.requests.append(request)
        fault = self.rule(request) or Fault()
        if fault.hang:
            self._closed.wait(60)
        elif fault.status:
            connection.sendall(_error(fault))
        else:
            with socket.create_connection(("127.0.0.1", self._to_port)) as upstream:
                upstream.sendall(head)
                self._forward(upstream, connection, fault)

    def _forward(self, upstream: socket.socket, connection: socket.socket, fault: Fault) -> None:
        left = fault.cut
        while data := upstream.recv(8192 if fault.rate else 65536):
            if left is not None:
                data = data[:left]
                left -= len(data)
            connection.sendall(data)
            self.sent_bytes += len(data)
            if left == 0:
                return
            if fault.rate:
                time.sleep(len(data) / fault.rate)


def _read(head: str) -> Request:
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Request(method, path, headers.get("range", ""))


def _error(fault: Fault) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>no {SECRET}</Message></Error>".encode()
    head = f"HTTP/1.1 {fault.status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


@contextmanager
def s3() -> Iterator[S3]:
    server = S3()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def way(server: S3) -> Iterator[Way]:
    made = Way(server.port)
    try:
        yield made
    finally:
        made.close()
