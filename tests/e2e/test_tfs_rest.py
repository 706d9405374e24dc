"""TensorFlow Serving's REST API over plain HTTP, as its users write it, with SavedModels and ONNX models.

Values, texts and statuses are those of TensorFlow Serving and of its published tests.
"""

import base64
import gzip
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serving.protocols import messages as m
from tests.e2e import tfs_repo
from tests.e2e.server import LIMIT_S, Server

DEFAULT = "/v1/models/default"
TWO = "/v1/models/half_plus_two_2_versions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("tfs_rest")
    made = Server(root / "logs", tfs_repo.write(root / "repo"), "--http-max-input-size", 2**20)
    try:
        yield made.wait_ready()
    finally:
        made.end()
    assert "Traceback" not in made.log


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=LIMIT_S) as client:
        yield client


def good(answer: httpx.Response) -> Any:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    return json.loads(answer.content)


def refused(answer: httpx.Response, status: int, text: str) -> None:
    """`text` is what clients know of the message."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert answer.json().keys() == {"error"}
    assert text in answer.json()["error"]


def predict(http: httpx.Client, path: str, body: Any) -> Any:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return good(http.post(path + ":predict", content=content))


# Predict


@pytest.mark.parametrize("path", [DEFAULT, f"{DEFAULT}/versions/123", f"{TWO}/labels/stable", f"{TWO}/versions/124"])
def test_predict(http: httpx.Client, path: str) -> None:
    expected = [[3.0], [3.5], [4.0]]
    rows = [[2.0], [3.0], [4.0]]
    assert predict(http, path, {"instances": rows}) == {"predictions": expected}
    assert predict(http, path, {"instances": [{"x": row} for row in rows]}) == {"predictions": expected}
    assert predict(http, path, {"inputs": rows}) == {"outputs": expected}
    assert predict(http, path, {"inputs": {"x": rows}}) == {"outputs": expected}
    assert predict(http, path, {"signature_name": "serving_default", "inputs": {"x": rows}}) == {"outputs": expected}


def test_predict_as_published(http: httpx.Client) -> None:
    """The requests of TensorFlow Serving's documentation and tests: one dimension where the signature has two."""
    assert predict(http, DEFAULT, {"instances": [2.0, 3.0, 4.0]}) == {"predictions": [3.0, 3.5, 4.0]}
    assert predict(http, DEFAULT, {"inputs": [2.0, 3.0, 4.0]}) == {"outputs": [3.0, 3.5, 4.0]}


def test_shapes_that_a_signature_leaves_open(http: httpx.Client) -> None:
    """half_plus_three declares none: what comes in is what comes out."""
    path = "/v1/models/half_plus_three"
    assert predict(http, path, {"instances": [1.0, 2.0, 5.0]}) == {"predictions": [3.5, 4.0, 5.5]}
    assert predict(http, path, {"inputs": [1.0, 2.0, 5.0]}) == {"outputs": [3.5, 4.0, 5.5]}
    assert predict(http, path, {"inputs": 1}) == {"outputs": 3.5}
    assert predict(http, path, {"instances": [[[1]], [[2]]]}) == {"predictions": [[[3.5]], [[4.0]]]}


def test_signatures(http: httpx.Client) -> None:
    body = {"signature_name": "regress_x2_to_y3", "instances": [[2.0]]}
    assert predict(http, DEFAULT, body) == {"predictions": [[4.0]]}
    example = m.tf.Example()
    example.features.feature["x"].float_list.value.append(2.0)
    data = example.SerializeToString()
    body = {"signature_name": "classify_x_to_y", "instances": [{"b64": base64.b64encode(data).decode()}]}
    assert predict(http, DEFAULT, body) == {"predictions": [[3.0]]}
    body["instances"] = [{"b64": base64.b64encode(data[:-1]).decode()}]
    refused(http.post(f"{DEFAULT}:predict", json=body), 400, "")


