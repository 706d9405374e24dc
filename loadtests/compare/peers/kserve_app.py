# mypy: disable-error-code="import-not-found,import-untyped,misc"
"""KServe's Python model server, one worker, without its log lines per request.

It does not batch: KServe's batcher is another process beside it, a Go program that is no Python package.
"""

import logging

from kserve import InferOutput, InferRequest, InferResponse, ModelServer
from kserve import Model as KServeModel
from kserve.utils.utils import generate_uuid

from loadtests.compare.peers.model import OUTPUT, Model


class OnnxModel(KServeModel):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._model = Model()
        self.ready = True

    async def predict(
        self,
        payload: InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        y = self._model(payload.inputs[0].as_numpy())
        output = InferOutput(OUTPUT, list(y.shape), "FP32")
        output.set_data_from_numpy(y, binary_data=payload.use_binary_outputs)
        answer_id = payload.id or generate_uuid()
        return InferResponse(answer_id, self.name, [output], use_binary_outputs=payload.use_binary_outputs)


if __name__ == "__main__":
    server = ModelServer(enable_latency_logging=False)
    logging.getLogger("uvicorn.access").handlers.clear()  # no access log either
    server.start([OnnxModel("mlp")])
