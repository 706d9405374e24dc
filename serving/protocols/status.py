"""The one table that says what an error is called on the wire, keyed by its kind and the protocol family."""

from enum import Enum

from grpc import StatusCode

from serving.core.errors import ErrorKind


class Family(Enum):
    OIP = "oip"  # Open Inference Protocol (KServe v2) with Triton's extensions


_STATUS: dict[tuple[ErrorKind, Family], tuple[int, StatusCode]] = {
    (ErrorKind.INVALID, Family.OIP): (400, StatusCode.INVALID_ARGUMENT),
    (ErrorKind.NOT_FOUND, Family.OIP): (404, StatusCode.NOT_FOUND),
    (ErrorKind.NOT_READY, Family.OIP): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.QUEUE_FULL, Family.OIP): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.EXPIRED, Family.OIP): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.CANCELLED, Family.OIP): (400, StatusCode.CANCELLED),
    (ErrorKind.UNSUPPORTED, Family.OIP): (501, StatusCode.UNIMPLEMENTED),
    (ErrorKind.FORBIDDEN, Family.OIP): (403, StatusCode.PERMISSION_DENIED),
    (ErrorKind.UNAVAILABLE, Family.OIP): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.MODEL, Family.OIP): (500, StatusCode.INTERNAL),
    (ErrorKind.INTERNAL, Family.OIP): (500, StatusCode.INTERNAL),
}


def http_status(kind: ErrorKind, family: Family) -> int:
    return _STATUS[kind, family][0]


def grpc_status(kind: ErrorKind, family: Family) -> StatusCode:
    return _STATUS[kind, family][1]
