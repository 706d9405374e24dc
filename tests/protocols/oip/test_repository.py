"""Loading with parameters: other settings, other files, and what is told when they cannot be had."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.protocols.messages import oip as m
from serving.protocols.offload import Offload
from serving.protocols.oip.rest import OipRest
from tests import models
from tests.batching.control import on_loop
from tests.protocols.oip.management import Served, serving, value


def body(**parameters: object) -> bytes:
    return json.dumps({"parameters": parameters}).encode()


def graph(dtype: str = "INT32") -> bytes:
    return bytes(models.add_sub(dtype).SerializeToString())


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def load(served: Served, over: str, parameters: dict[str, Any] | None = None, model: str = "simple") -> None:
    """Over REST or gRPC."""
    parameters = parameters or {}
    if over == "REST":
        reply = await served.rest.load(
            model, body(**{n: base64_of(v) if isinstance(v, bytes) else v for n, v in parameters.items()})
        )
        assert (reply.status, reply.body) == (200, b"")
        return
    request = m.RepositoryModelLoadRequest(model_name=model)
    for name, data in parameters.items():
        field = {str: "string_param", bytes: "bytes_param", bool: "bool_param", int: "int64_param"}[type(data)]
        setattr(request.parameters[name], field, data)
    await served.call("RepositoryModelLoad", request)


BOTH = pytest.mark.parametrize("over", ["REST", "gRPC"])


@BOTH
@on_loop
async def test_a_config_counts_until_the_next_load(tmp_path: Path, over: str) -> None:
    async with serving(tmp_path) as served:
        await load(served, over, {"config": '{"max_batch_size":"16"}'})
        assert value(await served.rest.model_config("simple", None))["max_batch_size"] == 16
        with pytest.raises(ServingError, match="batch-size must be <= 16"):
            await served.infer(17)
        await load(served, over)
        assert value(await served.rest.model_config("simple", None))["max_batch_size"] == 64


@BOTH
@on_loop
async def test_files_are_the_model_until_the_next_load(tmp_path: Path, over: str) -> None:
    async with serving(tmp_path, allow_upload=True) as served:
        await load(served, over, {"config": "{}", "file:9/model.onnx": graph("INT64")})
        config = value(await served.rest.model_config("simple", "9"))
        assert config["input"][0]["data_type"] == "TYPE_INT64"
        await load(served, over)
        assert value(await served.rest.model_config("simple", None))["input"][0]["data_type"] == "TYPE_INT32"


@BOTH
@on_loop
async def test_a_model_may_be_made_of_files(tmp_path: Path, over: str) -> None:
    async with serving(tmp_path, allow_upload=True) as served:
        await load(served, over, {"config": "{}", "file:1/model.onnx": graph()}, "new")
        assert value(await served.rest.model_metadata("new", None))["versions"] == ["1"]


@BOTH
@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"foo": "x"}, "unrecognized load parameter 'foo'."),
        ({"config": True}, "invalid value type for load parameter 'config', expected string_param, got a boolean"),
        (
            {"config": "{}", "file:1/model.onnx": 5},
            "invalid value type for load parameter 'file:1/model.onnx', expected bytes_param, got the integer 5.",
        ),
        ({"config": "{"}, "failed to load 'simple', failed to poll from model repository: config: failed to parse"),
        ({"config": ""}, "failed to load 'simple', failed to poll from model repository: config: failed to parse"),
        ({"config": "[]"}, "failed to poll from model repository: config: expected an object, got an array"),
        ({"config": '{"nosuch":1}'}, 'config: not a ModelConfig: Message type "inference.ModelConfig" has no field'),
        ({"file:1/model.onnx": b""}, "failed to poll from model repository: files come with the parameter 'config'"),
        ({"config": "{}", "file:../model.onnx": b""}, "'.' and '..' are not taken"),
        ({"config": "{}", "file:1/model.onnx": b"no graph"}, "version 1 is at UNAVAILABLE state: ONNX Runtime cannot"),
        (
            {"config": '{"input":[{"name":"INPUT0","data_type":"TYPE_FP32","dims":[16]}]}'},
            "version 1 is at UNAVAILABLE state: inputs: 'INPUT0' is declared as FP32, but the model has it as INT32;",
        ),
        (
            {"config": '{"version_policy":{"specific":{"versions":[5]}}}'},
            "failed to load 'simple': none of the wanted versions [5] is in",
        ),
    ],
    ids=str,
)
@on_loop
async def test_what_cannot_be_had_changes_nothing(
    tmp_path: Path, over: str, parameters: dict[str, Any], told: str
) -> None:
    async with serving(tmp_path, allow_upload=True) as served:
        before = served.engine.catalog.resolve("simple")
        with pytest.raises(ServingError) as error:
            await load(served, over, parameters)
        assert error.value.kind is ErrorKind.INVALID and told in error.value.message
        assert served.engine.catalog.resolve("simple") is before


@BOTH
@on_loop
async def test_files_only_where_they_are_allowed(tmp_path: Path, over: str) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(ServingError, match="--allow-model-upload") as error:
            await load(served, over, {"config": "{}", "file:1/model.onnx": graph()})
        assert error.value.kind is ErrorKind.FORBIDDEN


@pytest.mark.parametrize("text", ["*", "AAA", "AA==AA==", "ü", "AA\nAA", " AAAA"])
@on_loop
async def test_base64_is_read_strictly(tmp_path: Path, text: str) -> None:
    async with serving(tmp_path, allow_upload=True) as served:
        with pytest.raises(ServingError, match=r"'file:1/model\.onnx' is not base64"):
            await served.rest.load("simple", body(config="{}", **{"file:1/model.onnx": text}))


@on_loop
async def test_large_bodies_are_read_elsewhere(tmp_path: Path) -> None:
    offload = Offload(processes=1)
    try:
        async with serving(tmp_path, allow_upload=True) as served:
            rest = OipRest(served.engine, served.manager, served.rest._identity, offload=offload)
            files = {"file:1/model.onnx": base64_of(graph("INT64")), "file:1/more": base64_of(bytes(1_000_000))}
            await rest.load("simple", body(config="{}", **files))
            assert value(await rest.model_config("simple", None))["input"][0]["data_type"] == "TYPE_INT64"
            with pytest.raises(ServingError, match=r"'file:x' is not base64"):
                await rest.load("simple", body(config="{}", **{"file:x": "*" * 1_000_000}))
    finally:
        await asyncio.to_thread(offload.close)


@on_loop
async def test_what_a_config_asks_for_in_vain_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as served:
        config = '{"response_cache":{"enable":true},"parameters":{"x":{"string_value":"1"}}}'
        await load(served, "REST", {"config": config})
        (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert told.startswith("load of 'simple': its config asks for what is not done here: ")
        assert told.endswith("response_cache.enable, parameters.x")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"parameters":{"unload_dependents":true}}', b'{"parameters":{"unload_dependents":false}}']
)
@on_loop
async def test_unload(tmp_path: Path, data: bytes) -> None:
    async with serving(tmp_path) as served:
        assert (await served.rest.unload("simple", data)).status == 200
        with pytest.raises(ServingError, match="has no available versions"):
            served.engine.catalog.resolve("simple")


@on_loop
async def test_unload_over_grpc(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        request = m.RepositoryModelUnloadRequest(model_name="simple")
        request.parameters["unload_dependents"].bool_param = True
        await served.call("RepositoryModelUnload", request)
        with pytest.raises(ServingError, match="has no available versions"):
            served.engine.catalog.resolve("simple")
        request.parameters["unload_dependents"].string_param = "true"
        with pytest.raises(ServingError, match="unload parameter 'unload_dependents', expected bool_param"):
            await served.call("RepositoryModelUnload", request)


@on_loop
async def test_unload_with_something_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(ServingError, match="unrecognized unload parameter 'foo'"):
            await served.rest.unload("simple", b'{"parameters":{"foo":true}}')
        assert served.engine.catalog.resolve("simple")


@on_loop
async def test_a_repository_has_no_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for call in (
            served.rest.load("simple", b"", "name"),
            served.rest.unload("simple", b"", "name"),
            served.call("RepositoryModelLoad", repository_name="name", model_name="simple"),
            served.call("RepositoryModelUnload", repository_name="name", model_name="simple"),
            served.call("RepositoryIndex", repository_name="name"),
        ):
            with pytest.raises(ServingError, match="'repository_name' specification is not supported") as error:
                await call
            assert error.value.kind is ErrorKind.UNSUPPORTED
