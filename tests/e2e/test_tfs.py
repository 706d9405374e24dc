"""TensorFlow Serving's gRPC API by its official stubs, unmodified, against a server of SavedModels and ONNX models.

Values, texts and codes are those of TensorFlow Serving and of its published tests.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.e2e import tfs_repo
from tests.e2e.clients import Asker, RefusedError
from tests.e2e.server import Server

X = np.array([[2.0], [4.0]], np.float32)
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("tfs")
    made = Server(root / "logs", tfs_repo.write(root / "repo"))
    try:
        yield made.wait_ready()
    finally:
        made.end()
    assert "Traceback" not in made.log


@pytest.fixture(scope="module")
def client(server: Server, api: Any) -> Iterator[Any]:
    made = api.TfsClient(server)
    yield made
    made.close()


def refused(call: Any, code: str, text: str) -> None:
    """`text` is what clients know of the message, and where it begins."""
    with pytest.raises(RefusedError) as caught:
        call()
    assert (caught.value.status, caught.value.text[: len(text)]) == (code, text)


# Predict


@pytest.mark.parametrize("outputs", [["y"], []], ids=["filter", "all"])
def test_predict(client: Any, api: Any, outputs: list[str]) -> None:
    given = api.tensor(np.array([[2.0]], np.float32))
    found, spec = client.predict(api.spec("default", "serving_default"), {"x": given}, outputs)
    assert list(found) == ["y"] and found["y"].dtype == np.float32
    np.testing.assert_array_equal(found["y"], [[3.0]])
    assert (spec.name, spec.version.value, spec.signature_name) == ("default", 123, "serving_default")


@pytest.mark.parametrize("outputs", [["y"], []], ids=["filter", "all"])
def test_predict_as_published(client: Any, api: Any, outputs: list[str]) -> None:
    """The request of TensorFlow Serving's own test: one dimension where the signature has two."""
    found, _ = client.predict(api.spec("default"), {"x": api.tensor(np.array([2.0], np.float32))}, outputs)
    np.testing.assert_array_equal(found["y"], [3.0])


@pytest.mark.parametrize("form", ["tensor", "typed"])
def test_forms_of_a_tensor(client: Any, api: Any, form: str) -> None:
    given = getattr(api, form)(X)
    assert bool(given.tensor_content) is (form == "tensor")
    np.testing.assert_array_equal(client.predict(api.spec("default"), {"x": given})[0]["y"], [[3.0], [4.0]])
    given = getattr(api, form)(ROWS)
    np.testing.assert_array_equal(client.predict(api.spec("scale", version=2), {"x": given})[0]["y"], 2 * ROWS)


def test_the_last_value_repeats(client: Any, api: Any) -> None:
    given = api.tensor(np.full((3, 4), 2.5, np.float32))
    given.ClearField("tensor_content")
    given.float_val.extend([1.0, 2.0])
    expected = np.array([1.0] + [2.0] * 11).reshape(3, 4)
    np.testing.assert_array_equal(client.predict(api.spec("scale", version=1), {"x": given})[0]["y"], expected)


def test_no_rows(client: Any, api: Any) -> None:
    """An answer without rows, not a refusal."""
    for model, width in (("default", 1), ("scale", 4)):
        found, _ = client.predict(api.spec(model), {"x": np.empty((0, width), np.float32)})
        assert found["y"].shape == (0, width)


@pytest.mark.parametrize(
    ("chosen", "version"),
    [
        ({}, 124),
        ({"version": 123}, 123),
        ({"version": 124}, 124),
        ({"label": "stable"}, 123),
        ({"label": "canary"}, 124),
    ],
    ids=str,
)
def test_versions_and_labels(client: Any, api: Any, chosen: Mapping[str, Any], version: int) -> None:
    found, spec = client.predict(api.spec("half_plus_two_2_versions", **chosen), {"x": X})
    np.testing.assert_array_equal(found["y"], [[3.0], [4.0]])
    assert (spec.version.value, spec.version_label) == (version, "")
    results, spec = client.classify(
        api.spec("half_plus_two_2_versions", "classify_x_to_y", **chosen), api.examples({"x": [2.0]})
    )
    assert (results, spec.version.value) == ([[("", 3.0)]], version)


