"""Certificates: what is read of their files, what connections get to see of them, and when they change."""

import asyncio
import logging
import re
import shutil
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

from serving.protocols.grpc import Call, Method, StreamMethod
from serving.protocols.status import Family
from serving.transport.grpc import GrpcListener
from serving.transport.http import HttpListener
from serving.transport.limits import GrpcLimits, HttpLimits
from serving.transport.tls import Tls, TlsFiles, read
from serving.transport.watched import UnusableError
from tests.certificates import NOW, TOMORROW, YESTERDAY, Authority, Issued, key_bytes, new_key
from tests.transport.raw import on_loop, until

PERIOD_S = 0.01  # between looks at the files
_LIMITS = HttpLimits()
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue()


def files(issued: Issued, **more: Path) -> TlsFiles:
    return TlsFiles(issued.certificate, issued.key, **more)


def mine(directory: Path, issued: Issued) -> TlsFiles:
    """A copy that a test may change."""
    return TlsFiles(
        Path(shutil.copy(issued.certificate, directory / "c.pem")), Path(shutil.copy(issued.key, directory / "k.pem"))
    )


# What is read


@pytest.mark.parametrize(
    "ends", [TOMORROW, YESTERDAY, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
def test_when_a_certificate_expires(authority: Authority, ends: datetime) -> None:
    issued = authority.issue("expiring", ends=ends)
    assert read(files(issued)).expires == ends.timestamp()
    assert Tls(files(issued)).expired is (ends < NOW)


def test_of_a_chain_the_first_to_expire_counts(authority: Authority, tmp_path: Path) -> None:
    first = authority.issue("first", ends=TOMORROW)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(first.certificate.read_bytes() + authority.certificate.read_bytes())
    assert read(TlsFiles(chain, first.key)).expires == TOMORROW.timestamp()


def test_what_cannot_be_used_is_named(authority: Authority, issued: Issued, tmp_path: Path) -> None:
    other, text, encrypted = authority.issue("other"), tmp_path / "text.pem", tmp_path / "encrypted.pem"
    text.write_text("hello")
    encrypted.write_bytes(key_bytes(new_key(), BestAvailableEncryption(b"secret")))
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    c, k = issued.certificate, issued.key
    for given, says in [
        (TlsFiles(tmp_path / "no.pem", k), "cannot read '.*no.pem': No such file or directory"),
        (TlsFiles(tmp_path, k), "cannot read '.*': Is a directory"),
        (TlsFiles(text, k), "'.*text.pem' holds no certificate in PEM form"),
        (TlsFiles(broken, k), "'.*broken.pem' holds a certificate that cannot be read"),
        (TlsFiles(c, text), "'.*certificate.pem' and '.*text.pem' cannot be used as certificate and key in PEM form"),
        (TlsFiles(c, other.key), "the key in '.*' does not belong to the certificate in '.*'"),
        (TlsFiles(c, encrypted), "the key in '.*encrypted.pem' is encrypted; decrypt it first"),
        (TlsFiles(c, k, text), "'.*text.pem' holds no certificates in PEM form"),
    ]:
        with pytest.raises(UnusableError) as error:
            read(given)
        assert re.match(says, str(error.value)) and "\n" not in str(error.value)


# What connections get


async def _app(scope: Any, receive: Any, send: Any) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"got %d" % len(body)})


class Site:
    def __init__(self, listener: HttpListener, port: int, refused: "Counter[str]") -> None:
        self.listener = listener
        self.port = port
        self.refused = refused

    async def connect(
        self, roots: Path, own: Issued | None = None, most: ssl.TLSVersion | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cafile=str(roots))
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        if most is not None:
            context.minimum_version, context.maximum_version = most, most
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="localhost")

    async def ask(self, *args: Any, **more: Any) -> tuple[bytes, int]:
        """The body of an answer, and the serial number of the server's certificate."""
        reader, writer = await self.connect(*args, **more)
        try:
            return await exchange(reader, writer), serial(writer)
        finally:
            writer.transport.abort()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes = GET) -> bytes:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return await reader.readexactly(int(length[1]))


def serial(writer: asyncio.StreamWriter) -> int:
    return int(writer.get_extra_info("peercert")["serialNumber"], 16)


@asynccontextmanager
async def site(given: TlsFiles, limits: HttpLimits = _LIMITS) -> AsyncIterator[tuple[Site, Tls]]:
    tls, refused = Tls(given), Counter[str]()
    listener = HttpListener(_app, limits, tls=tls, refused=lambda reason: refused.update([reason]))
    following = asyncio.create_task(tls.watched.follow(PERIOD_S))
    try:
        yield Site(listener, await listener.listen("127.0.0.1", 0), refused), tls
    finally:
        following.cancel()
        await listener.stop(0.0)


