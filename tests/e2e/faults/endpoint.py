"""An S3 endpoint that misbehaves on demand: moto's server in a process of its own, behind a proxy.

    with Endpoint(directory) as endpoint:
        endpoint.upload(path, "models/m/1")
        endpoint.behave("gone")

The proxy runs in threads of the test. Uploads do not go through it.
"""

import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import httpx

from tests.e2e.server import LIMIT_S, wait_for

Manner = Literal["well", "gone", "silent", "slow", "failing", "forbidding"]

BUCKET = "bucket"
SLOW_BYTES_PER_S = 400_000
_PIECE = 16 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what is left is dropped, and the peer told so
_STATUS = {"failing": b"503 Slow Down", "forbidding": b"403 Forbidden"}


class Endpoint:
    """
    Attributes:
        sent_bytes: of answers, through the proxy.
        asked: connections since the last change of manner.
    """

    def __init__(self, directory: Path) -> None:
        self._log = directory / "moto.log"
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._manner: Manner = "well"
        self.sent_bytes = 0
        self.asked = 0

    def __enter__(self) -> "Endpoint":
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._store = free.getsockname()[:2]
        argv = [sys.executable, "-m", "moto.server", "-H", self._store[0], "-p", str(self._store[1])]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._http = httpx.Client(base_url="http://{}:{}".format(*self._store), timeout=LIMIT_S)
        wait_for(self._answers, "moto's server")
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()
        self._listener.close()
        self._http.close()
        self._process.terminate()
        self._process.wait(LIMIT_S)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self._http.put(f"/{BUCKET}").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def environment(self) -> Mapping[str, str]:
        """For the server that shall use it."""
        return {
            "AWS_ENDPOINT_URL": "http://{}:{}".format(*self._listener.getsockname()),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def upload(self, directory: Path, prefix: str) -> None:
        """All files of a directory; a manifest last."""
        for path in sorted(directory.iterdir(), key=lambda path: path.name == "MANIFEST.json"):
            self._http.put(f"/{BUCKET}/{prefix}/{path.name}", content=path.read_bytes()).raise_for_status()

    def behave(self, manner: Manner) -> None:
        """From now on; what was open is broken off.

        well; gone: connections are refused; silent: no answer comes; slow: it comes at SLOW_BYTES_PER_S; failing: all
        is answered 503; forbidding: 403.
        """
        with self._lock:
            self._manner = manner
            self.asked = 0
        self._hang_up()

    def _hang_up(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _break_off(connection)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._take, args=(client,), daemon=True).start()

    def _take(self, client: socket.socket) -> None:
        with self._lock:
            manner = self._manner
            self.asked += 1
            self._connections.add(client)
        try:
            if manner == "gone":
                _break_off(client)
            elif manner == "silent":
                while client.recv(_PIECE):
                    pass
            elif manner in _STATUS:
                client.recv(_PIECE)
                client.sendall(b"HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % _STATUS[manner])
            else:
                self._pass_on(client, manner)
        except OSError:
            pass  # one of them hung up
        finally:
            with self._lock:
                self._connections.discard(client)
            client.close()

    def _pass_on(self, client: socket.socket, manner: Manner) -> None:
        with socket.create_connection(self._store) as store:
            threading.Thread(target=_copy, args=(client, store), daemon=True).start()
            while data := store.recv(_PIECE):
                if manner == "slow":
                    time.sleep(len(data) / SLOW_BYTES_PER_S)
                client.sendall(data)
                self.sent_bytes += len(data)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(_PIECE):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        _break_off(target)


def _break_off(connection: socket.socket) -> None:
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is already