def test_several_inputs_and_outputs(http: httpx.Client) -> None:
    path = "/v1/models/pair"
    rows = [{"INPUT0": [5, 7], "INPUT1": [2, 3]}, {"INPUT0": [1, 1], "INPUT1": [1, 2]}]
    columns = {"INPUT0": [[5, 7], [1, 1]], "INPUT1": [[2, 3], [1, 2]]}
    assert predict(http, path, {"instances": rows}) == {
        "predictions": [{"OUTPUT0": [7, 10], "OUTPUT1": [3, 4]}, {"OUTPUT0": [2, 3], "OUTPUT1": [0, -1]}]
    }
    expected = {"OUTPUT0": [[7, 10], [2, 3]], "OUTPUT1": [[3, 4], [0, -1]]}
    assert predict(http, path, {"inputs": columns}) == {"outputs": expected}
    assert predict(http, path, {"inputs": {**columns, "more": "is ignored"}}) == {"outputs": expected}


def test_an_onnx_model(http: httpx.Client) -> None:
    row = [[1.0, 2.0, 3.0, 4.5]]
    for path, version in (("", 2), ("/versions/1", 1), ("/versions/2", 2), ("/labels/old", 1)):
        found = predict(http, f"/v1/models/scale{path}", {"instances": row})
        assert found == {"predictions": [[version * x for x in row[0]]]}
    fixed = [[0.5] * 4] * 3
    assert predict(http, "/v1/models/nothing%20in%20common", {"inputs": fixed}) == {"outputs": fixed}


def test_numbers(http: httpx.Client) -> None:
    """Bare NaN and Infinity, and no float that looks like an integer."""
    text = b'{"inputs": [[NaN], [Infinity], [-Infinity], [-0.0], [1e39], [0.1], [3], [16777216], [-4]]}'
    answer = http.post(f"{DEFAULT}:predict", content=text)
    found = re.sub(rb"\s", b"", answer.content)
    assert found == b'{"outputs":[[NaN],[Infinity],[-Infinity],[2.0],[Infinity],[2.05],[3.5],[8388610.0],[0.0]]}'


def test_strings(http: httpx.Client) -> None:
    """An output whose name ends in `_bytes` is written in base64, any other as text."""
    path = "/v1/models/text"
    not_text = {"b64": base64.b64encode(b"\xff\xfe").decode()}
    body = {"text": [["", "grüße"]], "raw": [[not_text, "a"]]}
    as_base64 = [[not_text, {"b64": "YQ=="}]]
    assert predict(http, path, {"inputs": body}) == {"outputs": {"text": [["", "grüße"]], "raw_bytes": as_base64}}
    rows = [{"text": ["", {"b64": "YQ=="}], "raw": ["\x00", "\N{GRINNING FACE}"]}]
    assert predict(http, path, {"instances": rows}) == {
        "predictions": [{"text": ["", "a"], "raw_bytes": [{"b64": "AA=="}, {"b64": "8J+YgA=="}]}]
    }
    refused(http.post(f"{path}:predict", json={"inputs": {**body, "text": [[not_text, ""]]}}), 400, "UTF-8")
    for bad in ({"b64": "*"}, {"b64": "AA==", "more": 1}, {"b64": 1}, {"B64": "AA=="}):
        answer = http.post(f"{path}:predict", json={"inputs": {**body, "raw": [[bad, "a"]]}})
        refused(answer, 400, "Unable to base64 decode" if bad == {"b64": "*"} else "")


def test_what_follows_the_object(http: httpx.Client) -> None:
    """White space, or it is a mistake: a deliberate difference from TensorFlow Serving, which stops reading there."""
    assert predict(http, DEFAULT, b'{"instances": [[2.0]]} \r\n\t') == {"predictions": [[3.0]]}
    refused(http.post(f"{DEFAULT}:predict", content=b'{"instances": [[2.0]]} {}'), 400, "JSON Parse error: ")


def test_zero_rows(http: httpx.Client) -> None:
    assert predict(http, DEFAULT, {"inputs": []}) == {"outputs": []}


