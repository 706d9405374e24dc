"""KServe's own client, in a process of its own, as its messages cannot be loaded beside those of `tritonclient`.

    python -m tests.deploy.kserve_client http://HOST:PORT HOST:PORT MODEL INPUT WIDTH

asks for one row of ones: over REST with protocols v1 and v2, over gRPC with v2. Prints one JSON object: protocol ->
the numbers that came.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def _ask(url: str, address: str, model: str, name: str, width: int) -> dict[str, Any]:
    row = np.ones((1, width), np.float32)
    answers: dict[str, Any] = {}

    v1 = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    answer = await v1.infer(url, {"instances": row.tolist()}, model_name=model)
    answers["v1"] = np.ravel(answer["predictions"]).tolist()
    await v1.close()

    v2 = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    assert await v2.is_server_live(url) and await v2.is_server_ready(url) and await v2.is_model_ready(url, model)
    one = InferInput(name, [1, width], "FP32", row.ravel().tolist())
    answers["v2"] = (await v2.infer(url, InferRequest(model, [one]), model_name=model)).outputs[0].as_numpy().ravel()
    await v2.close()

    async with InferenceGRPCClient(address) as grpc:
        assert await grpc.is_model_ready(model)
        one = InferInput(name, [1, width], "FP32")
        one.set_data_from_numpy(row, binary_data=True)
        one.parameters = None
        answers["grpc-v2"] = (await grpc.infer(InferRequest(model, [one]))).outputs[0].as_numpy().ravel()
    return {protocol: [float(number) for number in numbers] for protocol, numbers in answers.items()}


if __name__ == "__main__":
    url, address, model, name, width = sys.argv[1:]
    print(json.dumps(asyncio.run(_ask(url, address, model, name, int(width)))))
