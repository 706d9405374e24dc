"""One session with a small model under a steady load while a large one beside it loads, swaps and unloads.

Runs on the main thread; the server and the load are processes. One stream of requests goes on all the time; what was
under way when a request was due is looked up afterwards.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtests import heavy, kinds, mlp
from loadtests.cases import Case, Question, check, rest_binary
from loadtests.generators import LoadError
from loadtests.measure import Running, answer_of, generator_core, serving
from loadtests.oip import AnswerError
from loadtests.processes import ProcessError, pinned
from loadtests.swap_report import REST, Phase, Swaps

LIMIT_S = 300.0  # for one step
LOOK_S = 0.05  # how often the server is asked whether a step has ended: often would be a load of its own
TAIL_S = 0.3  # what a step leaves to do in the background counts to it


@dataclass(frozen=True)
class Settings:
    """How much to measure: `cycles` of rest, load, swap and unload, and `per_s` small requests a second."""

    cycles: int
    rest_s: float
    per_s: int
    pin: bool
    server_arguments: tuple[str, ...] = ()


def measure(kind: str, settings: Settings, files: Path, say: Callable[[str], None]) -> Swaps:
    """With a large model of one kind (see kinds.py), on a server of its own. What fails voids the result."""
    swaps = Swaps(kind, heavy.weights_bytes(), settings.per_s)
    say(f"{kind}: making the models")
    repository, log = files / kind, files / f"serving-{kind}.log"
    model = mlp.write_repository(repository)
    inputs = {mlp.INPUT: mlp.row()}
    small = rest_binary(Question(mlp.NAME, inputs, answer_of(model, inputs)))

    def command(path: Path, http_port: int, grpc_port: int) -> list[str]:
        ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
        mode = ["--mode", "explicit", "--load-model", mlp.NAME]
        return [sys.executable, "-m", "serving", "start", str(path), *mode, *ports, *settings.server_arguments]

    try:
        _, second = heavy.write_repository(kind, repository, files)
        hidden = second.with_name(".second")
        second.rename(hidden)
        with serving(f"the server with the {kind} model", repository, log, settings.pin, command) as running:
            check(small, running.ports["http"])
            with _requests(small, settings, files, running, swaps), _Client(running, kind) as client:
                for number in range(settings.cycles + 1):
                    say(f"{kind}: cycle {number} of {settings.cycles}" if number else f"{kind}: first load")
                    swaps.cycles.append(list(_cycle(client, settings, hidden, second)))
            check(small, running.ports["http"])
    except (AnswerError, LoadError, ProcessError, OSError, httpx.HTTPError) as error:
        swaps.failure = str(error)
    return swaps


def _cycle(client: "_Client", settings: Settings, hidden: Path, second: Path) -> Iterator[Phase]:
    yield _phase(REST, lambda: None, lambda: True, settings.rest_s)
    yield _phase("load", client.load, lambda: client.states() == {"1": "READY"})
    client.check("1")
    hidden.rename(second)
    yield _phase("swap", client.load, lambda: client.states() == {"2": "READY"})
    client.check("2")
    yield _phase("unload", client.unload, lambda: client.states().get("2") not in ("READY", "UNLOADING"))
    second.rename(hidden)


def _phase(step: str, begin: Callable[[], None], ended: Callable[[], bool], tail_s: float = TAIL_S) -> Phase:
    """LoadError when it does not end."""
    begin_s = time.perf_counter()
    begin()
    while not ended():
        if time.perf_counter() - begin_s > LIMIT_S:
            raise LoadError(f"the {step} took more than {LIMIT_S:.0f} s")
        time.sleep(LOOK_S)
    time.sleep(tail_s)
    return Phase(step, begin_s, time.perf_counter())


class _Client:
    """Says what the server shall do with the large model. LoadError when it does not."""

    def __init__(self, running: Running, kind: str) -> None:
        self._port = running.ports["http"]
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=LIMIT_S)
        self._platform = kinds.PLATFORMS[kind]
        golden = heavy.golden()
        self._case = rest_binary(Question(heavy.NAME, golden.inputs, golden.outputs))

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def load(self) -> None:
        self._ask("POST", f"/v2/repository/models/{heavy.NAME}/load")

    def unload(self) -> None:
        self._ask("POST", f"/v2/repository/models/{heavy.NAME}/unload")

    def states(self) -> dict[str, str]:
        """By version."""
        entries = self._ask("POST", "/v2/repository/index")
        return {
            entry["version"]: entry["state"] for entry in entries if entry["name"] == heavy.NAME and "version" in entry
        }

    def check(self, version: str) -> None:
        """It is served in the runtime that is to be measured, and answers rightly. AnswerError."""
        metadata = self._ask("GET", f"/v2/models/{heavy.NAME}")
        if (metadata["platform"], metadata["versions"]) != (self._platform, [version]):
            served = f"version {metadata['versions']} as {metadata['platform']}"
            raise AnswerError(f"not version {version} as {self._platform} is served, but {served}")
        check(self._case, self._port)

    def _ask(self, method: str, path: str) -> Any:
        answer = self._http.request(method, path)
        if answer.status_code != 200:
            raise LoadError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None


@contextmanager
def _requests(small: Case, settings: Settings, files: Path, running: Running, swaps: Swaps) -> Iterator[None]:
    """Requests go on until the block ends, and are in `swaps` then. LoadError when one failed."""
    body = files / "small-body"
    body.write_bytes(small.body)
    task = {
        "port": running.ports[small.transport],
        "path": small.path,
        "headers": dict(small.headers),
        "body": str(body),
        "per_s": settings.per_s,
        "seconds": None,
        "after_s": 0.1,
    }
    argv = [sys.executable, "-m", "loadtests.probe", json.dumps(task)]
    with pinned(generator_core(settings.pin)):
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            begun = _result(process.stdout.readline())
            yield
            output, _ = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            raise
    swaps.begun_s, swaps.latencies_ms = begun["begun_s"], _result(output)["latencies_ms"]


def _result(line: str) -> dict[str, Any]:
    """What the load has printed. LoadError if a request failed."""
    if not line:
        raise LoadError("the small requests ended without a result")
    result: dict[str, Any] = json.loads(line)
    if "failure" in result:
        raise LoadError(f"a small request failed: {result['failure']}")
    return result
