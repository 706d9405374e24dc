"""How the command line words things."""

import sys
from collections.abc import Iterable

from serving.core.types import TensorSpec
from serving.core.validate import Contract


def fail(message: str) -> int:
    """Prints one line for the user and returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return 1


def tensors(specs: Iterable[TensorSpec]) -> str:
    """Such as `x FP32 [-1, 64], mask BOOL [-1]`."""
    return ", ".join(f"{s.name} {s.dtype.name} {shape(s)}" for s in specs)


def shape(spec: TensorSpec) -> str:
    return "[...]" if spec.shape is None else str(list(spec.shape))


def batching(contract: Contract) -> str:
    if contract.max_batch_size:
        return f"batches of up to {contract.max_batch_size} rows"
    return f"one request at a time ({contract.unbatched_because})"
