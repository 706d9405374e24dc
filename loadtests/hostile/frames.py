"""HTTP/2 as bytes, whole or broken. Pure; knows as much of HPACK as a request of gRPC needs."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
CANCEL = 8
HEAD_BYTES = 9
INITIAL_WINDOW, MAX_FRAME = 0x4, 0x5  # settings

NAMES = {0: "NO_ERROR", 1: "PROTOCOL_ERROR", 6: "FRAME_SIZE_ERROR", 9: "COMPRESSION_ERROR", 11: "ENHANCE_YOUR_CALM"}


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    """`length`: what the frame claims, if that is not true."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    """`window`: what each stream may send to us at first."""
    known = {"window": INITIAL_WINDOW, "max_frame": MAX_FRAME}
    return frame(SETTINGS, b"".join(struct.pack("!HI", known[name], value) for name, value in values.items()))


def _number(value: int, prefix_bits: int) -> bytes:
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((value,))
    found, value = bytearray((most,)), value - most
    while value >= 128:
        found.append(value % 128 + 128)
        value //= 128
    found.append(value)
    return bytes(found)


def _text(value: bytes) -> bytes:
    return _number(len(value), 7) + value


def field(name: bytes, value: bytes) -> bytes:
    """A literal that nobody remembers."""
    return b"\0" + _text(name) + _text(value)


def request(path: str, *more: tuple[bytes, bytes]) -> bytes:
    """The header block of a call."""
    block = b"\x83\x86" + b"\x04" + _text(path.encode()) + b"\x01" + _text(b"127.0.0.1")  # POST, http
    lines = ((b"te", b"trailers"), (b"content-type", b"application/grpc"), *more)
    return block + b"".join(field(*line) for line in lines)


def message(data: bytes, compressed: bool = False) -> bytes:
    """As gRPC frames one."""
    return bytes((compressed,)) + len(data).to_bytes(4, "big") + data


def split(received: bytes) -> tuple[list[tuple[int, int, int, bytes]], bytes]:
    """The frames in it, each as kind, flags, stream and payload, and the rest."""
    found, at = [], 0
    while len(received) - at >= HEAD_BYTES:
        end = at + HEAD_BYTES + int.from_bytes(received[at : at + 3], "big")
        if end > len(received):
            break
        stream = int.from_bytes(received[at + 5 : at + HEAD_BYTES], "big")
        found.append((received[at + 3], received[at + 4], stream, received[at + HEAD_BYTES : end]))
        at = end
    return found, received[at:]