def test_versions_and_labels_of_an_onnx_model(client: Any, api: Any) -> None:
    for chosen, version in (({}, 2), ({"version": 1}, 1), ({"label": "old"}, 1)):
        found, spec = client.predict(api.spec("scale", **chosen), {"x": ROWS})
        np.testing.assert_array_equal(found["y"], version * ROWS)
        assert (spec.version.value, spec.signature_name) == (version, "serving_default")


def test_a_signature_by_name(client: Any, api: Any) -> None:
    """Predict runs any signature, whatever its method is."""
    found, spec = client.predict(api.spec("default", "regress_x2_to_y3"), {"inputs": X})
    np.testing.assert_array_equal(found["outputs"], [[4.0], [5.0]])
    assert spec.signature_name == "regress_x2_to_y3"
    serialized = np.array([one.SerializeToString() for one in api.examples({"x": [2.0]}).example_list.examples], object)
    found, _ = client.predict(api.spec("default", "classify_x_to_y"), {"inputs": serialized})
    np.testing.assert_array_equal(found["scores"], [[3.0]])


def test_any_shape(client: Any, api: Any) -> None:
    """half_plus_three declares none."""
    for shape in ((), (3,), (1, 1), (2, 3, 4), (0, 2)):
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        found, _ = client.predict(api.spec("half_plus_three"), {"x": x})
        np.testing.assert_array_equal(found["y"], x / 2 + 3)


def test_several_inputs_and_outputs(client: Any, api: Any) -> None:
    given = {"INPUT0": np.array([[5, 7]], np.int32), "INPUT1": np.array([[2, 3]], np.int32)}
    found, _ = client.predict(api.spec("pair"), given)
    assert {name: array.tolist() for name, array in found.items()} == {"OUTPUT0": [[7, 10]], "OUTPUT1": [[3, 4]]}
    found, _ = client.predict(api.spec("pair"), given, ["OUTPUT1"])
    assert {name: array.tolist() for name, array in found.items()} == {"OUTPUT1": [[3, 4]]}


def test_strings_of_any_bytes(client: Any, api: Any) -> None:
    text, raw = (np.array([row], object) for row in ([b"", "grüße".encode()], [b"\xff\xfe", bytes(range(256))]))
    found, _ = client.predict(api.spec("text"), {"text": text, "raw": raw})
    assert (found["text"].tolist(), found["raw_bytes"].tolist()) == (text.tolist(), raw.tolist())


