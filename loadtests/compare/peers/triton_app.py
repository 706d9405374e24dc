# mypy: disable-error-code="import-not-found"
"""Triton's python backend: `model.py` of a model, whatever its inputs and outputs are called.

The backend gives as many requests as its dynamic batcher took together; they are run as one batch. Parameter `model`
of the configuration is the ONNX file, `threads` the session's threads.
"""

import json
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"]["string_value"])
        path = parameters["model"]["string_value"]
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._outputs = [one.name for one in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        given = [
            [triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs] for request in requests
        ]
        batch = given[0] if len(given) == 1 else [np.concatenate(arrays) for arrays in zip(*given, strict=True)]
        results = self._session.run(self._outputs, dict(zip(self._inputs, batch, strict=True)))
        responses, start = [], 0
        for arrays in given:
            stop = start + len(arrays[0])
            tensors = [
                triton.Tensor(name, result[start:stop]) for name, result in zip(self._outputs, results, strict=True)
            ]
            responses.append(triton.InferenceResponse(tensors))
            start = stop
        return responses
