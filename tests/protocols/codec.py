"""A codec that tells in which process it was at work, in a module that a helper process imports quickly."""

import os
from typing import NamedTuple

import numpy as np

from serving.core.errors import invalid
from serving.core.types import InferRequest, InferResponse


class Reply(NamedTuple):
    outputs: dict[str, list[float]]
    decoded_by: int
    encoded_by: int


def decode(model: str, rows: list[list[float]], request_id: str = "") -> tuple[InferRequest, int]:
    return InferRequest(model, {"x": np.array(rows, np.float32)}, id=request_id), os.getpid()


def refuse() -> tuple[InferRequest, int]:
    raise invalid("not this one")


def die() -> tuple[InferRequest, int]:
    os._exit(1)


def encode(response: InferResponse, decoded_by: int) -> Reply:
    return Reply({name: array.tolist() for name, array in response.outputs.items()}, decoded_by, os.getpid())


def cannot(_response: InferResponse, _decoded_by: int) -> Reply:
    raise invalid("output 'y' cannot be written")