JSON_ERROR = "JSON Parse error: "
REFUSED_PREDICTS = {
    "nothing": (DEFAULT, b"", 400, JSON_ERROR + "The document is empty"),
    "no JSON": (DEFAULT, b"x", 400, JSON_ERROR),
    "half": (DEFAULT, b'{"instances": [', 400, JSON_ERROR),
    "1e400": (DEFAULT, b'{"instances": [[1e400]]}', 400, JSON_ERROR),
    "no JSON for an unknown model": ("/v1/models/m", b"x", 400, JSON_ERROR),
    "a list": (DEFAULT, b"[1]", 400, "Is not object"),
    "no data": (DEFAULT, b"{}", 400, "Missing 'inputs' or 'instances' key"),
    "both forms": (
        DEFAULT, b'{"instances": [[1]], "inputs": [[1]]}', 400,
        "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
    ),
    "one instance": (DEFAULT, b'{"instances": 1}', 400, "Expecting 'instances' to be an list/array"),
    "no instances": (DEFAULT, b'{"instances": []}', 400, "No values in 'instances' array"),
    "a number for a signature": (
        DEFAULT, b'{"signature_name": 5, "instances": [[1]]}', 400,
        "not formatted correctly. 'signature_name' key must be a string value.",
    ),
    "unknown model": ("/v1/models/m", b'{"instances": [[1]]}', 404, "Servable not found for request: Latest(m)"),
    "unknown version": (
        f"{DEFAULT}/versions/50", b'{"instances": [[1]]}', 404, "Servable not found for request: Specific(default, 50)",
    ),
    "unknown label": (f"{TWO}/labels/x", b'{"instances": [[1]]}', 400, "Unrecognized servable version label: x"),
    "unknown signature": (
        DEFAULT, b'{"signature_name": "z", "instances": [[1]]}', 400,
        'Serving signature name: "z" not found in signature def',
    ),
    "text for a number": (
        DEFAULT, b'{"instances": [["x"]]}', 400,
        "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
        'JSON Value: "x" Type: String is not of expected type: float',
    ),
    "text for a number, in columns": (
        DEFAULT, b'{"inputs": [["x"]]}', 400, 'JSON Value: "x" Type: String is not of expected type: float',
    ),
    "a bool for a number": (DEFAULT, b'{"inputs": [[true]]}', 400, "is not of expected type: float"),
    "null for a number": (DEFAULT, b'{"inputs": [[null]]}', 400, "is not of expected type: float"),
    "a number for text": (
        "/v1/models/text", b'{"inputs": {"text": [[1, 2]], "raw": [["", ""]]}}', 400, "is not of expected type: string",
    ),
    "a fraction for an integer": (
        "/v1/models/pair", b'{"inputs": {"INPUT0": [[1.0, 2]], "INPUT1": [[1, 2]]}}', 400,
        "is not of expected type: int32",
    ),
    "rows of two sizes": (DEFAULT, b'{"instances": [[1.0, 2.0], [3.0]]}', 400, "Expecting tensor size: 2 but got: 1"),
    "rows of two shapes": (
        DEFAULT, b'{"instances": [[1.0, 2.0], [[3.0], [4.0]]]}', 400, "Expecting shape [2] but got: [2,1]",
    ),
    "ragged columns": (
        DEFAULT, b'{"inputs": [[1.0], [2.0, 3.0]]}', 400,
        "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
    ),
    "plain rows for two inputs": (
        "/v1/models/pair", b'{"instances": [[1, 2]]}', 400,
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
        "tensorinfo_map",
    ),
    "a row without an input": (
        "/v1/models/pair", b'{"instances": [{"INPUT0": [1, 2]}]}', 400, "Failed to process element: 0",
    ),
    "a column without an input": (
        "/v1/models/pair", b'{"inputs": {"INPUT0": [[1, 2]]}}', 400, "Missing named input: INPUT1 in 'inputs' object.",
    ),
    "half precision": (
        "/v1/models/half", b'{"inputs": [[1.5, 2.5]]}', 501, "Conversion of JSON Value: 1.5 to type: half",
    ),
    "short integers": ("/v1/models/short", b'{"inputs": [[1, 2]]}', 501, "Conversion of JSON Value: 1 to type: uint16"),
    "the wrong shape for an ONNX model": ("/v1/models/scale", b'{"instances": [[1.0, 2.0]]}', 400, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_PREDICTS)
def test_refused_predicts(http: httpx.Client, name: str) -> None:
    path, body, status, text = REFUSED_PREDICTS[name]
    refused(http.post(path + ":predict", content=body), status, text)


# Classify and regress


def test_classify(http: httpx.Client) -> None:
    body: dict[str, Any] = {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]}
    assert good(http.post(f"{DEFAULT}:classify", json=body)) == {"results": [[["", 3.0]]]}
    body = {**body, "examples": [{"x": [2.0]}, {"x": 5.0, "x2": [1.0]}]}
    assert good(http.post(f"{TWO}/labels/canary:classify", json=body)) == {"results": [[["", 3.0]], [["", 4.5]]]}


