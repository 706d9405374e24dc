"""What the published example clients of Triton do with the models that they expect: health, metadata, inference.

Their control of models and settings, shared memory and streams are in the files beside this one.
"""

import asyncio
import queue
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.grpc import service_pb2

from tests import triton_models
from tests.e2e.clients import FORMS, Asker, RefusedError, plain, refusal
from tests.e2e.server import LIMIT_S, Server

FIRST = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES = np.ones((1, 16), np.int32)
PAIR = {"INPUT0": FIRST, "INPUT1": ONES}
COMPRESSIONS = (None, "gzip", "deflate")
NOT_TEXT = b"\x00\xff\xfe nul \x00 and \x80 \xc3("


@pytest.fixture(params=FORMS)
def asker(request: pytest.FixtureRequest, examples: Server) -> Iterator[Asker]:
    made = Asker(examples, request.param)
    yield made
    made.close()


@pytest.fixture(params=("binary", "grpc"))
def raw_asker(request: pytest.FixtureRequest, examples: Server) -> Iterator[Asker]:
    made = Asker(examples, request.param)
    yield made
    made.close()


@pytest.fixture
def http(examples: Server) -> Iterator[Any]:
    client = tritonclient.http.InferenceServerClient(
        examples.http, concurrency=4, connection_timeout=LIMIT_S, network_timeout=LIMIT_S
    )
    yield client
    client.close()


@pytest.fixture
def grpc_client(examples: Server) -> Iterator[Any]:
    client = tritonclient.grpc.InferenceServerClient(examples.grpc)
    yield client
    client.close()


def assert_added(answer: Any, first: np.ndarray = FIRST, second: np.ndarray = ONES) -> None:
    """The answer of `simple` and its kin, of either client."""
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), first + second)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), first - second)


def texts(array: np.ndarray) -> np.ndarray:
    """Numbers as the decimal text that the string models take."""
    return np.array([str(n).encode() for n in array.flat], dtype=object).reshape(array.shape)


def numbers(array: np.ndarray) -> np.ndarray:
    """The reverse; what came in JSON the client leaves as text."""
    return np.array([int(t) for t in array.flat], np.int32).reshape(array.shape)


# Health and metadata


def test_health_and_metadata(asker: Asker) -> None:
    more = {} if asker.form == "grpc" else {"query_params": {"test_1": 1, "test_2": [2, "three"]}}
    assert asker.client.is_server_live(headers={"test": "1"}, **more)
    assert asker.client.is_server_ready(headers={"test": "1"}, **more)
    assert asker.client.is_model_ready("simple", **more)
    about = asker.ask("get_server_metadata", **more)
    assert about["name"] == "triton"
    assert set(about["extensions"]) == {
        "binary_tensor_data", "classification", "logging", "model_configuration", "model_repository",
        "model_repository(unload_dependents)", "parameters", "schedule_policy", "statistics", "system_shared_memory",
        "trace",
    }  # fmt: skip
    assert asker.ask("get_model_metadata", "simple", **more)["name"] == "simple"
    with pytest.raises(RefusedError, match="Request for unknown model: 'wrong_model_name' is not found"):
        asker.ask("get_model_metadata", "wrong_model_name", **more)


@pytest.mark.parametrize("name", triton_models.EXAMPLES)
def test_every_model_is_served_with_its_configuration(examples: Server, name: str) -> None:
    """Both forms say the same, and as many versions and rows as the model's directory asks for."""
    rest, grpc = Asker(examples, "json"), Asker(examples, "grpc")
    assert rest.client.is_model_ready(name) and grpc.client.is_model_ready(name)
    example = triton_models.EXAMPLES[name]
    metadata = rest.ask("get_model_metadata", name)
    assert metadata["versions"] == [str(number) for number in example.versions]
    config = rest.ask("get_model_config", name)
    assert config == grpc.ask("get_model_config", name)["config"]
    assert config["name"] == name
    assert config["max_batch_size"] == example.spec["max_batch_size"]
    for kind in ("input", "output"):
        shapes = {t["name"]: t["shape"] for t in metadata[f"{kind}s"]}
        batch = [-1] if config["max_batch_size"] else []
        assert {t["name"]: batch + t["dims"] for t in config[kind]} == shapes
    rest.close()
    grpc.close()


