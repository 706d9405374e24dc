"""Disks that are full when a test says so."""

import os
import resource
import subprocess
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.e2e.server import Server


class SmallDisk:
    """A file system of one MiB at `path`, which nobody sees but a server that runs under `under`."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
        self.under = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(path))
        if subprocess.run([*self.under, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this system lets nobody mount a file system of their own")

    def fill(self, server: Server) -> None:
        with self._rest(server).open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            _write_without_end(file)

    def empty(self, server: Server) -> None:
        self._rest(server).unlink()

    def _rest(self, server: Server) -> Path:
        return Path(f"/proc/{server.process.pid}/root{self._path}/rest")


class SmallFiles:
    """No file of the server may grow beyond the size that one has: as with a quota, and there on every system."""

    under = ()

    def __init__(self, file: Path) -> None:
        self._file = file

    def fill(self, server: Server) -> None:
        self._limit(server, self._file.stat().st_size)

    def empty(self, server: Server) -> None:
        self._limit(server, resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)[1])

    @staticmethod
    def _limit(server: Server, size: int) -> None:
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def _write_without_end(file: BinaryIO) -> None:
    while file.write(bytes(4096)):
        pass


# Runs a server that may not read or write everything, although it belongs to root.
AS_USER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
