"""How the command line words things."""

import sys
from collections.abc import Iterable

from serving.core.types import TensorSpec
from serving.core.validate import Contract
from serving.repository.version import Version


def fail(message: str) -> int:
    """Prints one line for the user and returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return 1


def tensors(specs: Iterable[TensorSpec]) -> str:
    """Such as `x FP32 [-1, 64], mask BOOL [-1]`."""
    return ", ".join(f"{s.name} {s.dtype.name} {list(s.shape)}" for s in specs)


def batching(contract: Contract, version: Version) -> str:
    return how_batched(contract, version.unbatched_because)


def how_batched(contract: Contract, because: str) -> str:
    if contract.max_batch_size:
        return f"batches of up to {contract.max_batch_size} rows"
    return f"one request at a time ({because})"