def test_configuration(asker: Asker) -> None:
    config = asker.ask("get_model_config", "simple")
    config = config["config"] if asker.form == "grpc" else config
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"]] == [
        ("INPUT0", "TYPE_INT32", [16]),
        ("INPUT1", "TYPE_INT32", [16]),
    ]
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["output"]] == [
        ("OUTPUT0", "TYPE_INT32", [16]),
        ("OUTPUT1", "TYPE_INT32", [16]),
    ]
    assert (config["platform"], config["backend"]) == ("onnxruntime_onnx", "onnxruntime")
    assert config["default_model_filename"] == "model.onnx"
    assert "dynamic_batching" in config
    with pytest.raises(RefusedError, match="Request for unknown model: 'nosuch' is not found"):
        asker.ask("get_model_config", "nosuch")


def test_label_file_is_in_the_configuration(asker: Asker) -> None:
    config = asker.ask("get_model_config", "densenet_onnx")
    (output,) = (config["config"] if asker.form == "grpc" else config)["output"]
    assert output["label_filename"] == "labels0.txt"


# Inference


@pytest.mark.parametrize("request_compression", COMPRESSIONS)
@pytest.mark.parametrize("response_compression", COMPRESSIONS)
def test_infer_over_rest(http: Any, request_compression: str | None, response_compression: str | None) -> None:
    inputs = [tritonclient.http.InferInput(name, [1, 16], "INT32") for name in PAIR]
    inputs[0].set_data_from_numpy(FIRST, binary_data=False)
    inputs[1].set_data_from_numpy(ONES, binary_data=True)
    wanted = [
        tritonclient.http.InferRequestedOutput("OUTPUT0", binary_data=True),
        tritonclient.http.InferRequestedOutput("OUTPUT1", binary_data=False),
    ]
    for outputs in (wanted, None):
        answer = http.infer(
            "simple",
            inputs,
            outputs=outputs,
            query_params={"test_1": 1, "test_2": 2},
            headers={"test": "1"},
            request_compression_algorithm=request_compression,
            response_compression_algorithm=response_compression,
        )
        assert_added(answer)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_infer_over_grpc(grpc_client: Any, compression: str | None) -> None:
    inputs = [tritonclient.grpc.InferInput(name, [1, 16], "INT32") for name in PAIR]
    for one in inputs:
        one.set_data_from_numpy(PAIR[one.name()])
    for outputs in ([tritonclient.grpc.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")], None):
        answer = grpc_client.infer(
            "simple",
            inputs,
            outputs=outputs,
            headers={"test": "1"},
            compression_algorithm=compression,
            client_timeout=LIMIT_S,
        )
        assert_added(answer)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_large_tensors_compressed_both_ways(http: Any, algorithm: str, binary: bool) -> None:
    """The client inflates the answer, and finds its tensors where the header says before compression."""
    x = np.arange(10_000, dtype=np.float32).reshape(10, 1000) / 8
    one = tritonclient.http.InferInput("INPUT0", [10, 1000], "FP32")
    one.set_data_from_numpy(x, binary_data=binary)
    wanted = [tritonclient.http.InferRequestedOutput("OUTPUT0", binary_data=binary)]
    answer = http.infer(
        "identity_fp32",
        [one],
        outputs=wanted,
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), x)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_answers_are_compressed_only_if_that_is_asked_for(examples: Server, algorithm: str) -> None:
    body = {"inputs": [{"name": n, "datatype": "INT32", "shape": [8, 16], "data": [7] * 128} for n in PAIR]}
    plain_answer = examples.post("/v2/models/simple/infer", json=body, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain_answer.headers
    answer = examples.post("/v2/models/simple/infer", json=body, headers={"Accept-Encoding": f"br, {algorithm};q=0.5"})
    assert answer.headers["content-encoding"] == algorithm
    assert int(answer.headers["content-length"]) < len(plain_answer.content)
    assert answer.json() == plain_answer.json()
    refused = examples.post("/v2/models/simple/infer", content=b"{}", headers={"Accept-Encoding": algorithm})
    assert refused.status_code == 400 and "content-encoding" not in refused.headers


def test_compression_that_is_not_offered(examples: Server) -> None:
    answer = examples.post("/v2/models/simple/infer", content=b"{}", headers={"Content-Encoding": "br"})
    assert (answer.status_code, answer.json()) == (501, {"error": "Unsupported compression type"})
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_body_that_is_not_what_its_header_says(examples: Server) -> None:
    answer = examples.post("/v2/models/simple/infer", content=b"{}", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400 and "gzip" in answer.json()["error"]


def test_asynchronous_requests_over_rest(http: Any) -> None:
    inputs = [tritonclient.http.InferInput(name, [1, 16], "INT32") for name in PAIR]
    for one in inputs:
        one.set_data_from_numpy(PAIR[one.name()])
    under_way = [http.async_infer("simple", inputs, request_id=str(i)) for i in range(20)]
    for i, one in enumerate(under_way):
        answer = one.get_result(timeout=LIMIT_S)
        assert answer.get_response()["id"] == str(i)
        assert_added(answer)
    refused = http.async_infer("nosuch", inputs)
    with pytest.raises(tritonclient.utils.InferenceServerException) as caught:
        refused.get_result(timeout=LIMIT_S)
    assert caught.value.message().startswith("Request for unknown model")


def test_asynchronous_requests_over_grpc(grpc_client: Any) -> None:
    inputs = [tritonclient.grpc.InferInput(name, [1, 16], "INT32") for name in PAIR]
    for one in inputs:
        one.set_data_from_numpy(PAIR[one.name()])
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def callback(result: Any, error: Any) -> None:
        done.put((result, error))

    for i in range(20):
        grpc_client.async_infer("simple", inputs, callback, request_id=str(i))
    ids = set()
    for _ in range(20):
        result, error = done.get(timeout=LIMIT_S)
        assert error is None
        ids.add(result.get_response().id)
        assert_added(result)
    assert ids == {str(i) for i in range(20)}
    grpc_client.async_infer("nosuch", inputs, callback)
    _, error = done.get(timeout=LIMIT_S)
    assert error.message().startswith("Request for unknown model")


def test_asynchronous_clients(examples: Server) -> None:
    async def ask(library: Any, address: str, told: dict[str, Any]) -> None:
        async with library.InferenceServerClient(address) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready("simple")
            assert (await client.get_model_metadata("simple", **told))["name"] == "simple"
            assert len((await client.get_inference_statistics("simple", **told))["model_stats"]) == 1
            inputs = [library.InferInput(name, [1, 16], "INT32") for name in PAIR]
            for one in inputs:
                one.set_data_from_numpy(PAIR[one.name()])
            answers = await asyncio.gather(*(client.infer("simple", inputs) for _ in range(10)))
            for answer in answers:
                assert_added(answer)
            with pytest.raises(tritonclient.utils.InferenceServerException) as caught:
                await client.infer("nosuch", inputs)
            assert caught.value.message().startswith("Request for unknown model")

    asyncio.run(ask(tritonclient.http.aio, examples.http, {}))
    asyncio.run(ask(tritonclient.grpc.aio, examples.grpc, {"as_json": True}))


def test_parameters_and_schedule_of_a_request(asker: Asker) -> None:
    answer = asker.infer(
        "simple", PAIR, parameters={"mine": 1, "text": "x", "yes": True, "half": 0.5}, priority=2, timeout=60_000_000
    )
    np.testing.assert_array_equal(answer.outputs["OUTPUT0"], FIRST + ONES)


def test_strings(asker: Asker) -> None:
    first, second = texts(FIRST), texts(ONES * 5)
    answer = asker.infer("simple_string", {"INPUT0": first, "INPUT1": second}, outputs=["OUTPUT0", "OUTPUT1"])
    assert answer.datatypes == {"OUTPUT0": "BYTES", "OUTPUT1": "BYTES"}
    np.testing.assert_array_equal(numbers(answer.outputs["OUTPUT0"]), FIRST + 5)
    np.testing.assert_array_equal(numbers(answer.outputs["OUTPUT1"]), FIRST - 5)


def test_strings_that_are_no_numbers_are_the_models_own_failure(asker: Asker) -> None:
    words = np.array([[b"word"] * 16], dtype=object)
    with pytest.raises(RefusedError, match="Failed to process the request") as caught:
        asker.infer("simple_string", {"INPUT0": words, "INPUT1": words})
    assert caught.value.status == ("INTERNAL" if asker.form == "grpc" else 500)


def test_int8(asker: Asker) -> None:
    first, second = FIRST.astype(np.int8), -ONES.astype(np.int8)
    answer = asker.infer("simple_int8", {"INPUT0": first, "INPUT1": second}, outputs=["OUTPUT0", "OUTPUT1"])
    assert answer.outputs["OUTPUT0"].dtype == np.int8
    np.testing.assert_array_equal(answer.outputs["OUTPUT0"], first - 1)
    np.testing.assert_array_equal(answer.outputs["OUTPUT1"], first + 1)


def test_identity_passes_arbitrary_bytes(raw_asker: Asker) -> None:
    rows = np.array([[NOT_TEXT, b""], [b"he\x00llo", bytes(range(256))]], dtype=object)
    answer = raw_asker.infer("simple_identity", {"INPUT0": rows})
    assert answer.outputs["OUTPUT0"].tolist() == rows.tolist()


def test_identity_of_text_with_zero_bytes(asker: Asker) -> None:
    rows = np.array([[b"he\x00llo"] * 16], dtype=object)
    found = asker.infer("simple_identity", {"INPUT0": rows}, outputs=["OUTPUT0"]).outputs["OUTPUT0"]
    assert [t if isinstance(t, bytes) else t.encode() for t in found.flat] == rows.ravel().tolist()


@pytest.mark.parametrize("binary", [True, False])
def test_identity_of_arrays_of_bytes(http: Any, binary: bool) -> None:
    """Bytes that are text travel in JSON too, whatever the characters."""
    rows = np.array([b"\x00\x01\x02\x03"] * 16, dtype=np.bytes_).reshape(1, 16)
    one = tritonclient.http.InferInput("INPUT0", [1, 16], "BYTES")
    one.set_data_from_numpy(rows, binary_data=binary)
    wanted = [tritonclient.http.InferRequestedOutput("OUTPUT0", binary_data=binary)]
    found = http.infer("simple_identity", [one], outputs=wanted).as_numpy("OUTPUT0")
    assert np.array_equal(np.char.encode(found.astype(str)), rows)


def test_bytes_that_are_no_text_do_not_travel_in_json(examples: Server, http: Any) -> None:
    """The refusal says what does."""
    one = tritonclient.http.InferInput("INPUT0", [1, 1], "BYTES")
    one.set_data_from_numpy(np.array([[NOT_TEXT]], dtype=object))
    wanted = [tritonclient.http.InferRequestedOutput("OUTPUT0", binary_data=False)]
    with pytest.raises(tritonclient.utils.InferenceServerException) as caught:
        http.infer("simple_identity", [one], outputs=wanted)
    assert refusal(caught.value).status == 400
    assert "UTF-8" in caught.value.message() and "binary" in caught.value.message()
    body = b'{"inputs":[{"name":"INPUT0","datatype":"BYTES","shape":[1,1],"data":["\xff"]}]}'
    answer = examples.post("/v2/models/simple_identity/infer", content=body)
    assert answer.status_code == 400 and "binary" in answer.json()["error"]


def test_objects_of_a_request_can_be_used_again(examples: Server) -> None:
    for library, address in ((tritonclient.http, examples.http), (tritonclient.grpc, examples.grpc)):
        with library.InferenceServerClient(address) as client:
            inputs = [library.InferInput(name, [1, 16], "INT32") for name in PAIR]
            outputs = [library.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
            for factor in (1, 2, 3):
                for one in inputs:
                    one.set_data_from_numpy(PAIR[one.name()] * factor)
                assert_added(client.infer("simple", inputs, outputs=outputs), FIRST * factor, ONES * factor)
            for one in inputs:
                one.set_shape([2, 16]).set_data_from_numpy(np.repeat(PAIR[one.name()], 2, axis=0))
            assert_added(client.infer("simple", inputs), np.repeat(FIRST, 2, axis=0), np.repeat(ONES, 2, axis=0))


# Classification


def test_picture_is_named(asker: Asker) -> None:
    """A model without a batch axis answers without one."""
    picture = np.random.default_rng(0).random((3, 224, 224), np.float32)
    answer = asker.infer("densenet_onnx", {"data_0": picture}, outputs=["fc6_1"], classes=3)
    assert (answer.datatypes, answer.shapes) == ({"fc6_1": "BYTES"}, {"fc6_1": [3]})
    best = [_class(text) for text in answer.outputs["fc6_1"]]
    assert [(index, label) for _, index, label in best] == [(23, "VULTURE"), (999, "CLASS 999"), (998, "CLASS 998")]
    whole = asker.infer("densenet_onnx", {"data_0": picture}, outputs=["fc6_1"]).outputs["fc6_1"]
    assert [value for value, _, _ in best] == [f"{whole[index]:f}" for _, index, _ in best]


def _class(text: bytes | str) -> tuple[str, int, str]:
    """Value, index and label."""
    value, index, *label = (text.decode() if isinstance(text, bytes) else text).split(":")
    return value, int(index), "".join(label)


def test_each_row_is_classified(asker: Asker) -> None:
    rows = {"INPUT0": np.concatenate([FIRST, FIRST[:, ::-1]]), "INPUT1": np.concatenate([ONES, ONES])}
    answer = asker.infer("onnx_int32_int32_int32", rows, version="1", outputs=["OUTPUT0", "OUTPUT1"], classes=2)
    assert answer.shapes == {"OUTPUT0": [2, 2], "OUTPUT1": [2, 2]}
    found = {name: [_class(t) for t in array.flat] for name, array in answer.outputs.items()}
    assert found["OUTPUT0"] == [
        ("16", 15, "label15"), ("15", 14, "label14"), ("16", 0, "label0"), ("15", 1, "label1"),
    ]  # fmt: skip
    assert found["OUTPUT1"] == [("14", 15, ""), ("13", 14, ""), ("14", 0, ""), ("13", 1, "")]


def test_more_classes_than_there_are(asker: Asker) -> None:
    answer = asker.infer("simple", PAIR, outputs=["OUTPUT0"], classes=100)
    assert answer.shapes == {"OUTPUT0": [1, 16]}
    assert [_class(t)[1] for t in answer.outputs["OUTPUT0"].flat] == list(range(15, -1, -1))


def test_text_has_no_classes(asker: Asker) -> None:
    given = {"INPUT0": texts(FIRST), "INPUT1": texts(ONES)}
    with pytest.raises(RefusedError, match="class result not available for output due to unsupported type 'BYTES'"):
        asker.infer("simple_string", given, outputs=["OUTPUT0"], classes=1)


# Versions, optional inputs, shapes without elements


def test_versions_that_answer_differently(asker: Asker) -> None:
    name = "onnx_int32_int32_int32"
    for version, first in (("1", FIRST + ONES), ("2", FIRST - ONES), ("3", FIRST - ONES), ("", FIRST - ONES)):
        answer = asker.infer(name, PAIR, version=version, outputs=["OUTPUT0"])
        assert answer.version == (version or "3")
        np.testing.assert_array_equal(answer.outputs["OUTPUT0"], first)
    metadata = asker.ask("get_model_metadata", name)
    assert metadata["versions"] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "given", "gives"),
    [
        ("onnx_int32_float32_float32", np.int32, np.float32),
        ("onnx_float32_float32_float32", np.float32, np.float32),
        ("onnx_int32_object_object", np.int32, object),
        ("onnx_object_int32_int32", object, np.int32),
    ],
)
def test_data_types_may_differ_between_inputs_and_outputs(asker: Asker, name: str, given: Any, gives: Any) -> None:
    pair = {key: texts(array) if given is object else array.astype(given) for key, array in PAIR.items()}
    found = asker.infer(name, pair, outputs=["OUTPUT1"]).outputs["OUTPUT1"]
    np.testing.assert_array_equal(numbers(found) if gives is object else found, FIRST - ONES)


def test_optional_inputs(asker: Asker) -> None:
    given = {f"INPUT{i}": np.array([i + 1, i + 1], np.float32) for i in range(3)}

    def total(name: str, *numbers: int) -> list[float]:
        chosen = {f"INPUT{i}": given[f"INPUT{i}"] for i in numbers}
        values: list[float] = asker.infer(name, chosen, outputs=["OUTPUT0"]).outputs["OUTPUT0"].tolist()
        return values

    assert total("input_all_required", 0, 1, 2) == [6, 6]
    assert total("input_optional", 0, 1, 2) == [6, 6]
    assert total("input_optional", 0, 1) == [303, 303]
    assert total("input_all_optional", 0, 1, 2) == [6, 6]
    assert total("input_all_optional", 1) == [402, 402]
    with pytest.raises(RefusedError, match="expected 3 inputs but got 2 inputs for model 'input_all_required'"):
        total("input_all_required", 0, 1)
    text = "expected number of inputs between 2 and 3 but got 1 inputs for model 'input_optional'"
    with pytest.raises(RefusedError, match=text):
        total("input_optional", 0)


def test_optional_inputs_are_marked_in_the_configuration(asker: Asker) -> None:
    config = asker.ask("get_model_config", "input_optional")
    config = config["config"] if asker.form == "grpc" else config
    assert {t["name"]: t["optional"] for t in config["input"]} == {"INPUT0": False, "INPUT1": False, "INPUT2": True}


ZEROS = [name for name in triton_models.EXAMPLES if "_zero_" in name]
_ZERO_TYPES = {"bool": np.bool_, "float32": np.float32, "float16": np.float16, "object": object}


@pytest.mark.parametrize("elements", [0, 2])
@pytest.mark.parametrize("name", ZEROS)
def test_axes_without_elements(raw_asker: Asker, name: str, elements: int) -> None:
    graph = triton_models.EXAMPLES[name].versions[1]
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.graph.input}  # type: ignore[union-attr]
    dtype = _ZERO_TYPES[next(word for word in name.split("_") if word in _ZERO_TYPES)]
    given = {}
    for key, open_shape in shapes.items():
        batched = "nobatch" not in name
        shape = [axis or elements for axis in open_shape]
        if batched:
            shape[0] = 1
        if dtype is object:
            given[key] = np.full(shape, b"text", object)
        else:
            given[key] = np.ones(shape, dtype)
    if elements == 0 and name == "onnx_zero_1_object_1_element":
        return  # its axes are not open
    answer = raw_asker.infer(name, given)
    for key, array in given.items():
        found = answer.outputs[key.replace("INPUT", "OUTPUT")]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


def test_scalar(asker: Asker) -> None:
    answer = asker.infer("onnx_scalar", {"INPUT0": np.array(1.5, np.float32)}, outputs=["OUTPUT0"])
    assert (answer.shapes, answer.outputs["OUTPUT0"].item()) == ({"OUTPUT0": []}, 1.5)


def test_numbers_that_are_not_finite(asker: Asker) -> None:
    given = {"INPUT0": np.array([np.nan, -np.inf], np.float32)}
    answer = asker.infer("nan_inf_output", given, outputs=["OUTPUT0"])
    np.testing.assert_array_equal(answer.outputs["OUTPUT0"], triton_models.NOT_FINITE)


def test_names_with_colons_and_slashes(asker: Asker) -> None:
    picture = np.zeros((299, 299, 3), np.float32)
    name = "InceptionV3/Predictions/Softmax:0"
    answer = asker.infer("inception_onnx", {"input:0": picture}, outputs=[name], classes=1)
    assert [_class(text) for text in answer.outputs[name]] == [("20.000000", 24, "")]


# Raw requests


def test_raw_request(examples: Server) -> None:
    """The body is the one input's bytes and nothing else; all outputs come back binary."""
    body = np.arange(5, dtype=np.float32).tobytes()
    answer = examples.post(
        "/v2/models/identity_fp32/infer", content=body, headers={"Inference-Header-Content-Length": "0"}
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    described = httpx.Response(200, content=answer.content[:length]).json()
    assert described["outputs"] == [
        {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 5], "parameters": {"binary_data_size": 20}}
    ]
    assert answer.content[length:] == body


def test_raw_request_of_bytes_has_no_length_in_front(examples: Server) -> None:
    answer = examples.post(
        "/v2/models/bytes_identity/infer", content=NOT_TEXT, headers={"Inference-Header-Content-Length": "0"}
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    assert answer.content[length:] == len(NOT_TEXT).to_bytes(4, "little") + NOT_TEXT


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            "simple",
            "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in 'simple' model "
            "configuration",
        ),
        (
            "onnx_zero_1_float16",
            "The shape of the raw input 'INPUT0' can not be deduced because there are more than one variable-sized "
            "dimension",
        ),
        ("simple_identity", "For BYTE datatype raw input 'INPUT0', the model must have input shape [1]"),
    ],
)
def test_raw_request_for_a_model_that_cannot_take_it(examples: Server, model: str, text: str) -> None:
    answer = examples.post(
        f"/v2/models/{model}/infer", content=bytes(64), headers={"Inference-Header-Content-Length": "0"}
    )
    assert answer.status_code == 400
    assert text in answer.json()["error"]


