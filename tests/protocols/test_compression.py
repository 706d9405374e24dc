"""Compressed bodies: what is read, what is refused, how much memory it takes at most, and which encoding is chosen."""

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.errors import ErrorKind, ServingError
from serving.protocols import compression
from tests.protocols.build import not_for_ever, refused

MB = 1024 * 1024
TEXT = b'{"inputs": [' + b"0.125, " * 1000 + b"1]}"

both = pytest.mark.parametrize("name", ["gzip", "deflate"])


def packed(name: str, data: bytes) -> bytes:
    """By the standard library's own one-call functions."""
    return gzip.compress(data) if name == "gzip" else zlib.compress(data)


def expanded(name: str, data: bytes, limit: int = MB) -> bytes:
    return compression.decompress(name.encode(), data, limit)


def expanded_or_refused(name: str, data: bytes, limit: int) -> bytes | ErrorKind:
    try:
        return expanded(name, data, limit)
    except ServingError as error:
        return error.kind


class TestDecompress:
    @both
    @pytest.mark.parametrize("data", [b"", b"a", TEXT, bytes(700_000), bytes(range(256)) * 3000], ids=len)
    def test_what_was_compressed(self, name: str, data: bytes) -> None:
        assert expanded(name, packed(name, data)) == data

    @both
    def test_of_any_size(self, name: str) -> None:
        for size in (2**k + more for k in (16, 18, 19) for more in range(-300, 300, 23)):
            assert expanded(name, packed(name, b"a" * size)) == b"a" * size

    @pytest.mark.parametrize("encoding", [None, b"", b"identity", b" Identity "])
    def test_no_encoding(self, encoding: bytes | None) -> None:
        assert compression.decompress(encoding, TEXT, 1) is TEXT

    @pytest.mark.parametrize("encoding", [b"GZIP", b" gzip ", b"x-gzip"])
    def test_spellings(self, encoding: bytes) -> None:
        assert compression.decompress(encoding, gzip.compress(TEXT), MB) == TEXT

    @pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, gzip", b"gzip,identity", b"\xff", b"0"])
    def test_no_other_is_offered(self, encoding: bytes) -> None:
        def call() -> bytes:
            return compression.decompress(encoding, TEXT, MB)

        assert refused(call, ErrorKind.UNSUPPORTED) == "Unsupported compression type"

    @pytest.mark.parametrize("pieces", [[TEXT, b"", TEXT], [b""] * 50, [b"a"] * 5000, [bytes(300_000)] * 3])
    def test_gzip_of_several_members(self, pieces: list[bytes]) -> None:
        assert expanded("gzip", b"".join(map(gzip.compress, pieces))) == b"".join(pieces)

    def test_not_of_any_number(self) -> None:
        with not_for_ever():
            assert "members" in refused(lambda: expanded("gzip", gzip.compress(b"") * 200_000))

    @both
    def test_a_body_that_ends_early(self, name: str) -> None:
        data = packed(name, TEXT)
        for size in range(len(data)):
            assert refused(lambda size=size: expanded(name, data[:size])) == f"the {name} body ends early"  # type: ignore[misc]

    @both
    @pytest.mark.parametrize("more", [b"\x00", b"garbage", b"\x1f\x8b", b"\x1f"])
    def test_something_behind_the_end(self, name: str, more: bytes) -> None:
        assert name in refused(lambda: expanded(name, packed(name, TEXT) + more))

    @both
    def test_a_checksum_that_is_wrong(self, name: str) -> None:
        data = bytearray(packed(name, TEXT))
        data[-1 if name == "deflate" else -5] ^= 1
        assert refused(lambda: expanded(name, bytes(data))).startswith(f"the body is not valid {name}: ")

    @pytest.mark.parametrize(("name", "other"), [("gzip", "deflate"), ("deflate", "gzip")])
    def test_the_other_format(self, name: str, other: str) -> None:
        assert refused(lambda: expanded(name, packed(other, TEXT))).startswith(f"the body is not valid {name}: ")

    def test_deflate_without_its_header(self) -> None:
        raw = zlib.compress(TEXT)[2:-4]
        assert refused(lambda: expanded("deflate", raw)).startswith("the body is not valid deflate: ")

    @both
    def test_the_limit_is_that_of_the_expanded_body(self, name: str) -> None:
        data = packed(name, bytes(1000))
        assert expanded(name, data, 1000) == bytes(1000)
        assert refused(lambda: expanded(name, data, 999)) == (
            "request JSON size of more than 999 bytes exceeds the maximum allowed input size of 999 bytes. "
            "Use --http-max-input-size to increase the limit."
        )

    @both
    def test_a_bomb_takes_no_more_memory_than_the_limit(self, name: str) -> None:
        bomb = packed(name, bytes(200 * MB))
        tracemalloc.start()
        try:
            assert "exceeds" in refused(lambda: expanded(name, bomb, 8 * MB))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 10 * MB

    @both
    @given(st.binary(max_size=2000), st.integers(0, 3000))
    def test_within_the_limit_as_zlib_does(self, name: str, data: bytes, limit: int) -> None:
        if len(data) <= limit:
            assert expanded(name, packed(name, data), limit) == data
        else:
            assert "exceeds" in refused(lambda: expanded(name, packed(name, data), limit))

    @both
    @given(st.data())
    def test_damage_is_refused_or_does_no_harm(self, name: str, data: st.DataObject) -> None:
        body = bytearray(packed(name, TEXT))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(body)))
            body[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        # Only the head has bits that mean nothing; what is left is guarded by a checksum.
        assert expanded_or_refused(name, bytes(body), MB) in (TEXT, ErrorKind.INVALID)

    @both
    @given(st.binary(max_size=200))
    def test_anything_at_all(self, name: str, body: bytes) -> None:
        result = expanded_or_refused(name, body, 1000)
        assert isinstance(result, bytes) or result is ErrorKind.INVALID
        assert isinstance(result, ErrorKind) or len(result) <= 1000


class TestWeight:
    @both
    def test_of_a_body(self, name: str) -> None:
        def heavy(data: bytes) -> bool:
            return compression.is_heavy_to_decompress(name.encode(), data)

        assert heavy(packed(name, bytes(10 * MB)))
        assert heavy(packed(name, bytes(10 * MB))[:5000])
        assert not heavy(packed(name, TEXT))
        assert not heavy(b"garbage" * MB)

    @pytest.mark.parametrize("encoding", [None, b"", b"identity", b"br"])
    def test_of_what_is_not_inflated(self, encoding: bytes | None) -> None:
        assert not compression.is_heavy_to_decompress(encoding, bytes(MB))

    def test_of_an_answer(self) -> None:
        assert not compression.is_heavy_to_compress(1000)
        assert compression.is_heavy_to_compress(MB)


class TestChoose:
    @pytest.mark.parametrize(
        ("accepted", "chosen"),
        [
            (None, None),
            (b"", None),
            (b"gzip", "gzip"),
            (b"deflate", "deflate"),
            (b"gzip, deflate", "gzip"),
            (b"deflate, gzip", "deflate"),
            (b"gzip, deflate, br", "gzip"),
            (b"br, *", None),
            (b"*", None),
            (b"GZip", "gzip"),
            (b"x-gzip", "gzip"),
            (b"identity", None),
            (b"identity, gzip", None),
            (b"gzip, identity", "gzip"),
            (b"gzip;q=0", None),
            (b"gzip;q=0.000, deflate;q=0.001", "deflate"),
            (b"gzip;q=0.5, deflate;q=0.8", "deflate"),
            (b"gzip;q=0.5, identity;q=0.8", None),
            (b"identity;q=0.5, gzip;q=1.0", "gzip"),
            (b"gzip ; Q = 0.9 , deflate ;q=0.8", "gzip"),
            (b"gzip;q=2", None),
            (b"gzip;q=-1", None),
            (b"gzip;q=nan", None),
            (b"gzip;q=0.1234, deflate", "deflate"),
            (b"gzip;level=9", None),
            (b",,gzip,,", "gzip"),
            (b"\xff, gzip", "gzip"),
        ],
    )
    def test_the_first_of_the_highest_weight(self, accepted: bytes | None, chosen: str | None) -> None:
        assert compression.choose(accepted) == chosen

    @given(st.text("gzip,deflate;q=0.1* identy", max_size=60))
    def test_anything_at_all(self, accepted: str) -> None:
        assert compression.choose(accepted.encode()) in ("gzip", "deflate", None)


@both
@pytest.mark.parametrize("parts", [[], [b""], [TEXT], [TEXT, b"", bytes(MB)]])
def test_what_is_compressed_comes_back(name: str, parts: list[bytes]) -> None:
    data = compression.compress(name, *parts)
    back = gzip.decompress(data) if name == "gzip" else zlib.decompress(data)
    assert back == b"".join(parts)
