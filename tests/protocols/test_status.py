"""The table of statuses has a line for everything that can be asked of it."""

import grpc
import pytest

from serving.core.errors import ErrorKind
from serving.protocols.status import Family, grpc_status, http_status


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_has_a_status_in_every_family(kind: ErrorKind, family: Family) -> None:
    assert 400 <= http_status(kind, family) < 600
    assert grpc_status(kind, family) is not grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("kind", "http", "code"),
    [
        (ErrorKind.INVALID, 400, grpc.StatusCode.INVALID_ARGUMENT),
        (ErrorKind.NOT_FOUND, 404, grpc.StatusCode.NOT_FOUND),
        (ErrorKind.NOT_READY, 503, grpc.StatusCode.UNAVAILABLE),
        (ErrorKind.QUEUE_FULL, 503, grpc.StatusCode.UNAVAILABLE),
        (ErrorKind.EXPIRED, 503, grpc.StatusCode.UNAVAILABLE),
        (ErrorKind.UNSUPPORTED, 501, grpc.StatusCode.UNIMPLEMENTED),
        (ErrorKind.MODEL, 500, grpc.StatusCode.INTERNAL),
        (ErrorKind.INTERNAL, 500, grpc.StatusCode.INTERNAL),
    ],
)
def test_the_statuses_that_clients_of_the_open_inference_protocol_know(
    kind: ErrorKind, http: int, code: grpc.StatusCode
) -> None:
    assert http_status(kind, Family.OIP) == http
    assert grpc_status(kind, Family.OIP) is code