# gRPC without the client's own classes


def _added(request: Any, expected: Callable[[np.ndarray], np.ndarray], client: Any) -> None:
    answer = tritonclient.grpc.InferResult(client._client_stub.ModelInfer(request))
    np.testing.assert_array_equal(expected(answer.as_numpy("OUTPUT0")), FIRST + ONES)
    np.testing.assert_array_equal(expected(answer.as_numpy("OUTPUT1")), FIRST - ONES)


def test_generated_stub(grpc_client: Any) -> None:
    stub = grpc_client._client_stub
    assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
    assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
    assert stub.ModelReady(service_pb2.ModelReadyRequest(name="simple", version="1")).ready
    assert stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="simple")).name == "simple"
    assert plain(stub.ModelConfig(service_pb2.ModelConfigRequest(name="simple")))["config"]["name"] == "simple"
    request = service_pb2.ModelInferRequest(model_name="simple", model_version="1", id="my request id")
    for name, array in PAIR.items():
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        request.raw_input_contents.append(array.tobytes())
    request.outputs.add(name="OUTPUT0")
    request.outputs.add(name="OUTPUT1")
    _added(request, lambda a: a, grpc_client)
    assert stub.ModelInfer(request).id == "my request id"


@pytest.mark.parametrize(
    ("model", "datatype", "field", "written", "read"),
    [
        ("simple", "INT32", "int_contents", lambda a: a.ravel().tolist(), lambda a: a),
        ("simple_int8", "INT8", "int_contents", lambda a: a.ravel().tolist(), lambda a: a),
        ("simple_string", "BYTES", "bytes_contents", lambda a: texts(a).ravel().tolist(), numbers),
    ],
)
def test_explicit_contents(
    grpc_client: Any,
    model: str,
    datatype: str,
    field: str,
    written: Callable[[np.ndarray], list[Any]],
    read: Callable[[np.ndarray], np.ndarray],
) -> None:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in PAIR.items():
        one = request.inputs.add(name=name, datatype=datatype, shape=[1, 16])
        getattr(one.contents, field).extend(written(array))
    _added(request, read, grpc_client)


@pytest.mark.parametrize(
    "more",
    [
        {
            "keepalive_options": tritonclient.grpc.KeepAliveOptions(
                keepalive_time_ms=2**31 - 1,
                keepalive_timeout_ms=20_000,
                keepalive_permit_without_calls=False,
                http2_max_pings_without_data=2,
            )
        },
        {"channel_args": [("grpc.primary_user_agent", "tested"), ("grpc.max_receive_message_length", -1)]},
    ],
    ids=["keepalive", "channel arguments"],
)
def test_options_of_the_channel(examples: Server, more: dict[str, Any]) -> None:
    with tritonclient.grpc.InferenceServerClient(examples.grpc, **more) as client:
        inputs = [tritonclient.grpc.InferInput(name, [1, 16], "INT32") for name in PAIR]
        for one in inputs:
            one.set_data_from_numpy(PAIR[one.name()])
        assert_added(client.infer("simple", inputs))