@on_loop
async def test_requests_are_answered(authority: Authority, issued: Issued) -> None:
    async with site(files(issued)) as (server, _):
        reader, writer = await server.connect(authority.certificate)
        assert await exchange(reader, writer) == b"got 0"
        large = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n" + bytes(3_000_000)
        assert await exchange(reader, writer, large) == b"got 3000000"  # on the same connection
        assert server.listener.connections == 1
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() is None  # none was offered
        writer.transport.abort()


@on_loop
async def test_tls_1_2_is_the_oldest(authority: Authority, issued: Issued) -> None:
    async with site(files(issued)) as (server, _):
        assert (await server.ask(authority.certificate, most=ssl.TLSVersion.TLSv1_2))[0] == b"got 0"
        assert (await server.ask(authority.certificate, most=ssl.TLSVersion.TLSv1_3))[0] == b"got 0"
        assert Tls(files(issued)).context.minimum_version is ssl.TLSVersion.TLSv1_2


@on_loop
async def test_a_client_does_not_take_the_certificate_of_another_authority_or_an_expired_one(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    for roots, issued in [
        (stranger.certificate, authority.issue("mine")),
        (authority.certificate, authority.issue("expired", ends=YESTERDAY)),
        (authority.certificate, authority.issue("elsewhere", hosts=["example.org"])),
    ]:
        async with site(files(issued)) as (server, _):
            with pytest.raises(ssl.SSLCertVerificationError):
                await server.ask(roots)
            await until(lambda: server.refused["malformed"] == 1)


@on_loop
async def test_a_refusal_arrives_whole_and_the_connection_ends(authority: Authority, issued: Issued) -> None:
    async with site(files(issued), HttpLimits(max_body_bytes=100, linger_s=0.2)) as (server, _):
        reader, writer = await server.connect(authority.certificate)
        too_large = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + bytes(100_000)
        assert b"exceeds the maximum allowed input size" in await exchange(reader, writer, too_large)
        assert await reader.read() == b""  # ended by the server, after what was sent was dropped
        await until(lambda: not server.listener.connections)
        writer.transport.abort()


@on_loop
async def test_a_handshake_has_to_come_in_time(authority: Authority, issued: Issued) -> None:
    async with site(files(issued), HttpLimits(header_timeout_s=0.1)) as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b""
        assert server.refused == {"slow": 1}
        writer.close()
        assert (await server.ask(authority.certificate))[0] == b"got 0"


@on_loop
async def test_what_is_no_handshake_is_dropped(authority: Authority, issued: Issued) -> None:
    async with site(files(issued)) as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET)
        with suppress(ConnectionError):
            assert b"HTTP" not in await reader.read()
        await until(lambda: server.refused == {"malformed": 1})
        writer.close()
        assert (await server.ask(authority.certificate))[0] == b"got 0"


@on_loop
async def test_handshakes_count_among_the_connections(authority: Authority, issued: Issued) -> None:
    async with site(files(issued), HttpLimits(max_connections=3)) as (server, _):
        reader, writer = await server.connect(authority.certificate)
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        await until(lambda: len(server.listener._handshakes or ()) == 2)
        with pytest.raises(OSError):  # noqa: PT011  (reset, or closed within the handshake)
            await server.connect(authority.certificate)
        assert server.refused == {"connections": 1}
        assert await exchange(reader, writer) == b"got 0"  # those that are there go on
        for one in idle:
            one.close()
        await until(lambda: not server.listener._handshakes)
        assert (await server.ask(authority.certificate))[0] == b"got 0"
        writer.transport.abort()


@on_loop
async def test_a_stop_answers_what_has_begun_and_waits_for_nobody_else(authority: Authority, issued: Issued) -> None:
    began, going_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        await going_on.wait()
        await _app(scope, receive, send)

    listener = HttpListener(slow, HttpLimits(), tls=Tls(files(issued)))
    server = Site(listener, await listener.listen("127.0.0.1", 0), Counter())
    reader, writer = await server.connect(authority.certificate)
    _, idle = await server.connect(authority.certificate)
    with socket.create_connection(("127.0.0.1", server.port)):  # which never begins
        answer = asyncio.create_task(exchange(reader, writer))
        await began.wait()
        stopping = asyncio.create_task(listener.stop(limit_s=14.0))
        await asyncio.sleep(0.2)
        going_on.set()
        assert await answer == b"got 0"
        assert await stopping is True
    with pytest.raises(ConnectionRefusedError):
        await server.connect(authority.certificate)
    for one in (writer, idle):
        one.transport.abort()


# Other certificates


def replace(old: TlsFiles, new: Issued) -> None:
    """One file after the other, as most who do this do it."""
    for source, target in ((new.certificate, old.certificate), (new.key, old.key)):
        part = target.with_suffix(".part")
        shutil.copy(source, part)
        part.replace(target)


