"""Signatures and versions for tests of the command line."""

from pathlib import Path

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.spec import ModelSpec
from serving.core.types import Signature, TensorSpec
from serving.core.validate import Contract
from serving.repository.disk.layout import FoundVersion
from serving.repository.version import Version

Input = tuple[str, DType, tuple[int, ...]]

ROWS: Input = ("x", dtypes.FP32, (-1, 2))


def signature_of(*inputs: Input) -> Signature:
    specs = {name: TensorSpec(name, dtype, shape) for name, dtype, shape in inputs}
    return Signature(specs, {"y": TensorSpec("y", dtypes.FP32, (-1, 1))})


def version_of(model: str, *inputs: Input, max_batch_size: int = 64, because: str = "") -> Version:
    """A version as it is after loading, without its runtime."""
    version = Version(model, FoundVersion(3, Path("nowhere"), (), 0.0, False), ModelSpec())
    version.contract = Contract(model, signature_of(*inputs), max_batch_size, unbatched_because=because)
    return version
