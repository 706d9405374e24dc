"""BYTES tensors as flat bytes: for each element, in row-major order, a little-endian uint32 length and its bytes."""

from struct import Struct

import numpy as np

_LENGTH = Struct("<I")


def pack(array: np.ndarray) -> bytes:
    """Object array of `bytes` (any shape) -> flat bytes."""
    parts: list[bytes] = []
    for element in array.flat:
        parts.append(_LENGTH.pack(len(element)))
        parts.append(element)
    return b"".join(parts)


def unpack(data: bytes | memoryview) -> np.ndarray:
    """Flat bytes -> object array [n] of `bytes`.

    Raises:
        ValueError: the bytes end inside a length or inside an element.
    """
    elements: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < 4:
            raise ValueError(
                f"incomplete string length indicator, expecting 4 bytes but only {end - at} bytes available"
            )
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        if end - at < length:
            raise ValueError(
                f"incomplete string data, expecting string of length {length} but only {end - at} bytes available"
            )
        elements.append(bytes(data[at : at + length]))
        at += length
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array