SIZES = "input size does not match signature: "
UNKNOWN = "Servable not found for request: "
NO_KEY = 'Serving signature key "z" not found.'
REFUSED_PREDICTS: dict[str, tuple[dict[str, Any], dict[str, np.ndarray], list[str], str, str]] = {
    "no model": ({}, {"x": X}, [], "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    "unknown model": ({"model": "m"}, {"x": X}, [], "NOT_FOUND", UNKNOWN + "Latest(m)"),
    "unknown version": (
        {"model": "default", "version": 9}, {"x": X}, [], "NOT_FOUND", UNKNOWN + "Specific(default, 9)",
    ),
    "unknown label": (
        {"model": "default", "label": "x"}, {"x": X}, [], "INVALID_ARGUMENT", "Unrecognized servable version label: x",
    ),
    "unknown signature": (
        {"model": "default", "signature": "z"}, {"x": X}, [], "FAILED_PRECONDITION", NO_KEY,
    ),
    "a signature of an ONNX model": (
        {"model": "scale", "signature": "z"}, {"x": ROWS}, [], "FAILED_PRECONDITION", NO_KEY,
    ),
    "missing input": (
        {"model": "default"}, {}, [], "INVALID_ARGUMENT",
        SIZES + "0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
    ),
    "another input": (
        {"model": "default"}, {"z": X}, [], "INVALID_ARGUMENT",
        SIZES + "1!=1 len({z}) != len({x}). Sent extra: {z}. Missing but required: {x}.",
    ),
    "one input too many": (
        {"model": "default"}, {"x": X, "z": X}, [], "INVALID_ARGUMENT",
        SIZES + "2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}.",
    ),
    "wrong type": (
        {"model": "default"}, {"x": X.astype(np.int32)}, [], "INVALID_ARGUMENT",
        "Expects arg[0] to be float but int32 is provided",
    ),
    "wrong type for an ONNX model": (
        {"model": "scale"}, {"x": ROWS.astype(np.float64)}, [], "INVALID_ARGUMENT",
        "Expects arg[0] to be float but double is provided",
    ),
    "wrong shape for an ONNX model": ({"model": "scale"}, {"x": X}, [], "INVALID_ARGUMENT", ""),
    "unknown output": (
        {"model": "default"}, {"x": X}, ["z"], "INVALID_ARGUMENT",
        "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
    ),
    "an output twice": (
        {"model": "default"}, {"x": X}, ["y", "y"], "INVALID_ARGUMENT", "duplicate output tensor alias: y",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_PREDICTS)
def test_refused_predicts(client: Any, api: Any, name: str) -> None:
    chosen, inputs, outputs, code, text = REFUSED_PREDICTS[name]
    refused(lambda: client.predict(api.spec(**chosen), inputs, outputs), code, text)


def test_a_tensor_that_cannot_be_parsed(client: Any, api: Any) -> None:
    given = api.tensor(X)
    given.tensor_content = given.tensor_content[:-1]
    refused(lambda: client.predict(api.spec("default"), {"x": given}), "INVALID_ARGUMENT", "tensor parsing error: x")


def test_no_model_spec(client: Any) -> None:
    refused(lambda: client.predict(None, {"x": X}), "INVALID_ARGUMENT", "Missing ModelSpec")


def test_long_texts_are_cut(client: Any, api: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        client.predict(api.spec("m" * 3000), {"x": X})
    assert len(caught.value.text) == 1024 + len("...TRUNCATED") and caught.value.text.endswith("...TRUNCATED")


# Classify, regress, multi-inference


def test_classify(client: Any, api: Any) -> None:
    results, spec = client.classify(
        api.spec("default", "classify_x_to_y"), api.examples({"x": [2.0]}, {"x": [5.0], "x2": [9.0]})
    )
    assert results == [[("", 3.0)], [("", 4.5)]]
    assert (spec.name, spec.version.value, spec.signature_name) == ("default", 123, "classify_x_to_y")


@pytest.mark.parametrize(("signature", "value"), [("regress_x_to_y", 3.0), ("regress_x_to_y2", 4.0)])
def test_regress(client: Any, api: Any, signature: str, value: float) -> None:
    results, spec = client.regress(api.spec("default", signature), api.examples({"x": [2.0]}, {"x": [4.0]}))
    assert results == [value, value + 1]
    assert (spec.version.value, spec.signature_name) == (123, signature)


def test_a_signature_without_a_shape(client: Any, api: Any) -> None:
    spec = api.spec("half_plus_three", "tensorflow/serving/regress")
    assert client.regress(spec, api.examples({"x": [2.0]}, {"x": [3.0]}))[0] == [4.0, 4.5]


def test_what_examples_share(client: Any, api: Any) -> None:
    """The features of an example win over those of the context."""
    given = api.examples({}, {"x": [4.0]}, context={"x": [2.0]})
    assert client.regress(api.spec("default", "regress_x_to_y"), given)[0] == [3.0, 4.0]
    assert client.classify(api.spec("default", "classify_x_to_y"), given)[0] == [[("", 3.0)], [("", 4.0)]]


def test_multi_inference(client: Any, api: Any) -> None:
    """As published: regress and classify in one call. And two regressions."""
    tasks = [
        (api.spec("default", "regress_x_to_y"), api.REGRESS),
        (api.spec("default", "classify_x_to_y"), api.CLASSIFY),
        (api.spec("default", "regress_x_to_y2"), api.REGRESS),
    ]
    first, second, third = client.multi_inference(tasks, api.examples({"x": [2.0]}))
    assert [one.value for one in first.regression_result.regressions] == [3.0]
    assert api.classes(second.classification_result) == [[("", 3.0)]]
    assert [one.value for one in third.regression_result.regressions] == [4.0]
    for (spec, _), result in zip(tasks, (first, second, third), strict=True):
        found = result.model_spec
        assert (found.name, found.version.value, found.signature_name) == ("default", 123, spec.signature_name)


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_refused_examples(client: Any, api: Any, method: str) -> None:
    ask = getattr(client, method)
    signature = {"classify": "classify_x_to_y", "regress": "regress_x_to_y"}[method]
    other = {"classify": "regress_x_to_y", "regress": "classify_x_to_y"}[method]
    kind = {"classify": "classification", "regress": "regression"}[method]
    good = api.examples({"x": [2.0]})
    invalid = partial(refused, code="INVALID_ARGUMENT")
    invalid(lambda: ask(None, good), text="Missing ModelSpec")
    invalid(lambda: ask(api.spec("", signature), good), text="ModelSpec has no name specified.")
    refused(lambda: ask(api.spec("m"), good), "NOT_FOUND", "Servable not found for request: Latest(m)")
    invalid(lambda: ask(api.spec("default", "z"), good), text="No signature was found with the name: z")
    expected = f"Expected {kind} signature method_name to be tensorflow/serving/{method}. Was: tensorflow/serving/"
    invalid(lambda: ask(api.spec("default", other), good), text=expected + other.partition("_")[0])
    invalid(lambda: ask(api.spec("default"), good), text=expected + "predict")
    invalid(lambda: ask(api.spec("scale"), good), text=expected + "predict")
    invalid(lambda: ask(api.spec("default", signature), api.examples()), text="Input is empty.")
    invalid(lambda: ask(api.spec("default", signature), None), text="Input is empty.")
    for bad in ({"x": [2]}, {"x": [b"2"]}, {"x": [2.0, 3.0]}, {"z": [2.0]}, {}):
        invalid(lambda bad=bad: ask(api.spec("default", signature), api.examples(bad)), text="")


def test_tensors_are_no_examples(client: Any, api: Any) -> None:
    """regress_x2_to_y3 takes floats, as in TensorFlow Serving's test data; predict runs it, regress cannot."""
    ask = partial(client.regress, api.spec("default", "regress_x2_to_y3"), api.examples({"x2": [2.0]}))
    refused(ask, "INVALID_ARGUMENT", "Expects arg[0] to be float but string is provided")


def test_refused_multi_inference(client: Any, api: Any) -> None:
    good = api.examples({"x": [2.0]})
    regress = (api.spec("default", "regress_x_to_y"), api.REGRESS)

    def invalid(text: str, *tasks: tuple[Any, str], given: Any = good) -> None:
        refused(lambda: client.multi_inference(tasks, given), "INVALID_ARGUMENT", text)

    invalid("ModelSpec has no name specified.")
    invalid("Found ModelSpec with an empty model name.", regress, (api.spec("", "classify_x_to_y"), api.CLASSIFY))
    invalid(
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        regress,
        (api.spec("half_plus_three", "tensorflow/serving/regress"), api.REGRESS),
    )
    invalid("Duplicate evaluation of signature: regress_x_to_y", regress, regress)
    invalid("Requested signature not found in model graph: z", (api.spec("default", "z"), api.REGRESS))
    invalid("Input is empty.", regress, given=api.examples())
    wrong = (api.spec("default"), "tensorflow/serving/predict")
    text = "Unsupported signature method_name: tensorflow/serving/predict"
    refused(lambda: client.multi_inference([regress, wrong], good), "UNIMPLEMENTED", text)


# Metadata and status


def test_metadata(client: Any, api: Any) -> None:
    found, spec = client.signatures(api.spec("default"), "signature_def")
    assert (spec.name, spec.version.value, spec.signature_name) == ("default", 123, "")
    assert {name: one.method_name for name, one in found.items()} == {
        "serving_default": "tensorflow/serving/predict",
        "classify_x_to_y": api.CLASSIFY,
        "regress_x_to_y": api.REGRESS,
        "regress_x_to_y2": api.REGRESS,
        "regress_x2_to_y3": api.REGRESS,
    }
    (x,) = found["serving_default"].inputs.values()
    assert (x.name, x.dtype, [dim.size for dim in x.tensor_shape.dim]) == ("x:0", 1, [-1, 1])
    (serialized,) = found["classify_x_to_y"].inputs.values()
    assert (serialized.name, serialized.dtype) == ("tf_example:0", 7) and serialized.tensor_shape.unknown_rank
    found, spec = client.signatures(api.spec("half_plus_two_2_versions", label="canary"), "signature_def")
    assert "classify_x2_to_y3" in found and spec.version.value == 124
    found, _ = client.signatures(api.spec("half_plus_two_2_versions", version=123), "signature_def")
    assert "classify_x2_to_y3" not in found


def test_metadata_of_an_onnx_model(client: Any, api: Any) -> None:
    """As perf_analyzer asks for it: one signature, `serving_default`."""
    found, spec = client.signatures(api.spec("pair"), "signature_def")
    assert list(found) == ["serving_default"] and spec.version.value == 1
    signature = found["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert set(signature.inputs) == {"INPUT0", "INPUT1"} and set(signature.outputs) == {"OUTPUT0", "OUTPUT1"}
    info = signature.inputs["INPUT0"]
    assert (info.dtype, [dim.size for dim in info.tensor_shape.dim]) == (3, [-1, 2])


def test_refused_metadata(client: Any, api: Any) -> None:
    ask = client.signatures
    none = "GetModelMetadataRequest must specify at least one metadata_field"
    refused(lambda: ask(api.spec("default")), "INVALID_ARGUMENT", none)
    refused(lambda: ask(api.spec("default"), "foo"), "INVALID_ARGUMENT", "Metadata field foo is not supported")
    refused(lambda: ask(None, "signature_def"), "INVALID_ARGUMENT", "Missing ModelSpec")
    refused(lambda: ask(api.spec("m"), "signature_def"), "NOT_FOUND", "Servable not found for request: Latest(m)")


def test_status(client: Any, api: Any) -> None:
    assert client.status(api.spec("default")) == [(123, "AVAILABLE", 0, "")]
    both = [(124, "AVAILABLE", 0, ""), (123, "AVAILABLE", 0, "")]
    assert client.status(api.spec("half_plus_two_2_versions")) == both
    assert client.status(api.spec("half_plus_two_2_versions", version=123)) == both[1:]
    assert client.status(api.spec("scale")) == [(2, "AVAILABLE", 0, ""), (1, "AVAILABLE", 0, "")]
    refused(lambda: client.status(api.spec("m")), "NOT_FOUND", "Could not find any versions of model m")
    refused(lambda: client.status(api.spec("scale", version=9)), "NOT_FOUND", "Could not find version 9 of model scale")
    refused(lambda: client.status(None), "INVALID_ARGUMENT", "Missing ModelSpec")


@pytest.mark.parametrize("service", ["", "PredictionService", "ModelService", "tensorflow.serving.PredictionService"])
def test_health_by_service(client: Any, service: str) -> None:
    assert client.serving(service)


def test_health_of_an_unknown_service(client: Any) -> None:
    refused(lambda: client.serving("NoService"), "NOT_FOUND", "")


def test_methods_that_are_not_offered(client: Any) -> None:
    call = client.channel.unary_unary("/tensorflow.serving.SessionService/SessionRun", None, None)
    with pytest.raises(Exception, match="UNIMPLEMENTED"):
        call(b"")


# The same models over both families


@pytest.mark.parametrize("form", ["json", "binary", "grpc"])
def test_a_savedmodel_over_the_open_inference_protocol(client: Any, api: Any, server: Server, form: str) -> None:
    asker = Asker(server, form)
    answer = asker.infer("default", {"x": X})
    expected, _ = client.predict(api.spec("default"), {"x": X})
    assert (answer.version, answer.names) == ("123", ["y"])
    np.testing.assert_array_equal(answer.outputs["y"], expected["y"])
    if form != "json":  # which cannot carry serialized examples
        given = api.examples({"x": [2.0]}, {"x": [4.0]}).example_list.examples
        serialized = np.array([one.SerializeToString() for one in given], object)
        for signature in ("classify_x_to_y", "regress_x_to_y", "regress_x_to_y2"):
            expected, _ = client.predict(api.spec("default", signature), {"inputs": serialized})
            answer = asker.infer("default", {"inputs": serialized}, parameters={"signature_name": signature})
            (name,) = answer.names
            np.testing.assert_array_equal(answer.outputs[name], expected[name])
    answer = asker.infer("default", {"inputs": X}, parameters={"signature_name": "regress_x2_to_y3"})
    np.testing.assert_array_equal(answer.outputs["outputs"], [[4.0], [5.0]])
    with pytest.raises(RefusedError, match="z"):
        asker.infer("default", {"x": X}, parameters={"signature_name": "z"})
    asker.close()


@pytest.mark.parametrize("form", ["json", "binary", "grpc"])
def test_an_onnx_model_over_both(client: Any, api: Any, server: Server, form: str) -> None:
    asker = Asker(server, form)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4)).astype(np.float32)
    for version in (1, 2):
        expected, _ = client.predict(api.spec("scale", version=version), {"x": x})
        np.testing.assert_array_equal(asker.infer("scale", {"x": x}, version=str(version)).outputs["y"], expected["y"])
    asker.close()
