"""A real server in a process of its own, and the commands, as a user starts them."""

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
LIMIT_S = 180.0  # how long anything may take on a loaded machine before a test gives up

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # made once: httpx would read all certificates for each request
_READY = re.compile(r"^ready +REST (https?://\S+:(\d+)) +gRPC (\S+:(\d+))", re.MULTILINE)

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str) -> T:
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + LIMIT_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {LIMIT_S:g} s for {what}"
        time.sleep(0.02)
    return result


def command(
    *args: object, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    """Runs `serving ARGS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "serving", *map(str, args)],
        env=_environment(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """Ours without settings of the server, so that a developer's shell does not change the tests."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("SERVING_")}
    return plain | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | dict(more or {})


class Server:
    """`serving start ARGS` on free ports. Started by the constructor; `wait_ready` returns when it serves.

    `under` is a command that becomes the server: it must exec what follows it. `command`: another one of ours.
    """

    running: ClassVar[set["Server"]] = set()

    def __init__(
        self,
        directory: Path,
        *args: object,
        http_port: int = 0,
        grpc_port: int = 0,
        env: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
        command: str = "start",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.paths = tuple(arg for arg in args if isinstance(arg, Path))
        number = sum(1 for _ in directory.glob("server-*.err"))
        self._out = directory / f"server-{number}.out"
        self._err = directory / f"server-{number}.err"
        ports = ("--http-port", str(http_port), "--grpc-port", str(grpc_port))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "serving", command, *map(str, args), *ports],
                env=_environment(env),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.url = self.http = self.grpc = ""
        self.http_port = self.grpc_port = 0
        Server.running.add(self)

    def wait_ready(self) -> "Server":
        def ready() -> "re.Match[str] | None":
            assert self.process.poll() is None, f"the server ended: {self.log}"
            return _READY.search(self.printed)

        match = wait_for(ready, "the line that says where the server listens")
        assert match is not None
        self.url, self.grpc = match[1], match[3]
        self.http = self.url.partition("://")[2]
        self.http_port, self.grpc_port = int(match[2]), int(match[4])
        return self

    @property
    def printed(self) -> str:
        """What it wrote to standard output so far."""
        return self._out.read_text()

    @property
    def log(self) -> str:
        """What it wrote to standard error so far."""
        return self._err.read_text()

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(LIMIT_S)

    def end(self) -> None:
        """Ends it whatever it does: first politely, twice, then not."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                try:
                    self.process.wait(10)
                except subprocess.TimeoutExpired:
                    continue
        Server.running.discard(self)

    # Questions

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """On a connection of its own."""
        return httpx.request(method, self.url + path, timeout=LIMIT_S, verify=_NO_TLS, **more)

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("POST", path, **more)

    def index(self, model: str | None = None) -> dict[tuple[str, int], dict[str, str]]:
        """The repository index by model and version; without models that have no version."""
        entries: list[dict[str, str]] = self.post("/v2/repository/index").json()
        return {(e["name"], int(e["version"])): e for e in entries if "version" in e and model in (None, e["name"])}

    def state(self, model: str, version: int) -> tuple[str, str]:
        """State and reason in the index; two empty texts if the version is not there."""
        entry = self.index().get((model, version))
        return (entry["state"], entry["reason"]) if entry else ("", "")

    def metrics(self) -> "Samples":
        return Samples(self.get("/metrics").text)


class Samples:
    """One scrape of `/metrics`."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def find(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Samples of that name with at least these labels, by all of their labels."""
        return {
            tuple(sorted(s.labels.items())): s.value
            for s in self.samples
            if s.name == name and labels.items() <= s.labels.items()
        }

    def sum(self, name: str, **labels: str) -> float:
        return sum(self.find(name, **labels).values())


def error_line(result: "subprocess.CompletedProcess[str]") -> str:
    """The one line with which a command failed; fails the test if that is not all that it said."""
    lines: Sequence[str] = result.stderr.strip().splitlines()
    assert result.returncode not in (0, None), f"it succeeded: {result.stdout}"
    assert "Traceback" not in result.stderr
    assert len(lines) == 1, f"expected one line, got {result.stderr}"
    assert lines[0].startswith("error: ")
    return lines[0]
