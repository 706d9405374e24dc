"""The model as each peer runs it: one ONNX Runtime session with one thread, on arrays of rows.

Runs in the peer's process. Environment variables: MODEL is the ONNX file, MAX_BATCH_SIZE the most rows of one run,
MAX_WAIT_MS how long a batch that is not full may wait for more.
"""

import os

import numpy as np
import numpy.typing as npt
import onnxruntime

Rows = npt.NDArray[np.float32]

# The benchmark's model: FP32 [n,784] to FP32 [n,10].
INPUT, OUTPUT = "x", "y"


def max_batch_size() -> int:
    return int(os.environ["MAX_BATCH_SIZE"])


def max_wait_ms() -> int:
    return int(os.environ["MAX_WAIT_MS"])


def session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Model:
    """Has the session of the file that MODEL names."""

    def __init__(self) -> None:
        self._session = session(os.environ["MODEL"])

    def __call__(self, rows: Rows) -> Rows:
        (result,) = self._session.run([OUTPUT], {INPUT: rows})
        return result  # type: ignore[no-any-return]
