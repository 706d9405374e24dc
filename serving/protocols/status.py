"""The one table that says what an error is called on the wire, keyed by its kind and the protocol family."""

from enum import Enum

from grpc import StatusCode

from serving.core.errors import ErrorKind


class Family(Enum):
    OIP = "oip"  # Open Inference Protocol (KServe v2) with Triton's extensions
    TFS = "tfs"  # TensorFlow Serving
    OWN = "own"  # ours, below /serving


_STATUS: dict[tuple[ErrorKind, Family], tuple[int, StatusCode]] = {
    (ErrorKind.INVALID, Family.OIP): (400, StatusCode.INVALID_ARGUMENT),
    (ErrorKind.INVALID, Family.TFS): (400, StatusCode.INVALID_ARGUMENT),
    (ErrorKind.NOT_FOUND, Family.OIP): (404, StatusCode.NOT_FOUND),
    (ErrorKind.NOT_FOUND, Family.TFS): (404, StatusCode.NOT_FOUND),
    (ErrorKind.NOT_READY, Family.OIP): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.NOT_READY, Family.TFS): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.PRECONDITION, Family.OIP): (400, StatusCode.FAILED_PRECONDITION),
    (ErrorKind.PRECONDITION, Family.TFS): (400, StatusCode.FAILED_PRECONDITION),
    (ErrorKind.EXISTS, Family.OIP): (400, StatusCode.ALREADY_EXISTS),
    (ErrorKind.EXISTS, Family.TFS): (409, StatusCode.ALREADY_EXISTS),
    (ErrorKind.QUEUE_FULL, Family.OIP): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.QUEUE_FULL, Family.TFS): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.EXPIRED, Family.OIP): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.EXPIRED, Family.TFS): (504, StatusCode.DEADLINE_EXCEEDED),
    (ErrorKind.CANCELLED, Family.OIP): (400, StatusCode.CANCELLED),
    (ErrorKind.CANCELLED, Family.TFS): (499, StatusCode.CANCELLED),
    (ErrorKind.UNSUPPORTED, Family.OIP): (501, StatusCode.UNIMPLEMENTED),
    (ErrorKind.UNSUPPORTED, Family.TFS): (501, StatusCode.UNIMPLEMENTED),
    (ErrorKind.UNAUTHENTICATED, Family.OIP): (401, StatusCode.UNAUTHENTICATED),
    (ErrorKind.UNAUTHENTICATED, Family.TFS): (401, StatusCode.UNAUTHENTICATED),
    (ErrorKind.FORBIDDEN, Family.OIP): (403, StatusCode.PERMISSION_DENIED),
    (ErrorKind.FORBIDDEN, Family.TFS): (403, StatusCode.PERMISSION_DENIED),
    (ErrorKind.TOO_MANY, Family.OIP): (429, StatusCode.RESOURCE_EXHAUSTED),
    (ErrorKind.TOO_MANY, Family.TFS): (429, StatusCode.RESOURCE_EXHAUSTED),
    (ErrorKind.UNAVAILABLE, Family.OIP): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.UNAVAILABLE, Family.TFS): (503, StatusCode.UNAVAILABLE),
    (ErrorKind.MODEL, Family.OIP): (500, StatusCode.INTERNAL),
    (ErrorKind.MODEL, Family.TFS): (500, StatusCode.INTERNAL),
    (ErrorKind.INTERNAL, Family.OIP): (500, StatusCode.INTERNAL),
    (ErrorKind.INTERNAL, Family.TFS): (500, StatusCode.INTERNAL),
}
_STATUS |= {(kind, Family.OWN): _STATUS[kind, Family.OIP] for kind in ErrorKind}
_STATUS[ErrorKind.PRECONDITION, Family.OWN] = (409, StatusCode.FAILED_PRECONDITION)


def http_status(kind: ErrorKind, family: Family) -> int:
    return _STATUS[kind, family][0]


def grpc_status(kind: ErrorKind, family: Family) -> StatusCode:
    return _STATUS[kind, family][1]
