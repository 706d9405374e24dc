"""One gRPC connection from the client's side, one call at a time, in as little of HTTP/2 as that takes. Pure.

grpc.aio would take the generator several times as long for a call as the kernel does. What a client may leave out is
left out: nothing is indexed or Huffman-coded in its headers, and the server is asked for no dynamic table, so that the
code of a call's status stands in its trailers as text.
"""

import struct
from collections.abc import Sequence

from loadtests.openloop.outcomes import Verdict

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 4, 5
FRAME_BYTES, WINDOW_BYTES = 16_384, 65_535  # what holds until the server says otherwise
HUGE = 2**31 - 1

# Codes that say that a server is too busy: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE.
BUSY = (4, 8, 14)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + payload


PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(
        SETTINGS,
        0,
        0,
        struct.pack("!HIHIHI", HEADER_TABLE_SIZE, 0, ENABLE_PUSH, 0, INITIAL_WINDOW_SIZE, HUGE),
    )
    + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", HUGE - WINDOW_BYTES))
)


def headers(path: str, authority: str = "127.0.0.1") -> bytes:
    """The header block of a call: indices of the static table (RFC 7541, appendix A), and literals behind them."""
    method_post, scheme_http = b"\x83", b"\x86"
    path_name, authority_name, content_type_name = b"\x04", b"\x01", b"\x0f\x10"
    block = method_post + scheme_http + path_name + _text(path) + authority_name + _text(authority)
    return block + content_type_name + _text("application/grpc") + b"\x00" + _text("te") + _text("trailers")


def _text(value: str) -> bytes:
    if len(value) > 126:
        raise ValueError(f"too long for one byte of length: {value!r}")
    return bytes([len(value)]) + value.encode()


class Grpc1:
    """`messages` by kind, serialized; `answer_bytes` the lengths of right answers, None where it is not known.

    `out` is what has to be written to the socket; `closing` says that the connection cannot be used again.
    """

    def __init__(self, path: str, messages: Sequence[bytes], answer_bytes: Sequence[int | None]) -> None:
        self._headers = headers(path)
        self._messages = [b"\0" + len(each).to_bytes(4, "big") + each for each in messages]
        self._answer_bytes = answer_bytes
        self._kind = 0
        self._stream = -1
        self._left = memoryview(b"")  # of the message, that the server's windows did not let through
        self._window = self._stream_window = self._initial_window = WINDOW_BYTES
        self._frame_bytes = FRAME_BYTES
        self._read = b""
        self._answered_bytes = 0
        self._ended = True  # a reset may follow: of what the server did not wait for
        self.out = PREFACE
        self.closing = False
        self.failure = ""

    def start(self, kind: int) -> None:
        self._kind = kind
        self._stream += 2
        self._answered_bytes = 0
        self._ended = False
        self._left = memoryview(self._messages[kind])
        self._stream_window = self._initial_window
        self.out += frame(HEADERS, END_HEADERS, self._stream, self._headers)
        self._send()

    def _send(self) -> None:
        """As much of the message as the server lets us."""
        parts = [self.out]
        while self._left and (room := min(len(self._left), self._window, self._stream_window, self._frame_bytes)) > 0:
            piece, self._left = self._left[:room], self._left[room:]
            self._window -= room
            self._stream_window -= room
            parts.append(frame(DATA, 0 if self._left else END_STREAM, self._stream, bytes(piece)))
        self.out = b"".join(parts)

    def feed(self, data: bytes) -> Verdict:
        """What the server sent. PENDING until the call has its status."""
        data = self._read + data
        at, verdict = 0, Verdict.PENDING
        while len(data) >= at + 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if len(data) < end:
                break
            kind, flags, stream = struct.unpack_from("!BBI", data, at + 3)
            verdict = max(verdict, self._take(kind, flags, stream, data[at + 9 : end]))
            at = end
        self._read = data[at:]
        return verdict

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> Verdict:
        if kind == DATA and stream == self._stream:
            self._answered_bytes += len(payload) - (payload[0] + 1 if flags & PADDED else 0)
        elif kind == HEADERS and stream == self._stream and flags & END_STREAM:
            self._ended = True
            return self._judge(payload)
        elif kind == RST_STREAM and stream == self._stream and not self._ended:
            return self._failed(f"the server reset the call: {payload.hex()}")
        elif kind == WINDOW_UPDATE:
            (more,) = struct.unpack("!I", payload)
            if stream == 0:
                self._window += more
            elif stream == self._stream:
                self._stream_window += more
            self._send()
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self.out += frame(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            self.closing = True
        return Verdict.PENDING

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack("!HI", payload):
            if name == INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif name == MAX_FRAME_SIZE:
                self._frame_bytes = value
        self.out += frame(SETTINGS, ACK, 0)
        self._send()

    def _judge(self, trailers: bytes) -> Verdict:
        code = status(trailers)
        if code in BUSY:
            return Verdict.REFUSED
        if code not in (0, None) or not self._answered_bytes:
            return self._failed(f"status {code}: {trailers[:200]!r}")
        expected = self._answer_bytes[self._kind]
        if expected is not None and self._answered_bytes != expected + 5:
            return self._failed(f"an answer of {self._answered_bytes - 5} bytes, not {expected}")
        return Verdict.ANSWERED

    def _failed(self, why: str) -> Verdict:
        self.failure = why
        return Verdict.FAILED


def status(trailers: bytes) -> int | None:
    """The call's code; None where it does not stand there as text."""
    _, found, rest = trailers.partition(b"grpc-status")
    digits = rest[1 : 1 + rest[0]] if found and rest and rest[0] in (1, 2) else b""
    return int(digits) if digits.isdigit() else None