def test_regress(http: httpx.Client) -> None:
    for signature, value in (("regress_x_to_y", 3.0), ("regress_x_to_y2", 4.0)):
        body = {"signature_name": signature, "examples": [{"x": 2.0}, {"x": [4.0]}]}
        assert good(http.post(f"{DEFAULT}/versions/123:regress", json=body)) == {"results": [value, value + 1]}
    body = {"signature_name": "regress_x_to_y", "context": {"x": 2.0}, "examples": [{}, {"x": 4.0}]}
    assert good(http.post(f"{DEFAULT}:regress", json=body)) == {"results": [3.0, 4.0]}


REFUSED_EXAMPLES: dict[str, tuple[Any, str]] = {
    "no examples": ({}, "When method is classify, key 'examples' is expected and was not found"),
    "one": ({"examples": {"x": 1.0}}, "Expecting 'examples' value to be an list/array"),
    "an empty list": ({"examples": []}, "'examples' value is an empty array"),
    "a list for an example": ({"examples": [[1.0]]}, "Example must be JSON object but got JSON Array"),
    "a list for the context": ({"examples": [{"x": 1.0}], "context": []}, "Example must be JSON object"),
    "an integer": ({"examples": [{"x": 2}]}, ""),
    "text": ({"examples": [{"x": "2.0"}]}, ""),
    "mixed": ({"examples": [{"x": [2.0, 3]}]}, "Unexpected element type in feature: x expecting type: float"),
    "null": ({"examples": [{"x": None}]}, "x"),
    "a list in a list": ({"examples": [{"x": [[2.0]]}]}, "x"),
    "bad base64": ({"examples": [{"x": {"b64": "*"}}]}, "Unable to base64 decode"),
    "2^63": ({"examples": [{"x": 2**63}]}, "x"),
    "an unknown signature": (
        {"signature_name": "z", "examples": [{"x": 1.0}]}, "No signature was found with the name: z",
    ),
    "another method": (
        {"signature_name": "serving_default", "examples": [{"x": 1.0}]},
        "signature method_name to be tensorflow/serving/",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_EXAMPLES)
def test_refused_examples(http: httpx.Client, name: str) -> None:
    body, text = REFUSED_EXAMPLES[name]
    for method, signature in (("classify", "classify_x_to_y"), ("regress", "regress_x_to_y")):
        refused(http.post(f"{DEFAULT}:{method}", json={"signature_name": signature, **body}), 400, text)


# Metadata and status


def info(dtype: str, name: str, *sizes: int) -> dict[str, Any]:
    """A tensor of a signature; without sizes its rank is not known."""
    dims = [{"size": str(size), "name": ""} for size in sizes]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": not sizes}, "name": name}


def signature(method: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": inputs, "outputs": outputs, "method_name": f"tensorflow/serving/{method}", "defaults": {}}


def test_metadata(http: httpx.Client) -> None:
    """What TensorFlow Serving's own test compares the answer for this model with, key by key."""
    serialized = {"inputs": info("DT_STRING", "tf_example:0")}
    y, y2, y3 = (info("DT_FLOAT", f"{name}:0", -1, 1) for name in ("y", "y2", "y3"))
    signatures = {
        "serving_default": signature("predict", {"x": info("DT_FLOAT", "x:0", -1, 1)}, {"y": y}),
        "classify_x_to_y": signature("classify", serialized, {"scores": y}),
        "regress_x_to_y": signature("regress", serialized, {"outputs": y}),
        "regress_x_to_y2": signature("regress", serialized, {"outputs": y2}),
        "regress_x2_to_y3": signature("regress", {"inputs": info("DT_FLOAT", "x2:0", -1, 1)}, {"outputs": y3}),
    }
    expected = {
        "model_spec": {"name": "default", "signature_name": "", "version": "123"},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }
    assert good(http.get(f"{DEFAULT}/metadata")) == expected
    assert good(http.get(f"{DEFAULT}/versions/123/metadata")) == expected


def test_metadata_of_a_label(http: httpx.Client) -> None:
    for label, version in (("stable", "123"), ("canary", "124")):
        found = good(http.get(f"{TWO}/labels/{label}/metadata"))
        assert found["model_spec"] == {"name": "half_plus_two_2_versions", "signature_name": "", "version": version}
        assert ("classify_x2_to_y3" in found["metadata"]["signature_def"]["signature_def"]) is (version == "124")


def test_metadata_of_an_onnx_model(http: httpx.Client) -> None:
    found = good(http.get("/v1/models/scale/metadata"))
    assert found["metadata"]["signature_def"]["signature_def"] == {
        "serving_default": signature(
            "predict", {"x": info("DT_FLOAT", "x", -1, 4)}, {"y": info("DT_FLOAT", "y", -1, 4)}
        )
    }


def state(version: int) -> dict[str, Any]:
    return {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


def test_status(http: httpx.Client) -> None:
    assert good(http.get(DEFAULT)) == {"model_version_status": [state(123)]}
    both = {"model_version_status": [state(124), state(123)]}
    assert good(http.get(TWO)) == both
    assert good(http.get(f"{TWO}/versions/123")) == {"model_version_status": [state(123)]}
    assert good(http.get(f"{TWO}/labels/stable")) == both  # a label chooses nothing here
    assert good(http.get("/v1/models/scale")) == {"model_version_status": [state(2), state(1)]}


REFUSED_GETS = {
    "/v1/models/m": (404, "Could not find any versions of model m"),
    "/v1/models/default/versions/9": (404, "Could not find version 9 of model default"),
    "/v1/models/m/metadata": (404, "Servable not found for request: Latest(m)"),
    "/v1/models/default/versions/9/metadata": (404, "Servable not found for request: Specific(default, 9)"),
    "/v1/models/default/labels/x/metadata": (400, "Unrecognized servable version label: x"),
    "/v1/models": (400, "Missing model name in request."),
    "/v1/models/default/versions/99999999999999999999": (
        400, "Failed to convert version: 99999999999999999999 to numeric.",
    ),
    "/v1/models/default/versions/x": (400, "Malformed request: GET /v1/models/default/versions/x"),
    "/v1/models/default/versions/-1": (400, "Malformed request: GET /v1/models/default/versions/-1"),
    "/v1/models/default:predict": (400, "Malformed request: GET /v1/models/default:predict"),
    "/v1/models/default/metadata/": (400, "Malformed request: GET /v1/models/default/metadata/"),
    "/v1/": (400, "Malformed request: GET /v1/"),
    "/v1/nothing": (400, "Malformed request: GET /v1/nothing"),
}  # fmt: skip


@pytest.mark.parametrize("path", REFUSED_GETS)
def test_refused_gets(http: httpx.Client, path: str) -> None:
    refused(http.get(path), *REFUSED_GETS[path])


# Paths, methods, bodies


def test_paths_in_any_case(http: httpx.Client) -> None:
    """But not names."""
    body = {"instances": [[2.0]]}
    assert good(http.post("/V1/Models/default:PREDICT", json=body)) == {"predictions": [[3.0]]}
    assert good(http.post("/v1/MODELS/half_plus_two_2_versions/Labels/stable:Predict", json=body))
    assert good(http.get("/V1/models/default/Versions/123/METADATA"))["model_spec"]["name"] == "default"
    refused(http.get("/v1/models/Default"), 404, "Could not find any versions of model Default")


def test_encoded_names(server: Server) -> None:
    """Names and labels may be percent-encoded, digits and verbs not."""
    body = b'{"instances": [[2.0]]}'

    def ask(path: str) -> tuple[int, str]:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.http_port), timeout=LIMIT_S) as connection:
            connection.sendall(head.encode() + body)
            with connection.makefile("rb") as received:
                first, _, content = received.read().partition(b"\r\n\r\n")
        return int(first.split()[1]), content.decode()

    assert ask("/v1/models/d%65fault:predict")[0] == 200
    assert ask("/v1/models/%64%65%66%61%75%6C%74/versions/123:predict")[0] == 200
    assert ask("/v1/models/half_plus_two_2_versions/labels/st%61ble:predict")[0] == 200
    status, text = ask("/v1/models/no%3Asuch%2Fmodel:predict")
    assert status == 404 and "Servable not found for request: Latest(no:such/model)" in text
    assert ask("/v1/models/default/versions/12%33:predict")[0] == 400
    assert ask("/v1/models/default%3Apredict")[0] == 400
    assert ask("/v1/models/%ff%fe:predict")[0] == 400
    assert ask("/v1/models/default:predict?query=is&ignored")[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
def test_other_methods(http: httpx.Client, method: str) -> None:
    answer = http.request(method, f"{DEFAULT}:predict", content=b"{}")
    assert answer.status_code == 400
    assert method == "HEAD" or "Malformed request: " in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", DEFAULT),
        ("POST", f"{DEFAULT}/metadata"),
        ("POST", f"{DEFAULT}:unknown"),
        ("POST", f"{DEFAULT}:predict/"),
        ("GET", f"{DEFAULT}:classify"),
    ],
)
def test_malformed_requests(http: httpx.Client, method: str, path: str) -> None:
    refused(http.request(method, path, content=b"{}"), 400, f"Malformed request: {method} {path}")


