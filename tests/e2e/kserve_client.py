"""The clients of `kserve`, in a process of their own, as its messages cannot be loaded beside those of `tritonclient`.

    python -m tests.e2e.kserve_client http://HOST:PORT HOST:PORT

asks a server that serves the example models, and prints what came as one JSON object: by form (`json` and `binary` are
REST, `raw` and `contents` gRPC), then by question.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import InferResponse, RequestedOutput

ROWS = np.arange(32, dtype=np.int32).reshape(2, 16)
TEXTS = np.array([["grüße", ""]], dtype=object)
Infer = Callable[[str, InferRequest], Awaitable[InferResponse]]


def _request(model: str, form: str, tensors: dict[str, np.ndarray], outputs: tuple[str, ...], **more: Any) -> Any:
    inputs = []
    for name, array in tensors.items():
        datatype = "BYTES" if array.dtype == object else str(array.dtype).upper().replace("FLOAT", "FP")
        data: Any = array.ravel().tolist()
        if form == "contents" and datatype == "BYTES":
            data = [text.encode() for text in data]
        one = InferInput(name, list(array.shape), datatype, data if form in ("json", "contents") else None)
        if form in ("binary", "raw"):
            one.set_data_from_numpy(array, binary_data=True)
            if form == "raw":
                one.parameters = None
        inputs.append(one)
    wanted = [
        RequestedOutput(name, {"binary_data": form == "binary"} if form in ("json", "binary") else None)
        for name in outputs
    ]
    return InferRequest(model, inputs, request_outputs=wanted, **more)


def _told(answer: InferResponse) -> dict[str, Any]:
    outputs = {}
    for output in answer.outputs:
        values = output.as_numpy()
        texts = [v.decode() if isinstance(v, bytes) else v for v in values.ravel().tolist()]
        outputs[output.name] = {"datatype": output.datatype, "shape": list(values.shape), "values": texts}
    return {"id": answer.id, "model": answer.model_name, "version": answer.model_version, "outputs": outputs}


async def _inferences(form: str, infer: Infer) -> dict[str, Any]:
    answers = {}
    pair = {"INPUT0": ROWS, "INPUT1": np.ones_like(ROWS)}
    request = _request("simple", form, pair, ("OUTPUT0", "OUTPUT1"), request_id="mine", parameters={"own": "text"})
    answers["simple"] = _told(await infer("simple", request))
    request = _request("simple_identity", form, {"INPUT0": TEXTS}, ("OUTPUT0",))
    answers["texts"] = _told(await infer("simple_identity", request))
    request = _request("identity_fp32", form, {"INPUT0": np.array([[0.5, -1.5]], np.float32)}, ())
    answers["all outputs"] = _told(await infer("identity_fp32", request))
    wrong = {
        "unknown model": ("nosuch", pair),
        "missing input": ("simple", {"INPUT0": ROWS}),
        "wrong shape": ("simple", {name: array[:, :3] for name, array in pair.items()}),
        "model fails": ("simple_string", dict.fromkeys(pair, np.array([["no number"] * 16], dtype=object))),
    }
    for name, (model, tensors) in wrong.items():
        try:
            answers[name] = _told(await infer(model, _request(model, form, tensors, ("OUTPUT0",))))
        except httpx.HTTPStatusError as error:
            answers[name] = {"status": error.response.status_code, "text": str(error)}
        except grpc.aio.AioRpcError as error:
            answers[name] = {"status": error.code().name, "text": str(error.details())}
    return answers


async def _over_rest(url: str) -> dict[str, Any]:
    answers = {}
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    health = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "simple": await client.is_model_ready(url, "simple"),
        "nosuch": await client.is_model_ready(url, "nosuch"),
    }
    for form in ("json", "binary"):
        answers[form] = await _inferences(form, lambda model, request: client.infer(url, request, model_name=model))
        answers[form]["health"] = health
    await client.close()
    return answers


async def _over_grpc(address: str) -> dict[str, Any]:
    answers = {}
    async with InferenceGRPCClient(address) as client:
        health = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "simple": await client.is_model_ready("simple"),
            "nosuch": await client.is_model_ready("nosuch"),
        }
        for form in ("raw", "contents"):
            answers[form] = await _inferences(form, lambda model, request: client.infer(request))
            answers[form]["health"] = health
    return answers


async def _main(url: str, address: str) -> None:
    print(json.dumps(await _over_rest(url) | await _over_grpc(address)))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
