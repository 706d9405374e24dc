# mypy: disable-error-code="import-not-found,misc"
"""MLServer: a runtime of one's own behind its adaptive batcher, in the server's process (no parallel workers)."""

import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from loadtests.compare.peers.model import INPUT, OUTPUT, Model


class OnnxModel(MLModel):
    async def load(self) -> bool:
        self._model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (tensor,) = (one for one in payload.inputs if one.name == INPUT)
        data = tensor.data.root
        # Raw contents of gRPC requests come as bytes or as lists of numbers.
        flat = np.frombuffer(data, np.float32) if isinstance(data, bytes) else np.array(data, np.float32)
        y = self._model(flat.reshape(tensor.shape))
        output = ResponseOutput(name=OUTPUT, shape=list(y.shape), datatype="FP32", data=y.reshape(-1).tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
