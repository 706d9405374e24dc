"""Attacks on listeners with TLS: handshakes that stall, and clients that may not come in."""

import random
import ssl

from loadtests.hostile.http_attacks import post
from loadtests.hostile.wire import Target, connect, crowd

HELLO = bytes.fromhex("16030100c2010000be0303")  # the beginning of one


async def stalls(target: Target) -> None:
    """Handshakes that are begun, or not even that, and never go on."""

    async def one(target: Target) -> None:
        peer = await connect(target)
        if peer is not None:
            await peer.send(random.choice((b"", HELLO, HELLO + bytes(100))))
            await peer.wait(target.left_s)
            target.seen["open" if peer.open else "closed"] += 1
            peer.close()

    await crowd(target, target.many(200), one)


async def plain(target: Target) -> None:
    """HTTP without TLS."""

    async def one(target: Target) -> None:
        peer = await connect(target)
        if peer is not None:
            await peer.send(post(target, "content-length: 2") + b"{}")
            await peer.wait(min(target.left_s, 1.0))
            target.seen[peer.http_outcome] += 1
            peer.close()

    await crowd(target, target.many(20), one, pause_s=0.02)


async def wrong_certificates(target: Target) -> None:
    """Clients with no certificate, or one that the server's authority has not signed."""
    contexts = [_context(None, None)]
    if "wrong_cert" in target.options:
        contexts.append(_context(target.options["wrong_cert"], target.options["wrong_key"]))

    async def one(target: Target) -> None:
        try:
            peer = await connect(target, ssl=random.choice(contexts), server_hostname="localhost")
        except (TimeoutError, ssl.SSLError, ConnectionError):
            target.seen["not let in"] += 1
            return
        if peer is None:  # reset in the handshake
            target.seen["not let in"] += 1
            return
        await peer.send(post(target, "content-length: 2", "connection: close") + b"{}")
        await peer.wait(min(target.left_s, 2.0))
        # With TLS 1.3 a client believes itself inside before the server has looked at its certificate.
        target.seen[peer.http_outcome if peer.received else "not let in"] += 1
        peer.close()

    await crowd(target, target.many(10), one, pause_s=0.05)


def _context(cert: str | None, key: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context