@on_loop
async def test_a_new_certificate_counts_for_new_connections(
    authority: Authority, issued: Issued, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serving.transport.watched")
    given = mine(tmp_path, issued)
    async with site(given) as (server, tls):
        reader, writer = await server.connect(authority.certificate)
        old = serial(writer)
        before = tls.expires()
        replace(given, authority.issue("new", ends=TOMORROW.replace(year=TOMORROW.year + 2)))
        await until(lambda: tls.expires() != before)
        assert (await server.ask(authority.certificate))[1] != old
        assert await exchange(reader, writer) == b"got 0"  # and those that exist stay
        assert "TLS: read again; it expires at" in caplog.text
        writer.transport.abort()


@on_loop
async def test_a_bad_new_certificate_does_not_count(
    authority: Authority, issued: Issued, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = mine(tmp_path, issued)
    async with site(given) as (server, _):
        _, old = await server.ask(authority.certificate)
        replace(given, Issued(authority.issue("one").certificate, authority.issue("two").key, tmp_path))
        await until(lambda: "what was there before stays" in caplog.text)
        assert "does not belong to the certificate" in caplog.text
        assert (await server.ask(authority.certificate))[1] == old
        good = authority.issue("good", ends=TOMORROW.replace(year=TOMORROW.year + 1))
        replace(given, good)  # and what is mended counts
        for _ in range(500):
            if (await server.ask(authority.certificate))[1] != old:
                break
            await asyncio.sleep(PERIOD_S)
        assert (await server.ask(authority.certificate))[1] != old


# Clients' certificates


@on_loop
async def test_clients_need_a_certificate_of_the_right_authority(
    authority: Authority, issued: Issued, tmp_path: Path
) -> None:
    ours = Authority(tmp_path, "ours")
    async with site(files(issued, client_ca=ours.certificate)) as (server, _):
        assert (await server.ask(authority.certificate, own=ours.issue("client")))[0] == b"got 0"
        for own in (None, authority.issue("stranger"), ours.issue("late", ends=YESTERDAY)):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await server.ask(authority.certificate, own=own)


# gRPC


class _Echo:
    service = "test.Service"
    family = Family.OIP

    def __init__(self) -> None:
        self.methods: dict[str, Method] = {"Ask": self.ask}
        self.streams: dict[str, StreamMethod] = {}

    async def ask(self, data: bytes, call: Call) -> bytes:
        return data + b"!"


def _credentials(roots: Path, own: Issued | None) -> grpc.ChannelCredentials:
    mine = () if own is None else (own.key.read_bytes(), own.certificate.read_bytes())
    return grpc.ssl_channel_credentials(roots.read_bytes(), *mine)


async def call(port: int, roots: Path, own: Issued | None = None) -> bytes:
    credentials = _credentials(roots, own)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials, options) as channel:
        answer: bytes = await channel.unary_unary("/test.Service/Ask", None, None)(b"hello")
        return answer


@asynccontextmanager
async def grpc_site(given: TlsFiles) -> AsyncIterator[tuple[int, Tls]]:
    tls = Tls(given)
    listener = GrpcListener([_Echo()], GrpcLimits(), tls=tls)
    following = asyncio.create_task(tls.watched.follow(PERIOD_S))
    try:
        yield await listener.listen("127.0.0.1", 0), tls
    finally:
        following.cancel()
        await listener.stop(0.0)


async def refused(asking: Callable[[], Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asking()
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


@on_loop
async def test_grpc_with_tls(authority: Authority, issued: Issued, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    async with grpc_site(files(issued)) as (port, _):
        assert await call(port, authority.certificate) == b"hello!"
        await refused(lambda: call(port, stranger.certificate))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain:
            await refused(lambda: plain.unary_unary("/test.Service/Ask", None, None)(b"hello"))


@on_loop
async def test_grpc_with_certificates_of_clients(authority: Authority, issued: Issued, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    async with grpc_site(files(issued, client_ca=ours.certificate)) as (port, _):
        assert await call(port, authority.certificate, ours.issue("client")) == b"hello!"
        for own in (None, authority.issue("stranger"), ours.issue("late", ends=YESTERDAY)):
            await refused(lambda own=own: call(port, authority.certificate, own))  # type: ignore[misc]


@on_loop
async def test_grpc_gets_the_new_certificate_and_keeps_the_old_one_if_it_is_bad(tmp_path: Path) -> None:
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    given = mine(tmp_path, first.issue("a"))
    async with grpc_site(given) as (port, tls):
        assert await call(port, first.certificate) == b"hello!"
        before = tls.watched.value
        replace(given, second.issue("b"))
        await until(lambda: tls.watched.value is not before)
        assert await call(port, second.certificate) == b"hello!"
        await refused(lambda: call(port, first.certificate))
        given.certificate.write_text("nonsense")
        await asyncio.sleep(10 * PERIOD_S)
        assert await call(port, second.certificate) == b"hello!"
