"""Triton's `config.pbtxt`: what it means here, and what is said about it."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.spec import ModelSpec, SpecError
from serving.protocols.oip import pbtxt
from serving.repository.disk.reading import Read

FILE = "repo/m/config.pbtxt"
TENSORS = 'input { name: "x" data_type: TYPE_FP32 dims: [4] }\noutput { name: "y" data_type: TYPE_FP32 dims: [4] }\n'


def read(text: str) -> Read:
    return pbtxt.read(text, FILE, {"m"})


def meant(text: str) -> dict[str, Any]:
    """The settings that it sets."""
    return read(text).spec.model_dump(mode="json", exclude_unset=True)


def tensor(*shape: int) -> dict[str, Any]:
    return {"datatype": "FP32", "shape": list(shape)}


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ('name: "m"', {}),
        (TENSORS, {"max_batch_size": 0, "inputs": {"x": tensor(4)}, "outputs": {"y": tensor(4)}}),
        (
            TENSORS + "max_batch_size: 8",
            {"max_batch_size": 8, "inputs": {"x": tensor(-1, 4)}, "outputs": {"y": tensor(-1, 4)}},
        ),
        # Triton completes what is missing from the model, the batch size too.
        (TENSORS.splitlines()[0], {"inputs": {"x": {"datatype": "FP32"}}}),
        ("max_batch_size: 0", {}),
        ("max_batch_size: 3", {"max_batch_size": 3}),
        ("version_policy: { all { } }", {"versions": "all"}),
        ("dynamic_batching { }", {"max_queue_delay_ms": 0.0}),
        ('default_model_filename: "net.onnx"', {"file": "net.onnx"}),
    ],
)
def test_settings(text: str, settings: dict[str, Any]) -> None:
    assert meant(text) == settings
    assert read(text).warnings == ()


def test_a_whole_one() -> None:
    """Of everything that Triton's documentation shows for such a model."""
    text = """
        name: "m"
        platform: "onnxruntime_onnx"
        max_batch_size: 16
        input [
          { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ] reshape { shape: [ 3, 50176 ] } }
        ]
        output [
          { name: "y" data_type: TYPE_STRING dims: [ 10 ] label_filename: "labels.txt" }
        ]
        instance_group [ { count: 2 kind: KIND_CPU }, { count: 1 kind: KIND_AUTO } ]
        version_policy: { specific { versions: [1, 3] } }
        dynamic_batching {
          max_queue_delay_microseconds: 500
          preserve_ordering: true
          default_queue_policy { default_timeout_microseconds: 250000 max_queue_size: 100 }
        }
        parameters { key: "intra_op_thread_count" value: { string_value: "4" } }
        parameters { key: "enable_mem_arena" value: { string_value: "1" } }
        optimization { graph { level: 1 } }
        model_warmup [
          {
            name: "zero"
            batch_size: 2
            inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 3, 224, 224 ] zero_data: true } }
          }
        ]
        response_cache { enable: true }
    """
    sample = {"datatype": "FP32", "shape": [2, 3, 224, 224], "values": "zero"}
    assert meant(text) == {
        "backend": "onnx",
        "versions": [1, 3],
        "max_batch_size": 16,
        "max_queue_delay_ms": 0.5,
        "max_queue_rows": 100,
        "queue_timeout_ms": 250.0,
        "instances": 3,
        "threads": 4,
        "class_labels": {"y": "labels.txt"},
        "inputs": {
            "x": {
                "datatype": "FP32",
                "shape": [-1, 3, 224, 224],
                "reshape": [-1, 3, 50176],
                "format": "NCHW",
            }
        },
        "outputs": {"y": {"datatype": "BYTES", "shape": [-1, 10]}},
        "samples": [{"name": "zero", "inputs": {"x": sample}, "runs": 1}],
    }
    assert read(text).warnings == (
        f"{FILE}: asks for what is not done here: dynamic_batching.preserve_ordering, optimization.graph.level, "
        "response_cache.enable, parameters.enable_mem_arena",
    )


def test_fields_of_newer_releases_are_named_and_left() -> None:
    told = read('name: "m"\nfast_lane { level: 3 }\nmax_batch_siez: 8\nresponse_cache { enable: true }')
    assert told.spec == ModelSpec()
    assert told.warnings == (
        f"{FILE}: line 2: unknown field 'fast_lane'",
        f"{FILE}: line 3: unknown field 'max_batch_siez'; did you mean 'max_batch_size'?",
        f"{FILE}: asks for what is not done here: response_cache.enable",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('\nname: "other"', ":2: it is of the model 'other'"),
        (
            'name: "m"\nbackend: "python"',
            ":2: backend 'python' is not supported; there are onnxruntime, tensorflow, identity",
        ),
        (
            'platform: "tensorrt_plan"',
            ":1: platform 'tensorrt_plan' is not supported; there are onnxruntime, tensorflow, identity",
        ),
        (
            'name: "m"\nplatform: "ensemble"\nensemble_scheduling {\n  step [ { model_name: "a" } ]\n}',
            ":3: 'ensemble_scheduling' is not supported: ensembles are not served",
        ),
        ("sequence_batching { }", ":1: 'sequence_batching' is not supported: stateful models are not served"),
        (
            "\n\nmodel_transaction_policy {\n  decoupled: true\n}",
            ":4: 'model_transaction_policy.decoupled' is not supported: every request is answered once",
        ),
        (
            'input [\n  {\n    name: "x"\n    data_type: TYPE_FP32\n    dims: [ -3 ]\n  }\n]\nmax_batch_size: 1',
            ":1: input: 'inputs' (1): input should be greater than or equal to -1, got -3",
        ),
        (
            "instance_group [ { count: 999 } ]",
            ":1: instance_group: 'instances': input should be less than or equal to 256, got 999",
        ),
        ("max_batch_size: -1", ":1: 'max_batch_size': input should be greater than or equal to 0, got -1"),
        ("max_batch_size: many", ":1:17: 'max_batch_size: many': Couldn't parse integer: many"),
        ('input { name: "x"\n data_type: TYPE_FP99 }', ":2:13: "),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        read(text)
    assert str(error.value).startswith(FILE + told)
    assert "\n" not in str(error.value)


WORDS = st.sampled_from([
    "name", "platform", "backend", "input", "output", "data_type", "TYPE_FP32", "dims", "reshape", "shape", "optional",
    "max_batch_size", "version_policy", "specific", "versions", "latest", "num_versions", "dynamic_batching", "count",
    "instance_group", "kind", "KIND_GPU", "parameters", "key", "value", "string_value", "model_warmup", "batch_size",
    "inputs", "zero_data", "true", "later", ":", "{", "}", "[", "]", "1", "-1", "8", "'threads'", "'onnxruntime'",
    "'m'", "''",
])  # fmt: skip


@given(st.text(max_size=40) | st.lists(WORDS, max_size=40).map(" ".join))
def test_whatever_comes_is_read_or_refused(text: str) -> None:
    with suppress(SpecError):
        read(text)
