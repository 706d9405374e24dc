"""Runs attacks: a server, an honest client and an attacker, each a process of its own, and a look at what the server
holds.

On the main thread; one thread more looks at the memory of the server and its children all the time.
"""

import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.hostile import credentials
from loadtests.hostile.catalog import Attack
from loadtests.hostile.judge import Memory, Result, Side, p99
from loadtests.processes import ProcessError, Server, free_ports
from serving.protocols.messages import oip

MB = 1024 * 1024
MODEL = "copy"
PATH = f"/v2/models/{MODEL}/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
LOOK_S = 0.05
SETTLE_S = 1.0  # from the end of an attack until the memory is looked at
SKIP_S = 0.2  # of the attack: it begins, and so does its process, which is not the attack
ROWS = 4
_READY = re.compile(rb"^ready ", re.MULTILINE)
_REFUSED = re.compile(r'^serving_refused_total\{protocol="(\w+)",reason="(\w+)"\} (\S+)', re.MULTILINE)


@dataclass(frozen=True)
class Plan:
    rounds: int = 3
    before_s: float = 3.0
    during_s: float = 8.0
    per_s: int = 100  # requests of the honest client
    scale: float = 1.0  # of the attackers' connections


class Bench:
    """Raises: ProcessError, where a server does not come up."""

    def __init__(self, plan: Plan, directory: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._directory = directory
        self._say = say
        self._number = 0
        self._repository = directory / "repo"
        (self._repository / MODEL / "1").mkdir(parents=True)
        tensors = [{"input": "x", "output": "y", "datatype": "FP32", "shape": [-1, ROWS]}]
        (self._repository / MODEL / "1/identity.yaml").write_text(json.dumps({"tensors": tensors}))

    def run(self, attack: Attack) -> Result:
        """Our server and the process that does nothing in turn, so that both get the same machine."""
        ours: list[Side] = []
        theirs: list[Side] = []
        for number in range(self._plan.rounds):
            for sides, make in ((ours, self._serving), (theirs, self._nothing)):
                self._say(f"{attack.name}, round {number + 1}, {make.__name__.strip('_')}")
                with make(attack) as started:
                    sides.append(self._attack(attack, started))
        return Result(attack.name, ours, theirs)

    @contextmanager
    def _serving(self, attack: Attack) -> Iterator["Started"]:
        http_port, grpc_port = free_ports(2)
        secret = credentials.of(attack.needs, self._directory)
        command = [sys.executable, "-m", "serving", "start", str(self._repository), *attack.flags, *secret.flags]
        command += ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
        port = grpc_port if attack.grpc else http_port
        with self._server("serving", command) as server:
            server.wait_until(lambda: _READY.search(self._log.read_bytes()) is not None)
            metrics = f"http://127.0.0.1:{http_port}/metrics" if attack.needs is None else None
            yield Started(server.pid, port, secret, metrics)

    @contextmanager
    def _nothing(self, attack: Attack) -> Iterator["Started"]:
        (port,) = free_ports(1)
        secret = credentials.of(attack.needs, self._directory)
        if attack.grpc:
            answer = self._directory / "answer"
            answer.write_bytes(b"")
            command = [sys.executable, "-m", "loadtests.floor_grpc", str(port), str(answer)]
        else:
            command = [sys.executable, "-m", "loadtests.hostile.nothing", str(port), *secret.server_files]
        with self._server("nothing", command) as server:
            server.wait_until(lambda: _connects(port))
            yield Started(server.pid, port, secret, None)

    def _server(self, name: str, command: Sequence[str]) -> Server:
        self._number += 1
        self._log = self._directory / f"{self._number}-{name}.log"
        return Server(name, command, self._log, {"PYTHONUNBUFFERED": "1"}, None)

    def _attack(self, attack: Attack, started: "Started") -> Side:
        plan = self._plan
        with ExitStack() as stack:
            healthy = stack.enter_context(_process("loadtests.hostile.healthy", self._honest(attack, started)))
            assert healthy.stdout is not None
            if healthy.stdout.readline().strip() != "begun":
                raise ProcessError(f"{attack.name}: the honest client is not answered before the attack")
            time.sleep(plan.before_s)
            look = stack.enter_context(Look(started.pid))
            began = time.perf_counter()
            task = {
                "attack": attack.name,
                "port": started.port,
                "seconds": plan.during_s,
                "scale": plan.scale,
                "path": PATH,
                "method": METHOD,
                "options": started.secret.options,
            }
            attacker = stack.enter_context(_process("loadtests.hostile.attacker", task))
            said, _ = attacker.communicate(timeout=plan.during_s + 60)
            ended = time.perf_counter()
            if attacker.returncode:
                raise ProcessError(f"{attack.name}: the attacker itself failed")
            time.sleep(SETTLE_S)
            memory = look.memory()
            told, _ = healthy.communicate(timeout=60)
            samples, failure = (json.loads(told)[key] for key in ("samples", "failure"))
            refused = _refused(started.metrics_url) if started.metrics_url else {}
        before = [ms for due, ms in samples if due < began]
        # Also a request that was asked before, and had to wait for the end of the attack.
        during = [ms for due, ms in samples if began + SKIP_S <= due + ms / 1e3 and due < ended]
        if not before or not during:
            raise ProcessError(f"{attack.name}: the honest client has no figures: {failure}")
        seen = json.loads(said)
        return Side(p99(before), p99(during), max(during), len(during), seen, memory, failure, refused)

    def _honest(self, attack: Attack, started: "Started") -> dict[str, Any]:
        task: dict[str, Any] = {"port": started.port, "per_s": self._plan.per_s}
        if attack.grpc:
            request = oip.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(4 * ROWS)])
            request.inputs.add(name="x", datatype="FP32", shape=[1, ROWS])
            return task | {"protocol": "grpc", "method": METHOD, "message": request.SerializeToString().hex()}
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, ROWS], "data": [0.0] * ROWS}]}
        return task | {"protocol": "http", "path": PATH, "body": json.dumps(body), **started.secret.honest}


@dataclass(frozen=True)
class Started:
    """A process to be attacked. `metrics_url` is where it counts what it refuses, if it does."""

    pid: int
    port: int
    secret: credentials.Credentials
    metrics_url: str | None


class Look:
    """Looks at the memory and the files of a process and its children, from now on until `memory` is asked for."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._peak = footprint(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Look":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(LOOK_S):
            now = footprint(self._pid)
            self._peak = max(self._peak[0], now[0]), max(self._peak[1], now[1])

    def memory(self) -> Memory:
        self._done.set()
        self._thread.join()
        after = footprint(self._pid)
        (before_mb, before_files), (peak_mb, peak_files) = self._before, self._peak
        return Memory(before_mb, peak_mb, after[0], before_files, peak_files, after[1])


def footprint(pid: int) -> tuple[float, int]:
    """Megabytes in memory, of the process and its children, and files that it has open."""
    size = 0.0
    for one in (pid, *_children(pid)):
        try:
            match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{one}/status").read_text(), re.MULTILINE)
        except OSError:  # it has ended
            continue
        size += int(match[1]) / 1024 if match else 0.0
    return size, sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:  # a thread that has ended
            continue
    return found


@contextmanager
def _process(module: str, task: dict[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(task)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _refused(url: str) -> dict[str, float]:
    """What the server has counted, by protocol and reason."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    return {f"{protocol}: {reason}": float(count) for protocol, reason, count in _REFUSED.findall(text)}
