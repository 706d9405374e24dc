"""Compressed HTTP bodies: gzip and deflate, both ways. Pure; what is heavy is for `offload`, and no sooner inflated.

Sizes are bounded while inflating: a body may grow a thousandfold, and nothing is believed that it says of itself.
"""

import io
import re
import zlib
from collections.abc import Iterator

from serving.core.errors import ErrorKind, ServingError, invalid

# deflate is the zlib format, as the HTTP standard has it, and not the bare stream that some clients once sent.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_NAMES = {"": "identity", "identity": "identity", "gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}

_PIECE = 64 * 1024  # of the compressed body: zlib copies what it leaves over
_CHUNK = 256 * 1024  # of the expanded body: a millisecond
_MAX_MEMBERS = 10_000  # of a gzip file: each takes time, even if there is nothing in it
_LEVEL = 1  # numbers as text: 48 % of the size at 100 MB/s; zlib's own choice makes it 43 % at 13 MB/s
_HEAVY_TO_COMPRESS = 64 * 1024  # bytes: most of a millisecond

_ACCEPTED = re.compile(r"\s*([^\s;,]+)\s*(?:;\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*)?", re.IGNORECASE)


class TooLargeError(ServingError):
    """A body expands to more than it may."""


def decompress(encoding: bytes | None, body: bytes, limit: int) -> bytes:
    """The body as it was before it was compressed. Takes memory for `limit` bytes and an eighth more, at most.

    Args:
        encoding: the value of Content-Encoding; None, if there is no such header.
        limit: bytes of the expanded body.

    Raises:
        ServingError: UNSUPPORTED, for any other encoding; INVALID, if the body is not of that format, ends early, or
            has something behind its end.
        TooLargeError: it expands beyond the limit.
    """
    name = _name(encoding)
    if name == "identity":
        return body
    expanded = io.BytesIO()  # grows without copying, most of the time
    for chunk in _inflated(name, body):
        if expanded.tell() + len(chunk) > limit:
            raise TooLargeError(
                ErrorKind.INVALID,
                f"request JSON size of more than {limit} bytes exceeds the maximum allowed input size of {limit} "
                "bytes. Use --http-max-input-size to increase the limit.",
            )
        expanded.write(chunk)
    return expanded.getvalue()


def is_heavy_to_decompress(encoding: bytes | None, body: bytes) -> bool:
    """Does the body expand to so much that it would keep the event loop for more than about a millisecond?

    The rest of such a body is not inflated for this. False for one that cannot be: `decompress` says why.
    """
    try:
        name = _name(encoding)
        if name == "identity":
            return False
        size = 0
        for chunk in _inflated(name, body):
            size += len(chunk)
            if size >= _CHUNK:
                return True
    except ServingError:
        pass
    return False


def _name(encoding: bytes | None) -> str:
    try:
        return _NAMES[encoding.decode("latin-1").strip().lower() if encoding else ""]
    except KeyError:
        raise ServingError(ErrorKind.UNSUPPORTED, "Unsupported compression type") from None


def _inflated(name: str, body: bytes) -> Iterator[bytes]:
    """The expanded body in chunks of a bounded size. A gzip file may have several members, one behind the other."""
    inflater, members = zlib.decompressobj(_WINDOW_BITS[name]), 1
    try:
        for at in range(0, len(body), _PIECE):
            piece = body[at : at + _PIECE]
            while piece:
                if inflater.eof:
                    if name != "gzip":
                        raise invalid(f"the {name} body has something behind its end")
                    if members == _MAX_MEMBERS:
                        raise invalid(f"the gzip body has more than {_MAX_MEMBERS} members")
                    inflater, members = zlib.decompressobj(_WINDOW_BITS[name]), members + 1
                chunk = inflater.decompress(piece, _CHUNK)
                if chunk:
                    yield chunk
                piece = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    except zlib.error as error:
        raise invalid(f"the body is not valid {name}: {error}") from None
    if not inflater.eof:
        raise invalid(f"the {name} body ends early")


def choose(accept_encoding: bytes | None) -> str | None:
    """The encoding for an answer: of gzip, deflate and identity the first with the highest weight; None is identity.

    Args:
        accept_encoding: the value of Accept-Encoding. What is not understood in it counts as not said.
    """
    best, weight = "identity", 0.0
    for entry in accept_encoding.decode("latin-1").split(",") if accept_encoding else ():
        match = _ACCEPTED.fullmatch(entry)
        name = _NAMES.get(match[1].lower()) if match else None
        if match is None or name is None:
            continue
        q = float(match[2]) if match[2] else 1.0
        if q > weight:
            best, weight = name, q
    return None if best == "identity" else best


def is_heavy_to_compress(size: int) -> bool:
    """Would compressing so many bytes keep the event loop for more than about a millisecond?"""
    return size > _HEAVY_TO_COMPRESS


def compress(encoding: str, *parts: bytes) -> bytes:
    """The parts, one behind the other, as one body of the encoding that was chosen."""
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    pieces = [deflater.compress(part) for part in parts]
    return b"".join((*pieces, deflater.flush()))
