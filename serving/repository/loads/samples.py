"""Makes the inputs that a model's owner wants to be run before the first request. Blocking; in a loading thread."""

from pathlib import Path

import numpy as np

from serving.core import dtypes, strings
from serving.core.declared import Sample, SampleInput
from serving.core.errors import LoadError, ServingError
from serving.core.generate import random_array
from serving.core.types import InferRequest, Tensors
from serving.core.validate import Contract


def inputs_of(sample: Sample, directory: Path, contract: Contract) -> Tensors:
    """
    Args:
        directory: the model's, where files are.
        contract: the inputs have to be such as clients may send.

    Raises:
        LoadError: they are not, or a file cannot be read or has too little in it.
    """
    rng = np.random.default_rng(0)
    try:
        inputs = {name: _array(each, directory, rng) for name, each in sample.inputs.items()}
        contract.check(InferRequest(contract.model, inputs))
    except OSError as error:
        raise LoadError(f"sample '{sample.name}': cannot read '{error.filename}': {error.strerror}") from None
    except (ServingError, ValueError, MemoryError) as error:
        raise LoadError(f"sample '{sample.name}': {error}") from None
    return inputs


def _array(wanted: SampleInput, directory: Path, rng: np.random.Generator) -> np.ndarray:
    dtype = dtypes.BY_NAME[wanted.datatype]
    if wanted.file is None:
        if wanted.values == "random":
            return random_array(dtype, wanted.shape, rng)
        zero = np.zeros((), dtype.numpy) if dtype is not dtypes.BYTES else np.array(b"", object)
        return np.full(wanted.shape, zero, dtype.numpy)
    path = directory / wanted.file
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ValueError(f"'{wanted.file}' is outside the model's directory")
    data = path.read_bytes()
    if dtype is dtypes.BYTES:
        elements = strings.unpack(data)
    else:
        elements = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype.numpy)
    count = int(np.prod(wanted.shape, dtype=np.int64))
    if count and not elements.size:
        raise ValueError(f"'{wanted.file}' holds no elements")
    return np.resize(elements, count).reshape(wanted.shape)
