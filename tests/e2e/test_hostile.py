"""Every attack of `loadtests.hostile`, small and short, on a real server: refused as it should be, at no more memory
than it may cost, counted, and with an honest client on either side of it that is answered."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.hostile import credentials, wire
from loadtests.hostile.catalog import ATTACKS, MB, Attack
from loadtests.hostile.measure import METHOD, PATH, footprint
from tests import models
from tests.e2e.plain import Plain
from tests.e2e.server import LIMIT_S, Server, wait_for
from tests.e2e.test_malformed import OIP, infer, infer_message

SECONDS, ATTEMPTS = 1.5, 20  # an attack is repeated until all that is expected of it was seen
SCALE = 0.02
LIMITS = (
    *("--http-header-timeout-s", 0.4, "--http-body-timeout-s", 0.4, "--http-idle-timeout-s", 3),
    *("--http-max-connections", 120, "--http-max-bodies-size", MB, "--http-max-input-size", 8 * MB),
    *("--grpc-max-connections", 40, "--grpc-max-decompressed-size", 4 * MB),
)
# What the server itself counts; what gRPC's core refuses it does not hear of.
COUNTED = {
    "slowloris": ("http", "slow"),
    "slow-body": ("http", "slow"),
    "too-many-connections": ("http", "connections"),
    "large-headers": ("http", "header"),
    "large-bodies": ("http", "body"),
    "many-bodies": ("http", "memory"),
    "chunks": ("http", "malformed"),
    "malformed": ("http", "malformed"),
    "grpc-bombs": ("grpc", "decompressed"),
    "grpc-metadata": ("grpc", "header"),
}
PLAIN = [attack for attack in ATTACKS.values() if attack.needs is None]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    root = tmp_path_factory.mktemp("hostile")
    models.save(models.identity(), root / "repo/copy/1/model.onnx")
    server = Server(root / "logs", root / "repo", *LIMITS)
    try:
        with Plain(server.wait_ready()) as made:
            yield made
    finally:
        server.end()


def strike(attack: Attack, port: int, **options: str) -> Counter[str]:
    """What was seen of it, by the time that all has been seen that is expected."""
    seen: Counter[str] = Counter()

    async def once() -> None:
        until = asyncio.get_running_loop().time() + SECONDS
        await attack.run(wire.Target("127.0.0.1", port, until, SCALE, PATH, METHOD, options, seen))

    for _ in range(ATTEMPTS):
        asyncio.run(once())
        if all(seen[outcome] for outcome in attack.expected):
            break
    return seen


def serves(target: Plain) -> bool:
    """Connections that an attack has left may still be in the way."""
    answer = target.server.post("/v2/models/copy/infer", content=json.dumps(infer()).encode())
    if answer.status_code != 200:
        return False
    assert answer.json()["outputs"][0]["data"] == [1, 2, 3, 4]
    target.call(OIP, "ModelInfer", infer_message(), wait_for_ready=True)
    return True


@pytest.mark.parametrize("attack", PLAIN, ids=lambda attack: attack.name)
def test_is_stood(target: Plain, attack: Attack) -> None:
    server = target.server
    wait_for(lambda: serves(target), "an honest client to be served")
    before, _ = footprint(server.process.pid)
    logged = len(server.log)
    seen = strike(attack, server.grpc_port if attack.grpc else server.http_port)
    after, _ = footprint(server.process.pid)
    assert all(seen[outcome] for outcome in attack.expected), dict(seen)
    assert {outcome for outcome, times in seen.items() if times} <= {*attack.expected, *attack.allowed}, dict(seen)
    assert after - before < attack.may_cost_mb
    wait_for(lambda: serves(target), "an honest client to be served")
    assert server.process.poll() is None and "Traceback" not in server.log[logged:]
    if attack.name in COUNTED:
        protocol, reason = COUNTED[attack.name]
        assert server.metrics().sum("serving_refused_total", protocol=protocol, reason=reason) > 0


@pytest.mark.parametrize("needs", ["keys", "tls"])
def test_those_who_may_not_come_in(tmp_path: Path, needs: str) -> None:
    if reason := credentials.missing(needs):
        pytest.skip(reason)
    models.save(models.identity(), tmp_path / "repo/copy/1/model.onnx")
    secret = credentials.of(needs, tmp_path)
    server = Server(tmp_path / "logs", tmp_path / "repo", *LIMITS, *secret.flags)
    try:
        wait_for(lambda: "ready " in server.printed, "the server to be ready")
        port = _http_port(server)
        for attack in ATTACKS.values():
            if attack.needs == needs:
                seen = strike(attack, port, **secret.options)
                assert all(seen[outcome] for outcome in attack.expected), (attack.name, dict(seen))
                unexpected = {outcome for outcome, times in seen.items() if times} - {*attack.expected, *attack.allowed}
                assert not unexpected, attack.name
        assert server.process.poll() is None and "Traceback" not in server.log
    finally:
        server.end()


def _http_port(server: Server) -> int:
    return int(server.printed.split("ready", 1)[1].split("REST", 1)[1].split()[0].rpartition(":")[2])


def test_a_client_that_closes_its_half_is_answered(target: Plain) -> None:
    """As `nc -N` does."""
    body = json.dumps(infer()).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", target.server.http_port), timeout=LIMIT_S) as connection:
        connection.sendall(head + body)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as received:
            answer = received.read()
    assert b"HTTP/1.1 200 OK" in answer and answer.endswith(b"}")