def test_options(http: httpx.Client) -> None:
    """What a browser asks before it sends a request from elsewhere; nothing is allowed to it."""
    answer = http.options(f"{DEFAULT}:predict", headers={"Origin": "https://example.org"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status_code == 200
    assert http.options(f"{DEFAULT}:predict").status_code == 400
    assert http.options(f"{DEFAULT}:predict", headers={"Origin": "null"}).status_code == 400


def test_compressed_bodies(http: httpx.Client) -> None:
    body = gzip.compress(b'{"instances": [[2.0]]}')
    for encoding in ("gzip", "GZIP"):
        answer = http.post(f"{DEFAULT}:predict", content=body, headers={"Content-Encoding": encoding})
        assert good(answer) == {"predictions": [[3.0]]}
        assert "content-encoding" not in answer.headers  # answers never are
    body = gzip.compress(b'{"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]}')
    answer = http.post(f"{DEFAULT}:regress", content=body, headers={"Content-Encoding": "gzip"})
    assert good(answer) == {"results": [3.0]}
    refused(http.post(f"{DEFAULT}:predict", content=body[:-9], headers={"Content-Encoding": "gzip"}), 400, "gzip")
    large = gzip.compress(b'{"instances": [[2.0]]}' + b" " * 2**20)
    refused(http.post(f"{DEFAULT}:predict", content=large, headers={"Content-Encoding": "gzip"}), 400, "exceeds")


def test_bodies_of_any_type(http: httpx.Client) -> None:
    """As curl sends them."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = http.post(f"{DEFAULT}:predict", content=b'{"instances": [[2.0]]}', headers=headers)
    assert good(answer) == {"predictions": [[3.0]]}
