"""One keep-alive HTTP/1.1 connection from the client's side, one request at a time. Pure: bytes in, bytes out."""

from collections.abc import Mapping, Sequence

from loadtests.openloop.outcomes import Verdict

# What a server answers when it is too busy: 504 is for a deadline that it could not keep.
BUSY = (b"429", b"503", b"504")


def request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole POST."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Http1:
    """`requests` by kind, whole; `answer_bytes` the lengths of right answers' bodies, None where it is not known.

    `out` is what has to be written to the socket; `closing` says that the connection cannot be used again.
    """

    def __init__(self, requests: Sequence[bytes], answer_bytes: Sequence[int | None]) -> None:
        self._requests = requests
        self._answer_bytes = answer_bytes
        self._kind = 0
        self._read = b""
        self.out = b""
        self.closing = False
        self.failure = ""

    def start(self, kind: int) -> None:
        self._kind = kind
        self._read = b""
        self.out = self._requests[kind]

    def feed(self, data: bytes) -> Verdict:
        """What the server sent. PENDING until the answer is whole."""
        if self._read:
            data = self._read + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._read = data
            return Verdict.PENDING
        head = data[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            return self._failed(f"an answer without a length: {data[:200]!r}", closing=True)
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        body_bytes = len(data) - end - 4
        if body_bytes < length:
            self._read = data
            return Verdict.PENDING
        if body_bytes > length:
            return self._failed("more than was asked for", closing=True)
        if b"\r\nconnection: close" in head:
            self.closing = True
        status = data[9:12]
        if status == b"200":
            if self._answer_bytes[self._kind] not in (None, length):
                return self._failed(f"an answer of {length} bytes, not {self._answer_bytes[self._kind]}")
            return Verdict.ANSWERED
        if status in BUSY:
            return Verdict.REFUSED
        return self._failed(f"status {status.decode(errors='replace')}: {data[end + 4 :][:200]!r}")

    def _failed(self, why: str, closing: bool = False) -> Verdict:
        self.failure = why
        self.closing |= closing
        return Verdict.FAILED
