"""The one table of data types: Open Inference Protocol name, numpy, ONNX Runtime, TensorFlow.

In memory BYTES is an object array of `bytes`, BF16 is `ml_dtypes.bfloat16`; everything else is plain numpy.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class DType:
    """One data type; there is exactly one object per type, so `is` compares them.

    `itemsize` is the bytes per element on the wire; 0 for BYTES, whose elements have no fixed size.
    """

    name: str
    numpy: np.dtype
    onnx: str
    tensorflow: str
    itemsize: int

    @property
    def is_float(self) -> bool:
        return self.name in ("FP16", "BF16", "FP32", "FP64")

    @property
    def is_integer(self) -> bool:
        return "INT" in self.name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name  # pickle: the global of that name in this module


def _dtype(name: str, numpy: object, onnx: str, tensorflow: str) -> DType:
    dtype = np.dtype(numpy)  # type: ignore[call-overload]
    return DType(name, dtype, f"tensor({onnx})", f"DT_{tensorflow}", 0 if name == "BYTES" else dtype.itemsize)


BOOL = _dtype("BOOL", np.bool_, "bool", "BOOL")
UINT8 = _dtype("UINT8", np.uint8, "uint8", "UINT8")
UINT16 = _dtype("UINT16", np.uint16, "uint16", "UINT16")
UINT32 = _dtype("UINT32", np.uint32, "uint32", "UINT32")
UINT64 = _dtype("UINT64", np.uint64, "uint64", "UINT64")
INT8 = _dtype("INT8", np.int8, "int8", "INT8")
INT16 = _dtype("INT16", np.int16, "int16", "INT16")
INT32 = _dtype("INT32", np.int32, "int32", "INT32")
INT64 = _dtype("INT64", np.int64, "int64", "INT64")
FP16 = _dtype("FP16", np.float16, "float16", "HALF")
BF16 = _dtype("BF16", ml_dtypes.bfloat16, "bfloat16", "BFLOAT16")
FP32 = _dtype("FP32", np.float32, "float", "FLOAT")
FP64 = _dtype("FP64", np.float64, "double", "DOUBLE")
BYTES = _dtype("BYTES", object, "string", "STRING")

ALL = (BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES)
BY_NAME = {d.name: d for d in ALL}
BY_ONNX = {d.onnx: d for d in ALL}
BY_NUMPY = {d.numpy: d for d in ALL}
