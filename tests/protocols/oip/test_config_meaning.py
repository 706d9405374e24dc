"""What a ModelConfig that a client sends means: what is set, ignored with its name, and refused."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.backends import registry
from serving.core.declared import Sample, SampleInput
from serving.core.errors import ServingError
from serving.core.spec import Latest, ModelSpec
from serving.protocols.oip import config_meaning
from tests.protocols.build import refused


@pytest.mark.parametrize(
    ("config", "meant"),
    [
        ({}, {}),
        ({"name": "m"}, {}),
        ({"max_batch_size": 16}, {"max_batch_size": 16}),
        ({"max_batch_size": "16"}, {"max_batch_size": 16}),
        ({"maxBatchSize": 0}, {"max_batch_size": 0}),
        ({"backend": "onnxruntime"}, {"backend": "onnx"}),
        ({"platform": "tensorflow_savedmodel"}, {"backend": "tensorflow"}),
        ({"platform": "onnxruntime_onnx", "default_model_filename": "model.onnx"}, {"backend": "onnx"}),
        ({"backend": "onnxruntime", "default_model_filename": "b.onnx"}, {"backend": "onnx", "file": "b.onnx"}),
        ({"default_model_filename": "model.onnx"}, {"file": "model.onnx"}),
        ({"version_policy": {"all": {}}}, {"versions": "all"}),
        ({"version_policy": {"latest": {}}}, {"versions": Latest()}),
        ({"versionPolicy": {"latest": {"numVersions": 2}}}, {"versions": Latest(latest=2)}),
        ({"version_policy": {"specific": {"versions": ["3", 5]}}}, {"versions": (3, 5)}),
        ({"dynamic_batching": {}}, {"max_queue_delay_ms": 0}),
        (
            {"dynamic_batching": {"priority_levels": 3, "default_priority_level": "2"}},
            {"max_queue_delay_ms": 0, "priority_levels": 3, "default_priority_level": 2},
        ),
        (
            {"parameters": {"allowed_batch_sizes": {"string_value": "[2,4]"}}},
            {"allowed_batch_sizes": (2, 4), "max_batch_size": 4},
        ),
        ({"dynamic_batching": {"max_queue_delay_microseconds": "1500"}}, {"max_queue_delay_ms": 1.5}),
        (
            {"dynamic_batching": {"default_queue_policy": {"default_timeout_microseconds": 1, "max_queue_size": 7}}},
            {"max_queue_delay_ms": 0, "queue_timeout_ms": 0.001, "max_queue_rows": 7},
        ),
        ({"instance_group": [{"count": 2, "kind": "KIND_CPU"}, {}]}, {"instances": 3}),
        ({"parameters": {"intra_op_thread_count": {"string_value": "4"}}}, {"threads": 4}),
        ({"parameters": {"TF_NUM_INTRA_THREADS": {"string_value": "2"}}}, {"threads": 2}),
        ({"parameters": {"TF_GRAPH_TAG": {"string_value": "gpu"}}}, {"tags": ("gpu",)}),
        ({"parameters": {"TF_SIGNATURE_DEF": {"string_value": "serving_default"}}}, {}),
        ({"parameters": {"tags": {"string_value": '["a","b"]'}}}, {"tags": ("a", "b")}),
        ({"parameters": {"max_request_rows": {"string_value": "500"}}}, {"max_request_rows": 500}),
        (
            {"parameters": {"traffic": {"string_value": '{"weights":{"a":1}}'}}},
            {"traffic": {"weights": {"a": 1}}},
        ),
        ({"parameters": {"accelerate": {"string_value": "onnx"}}}, {"accelerate": "onnx"}),
        ({"parameters": {"version_labels": {"string_value": '{"a":1}'}}}, {"version_labels": {"a": 1}}),
        ({"input": [{"name": "x", "data_type": "TYPE_STRING", "dims": [16]}]}, {"inputs": {"x": "BYTES"}}),
        (
            {"max_batch_size": 8, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3, -1]}]},
            {"max_batch_size": 8, "inputs": {"x": {"datatype": "FP32", "shape": [-1, 3, -1]}}},
        ),
        (
            {"max_batch_size": 0, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}]},
            {"max_batch_size": 0, "inputs": {"x": {"datatype": "FP32", "shape": [3]}}},
        ),
        (
            {"max_batch_size": 1, "input": [{"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW"}]},
            {"max_batch_size": 1, "inputs": {"x": {"datatype": "FP32", "format": "NCHW"}}},
        ),
        (
            {"max_batch_size": 8, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1], "optional": True}]},
            {"max_batch_size": 8, "inputs": {"x": "FP32"}},
        ),
        (
            {
                "max_batch_size": 1,
                "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1000], "reshape": {"shape": [1000, 1, 1]}}],
            },
            {
                "max_batch_size": 1,
                "outputs": {"y": {"datatype": "FP32", "shape": [-1, 1000], "reshape": [-1, 1000, 1, 1]}},
            },
        ),
        (
            {
                "max_batch_size": 0,
                "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1], "reshape": {"shape": []}}],
            },
            {"max_batch_size": 0, "inputs": {"x": {"datatype": "FP32", "shape": [1], "reshape": []}}},
        ),
        (
            {"dynamic_batching": {"preferred_batch_size": [4]}, "max_batch_size": 4},
            {"max_queue_delay_ms": 0, "max_batch_size": 4},
        ),
        (
            {"output": [{"name": "y", "data_type": 11, "dims": ["-1"], "label_filename": "l.txt"}]},
            {"outputs": {"y": "FP32"}, "class_labels": {"y": "l.txt"}},
        ),
    ],
    ids=str,
)
def test_what_is_set_and_nothing_else(config: dict[str, Any], meant: dict[str, Any]) -> None:
    read = config_meaning.read("m", config)
    assert read.spec == ModelSpec(**meant) and read.spec.model_fields_set == set(meant)
    assert read.ignored == ()


@pytest.mark.parametrize(
    ("config", "ignored"),
    [
        ({"response_cache": {"enable": True}}, ("response_cache.enable",)),
        ({"dynamic_batching": {"preserve_ordering": True}}, ("dynamic_batching.preserve_ordering",)),
        ({"metric_tags": {"a": "b"}}, ("metric_tags",)),
        ({"instance_group": [{"kind": "KIND_CPU", "gpus": [0]}, {"passive": True}]},
         ("instance_group.gpus", "instance_group.passive")),
        ({"model_warmup": [{"name": "w", "batch_size": 1}]},
         ("model_warmup (without max_batch_size nobody knows its shapes)",)),
        ({"dynamic_batching": {"preferred_batch_size": [4, 8]}},
         ("dynamic_batching.preferred_batch_size (a free instance takes what waits)",)),
        ({"dynamic_batching": {"default_queue_policy":
                               {"timeout_action": "DELAY", "default_timeout_microseconds": 1}}},
         ("dynamic_batching.default_queue_policy.timeout_action DELAY, and its timeout with it",)),
        ({"optimization": {"graph": {"level": 1}, "execution_accelerators": {
            "gpu_execution_accelerator": [{"name": "tensorrt"}]}}},
         ("optimization.graph.level", "optimization.execution_accelerators.gpu_execution_accelerator.name")),
        ({"cc_model_filenames": {"7.5": "a.onnx"}}, ("cc_model_filenames",)),
        ({"parameters": {"execution_mode": {"string_value": "1"}, "intra_op_thread_count": {"string_value": "0"}}},
         ("parameters.execution_mode", "parameters.intra_op_thread_count 0 (one thread, unless it says more)")),
        ({"parameters": {"x": {"string_value": "1"}, "threads": {"string_value": "1"}}}, ("parameters.x",)),
        ({"input": [{"name": "x", "data_type": "TYPE_FP32", "allow_ragged_batch": True}]},
         ("input.allow_ragged_batch",)),
        ({"instance_group": [{"kind": "KIND_GPU"}]},
         ("instance_group.kind KIND_GPU (no onnxruntime-gpu is installed, so the model runs on the processor)",)),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_asked_for_in_vain_is_named(config: dict[str, Any], ignored: tuple[str, ...]) -> None:
    assert sorted(config_meaning.read("m", config).ignored) == sorted(ignored)


def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is a matter of what is installed."""
    monkeypatch.setattr(registry, "has_gpu_runtime", lambda: True)
    config: dict[str, Any] = {"instance_group": [{"kind": "KIND_GPU", "count": 2}]}
    meant = config_meaning.read("m", config)
    assert meant.spec == ModelSpec(providers=("CUDAExecutionProvider", "CPUExecutionProvider"), instances=2)
    assert meant.ignored == ()
    own = {"parameters": {"providers": {"string_value": '["TensorrtExecutionProvider"]'}}}
    assert config_meaning.read("m", config | own).spec.providers == ("TensorrtExecutionProvider",)
    assert "providers" not in config_meaning.read("m", config | {"backend": "tensorflow"}).spec.model_fields_set
    assert "a version has one model" in refused(
        lambda: config_meaning.read("m", config | {"cc_model_filenames": {"7.5": "a.onnx"}})
    )


WARMUP = {
    "name": "w",
    "batch_size": 2,
    "count": 3,
    "inputs": {
        "x": {"data_type": "TYPE_FP32", "dims": [4], "random_data": True},
        "y": {"data_type": "TYPE_STRING", "dims": [1], "zero_data": True},
        "z": {"data_type": "TYPE_INT8", "dims": [], "input_data_file": "z.bin"},
    },
}


@pytest.mark.parametrize(("max_batch_size", "rows"), [(8, [2]), (0, [])])
def test_samples(max_batch_size: int, rows: list[int]) -> None:
    meant = config_meaning.read(
        "m", {"max_batch_size": max_batch_size, "model_warmup": [WARMUP, {"name": "none", "batch_size": 0}]}
    )
    inputs = {
        "x": SampleInput(datatype="FP32", shape=(*rows, 4), values="random"),
        "y": SampleInput(datatype="BYTES", shape=(*rows, 1), values="zero"),
        "z": SampleInput(datatype="INT8", shape=tuple(rows), file="warmup/z.bin"),
    }
    assert meant.spec.samples == (Sample(name="w", inputs=inputs, runs=3),)
    assert meant.ignored == ()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ([], "expected an object, got an array"),
        (None, "expected an object, got null"),
        ({"max_batch_siez": 1}, "has no field named"),
        ({"max_batch_size": "many"}, "not a ModelConfig: Failed to parse max_batch_size"),
        ({"max_batch_size": 10**12}, "not a ModelConfig: Failed to parse max_batch_size"),
        ({"max_batch_size": -1}, "'max_batch_size': input should be greater than or equal to 0, got -1"),
        ({"input": [{"name": "x", "data_type": "FP32"}]}, "not a ModelConfig: Failed to parse"),
        ({"input": [{"name": "x"}]}, "tensor 'x' needs a name and a data_type"),
        ({"input": [{"name": "x", "data_type": 999}]}, "tensor 'x' needs a name and a data_type"),
        ({"input": [{"data_type": "TYPE_FP32"}]}, "tensor '' needs a name and a data_type"),
        ({"name": "other"}, "it is of the model 'other'"),
        ({"backend": "python"}, "backend 'python' is not supported; there are onnxruntime, tensorflow, identity"),
        ({"platform": "ensemble"}, "platform 'ensemble' is not supported"),
        ({"default_model_filename": "../model.onnx"}, "'file': string should match pattern"),
        ({"max_batch_size": 0, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-2]}]}, "'inputs'"),
        ({"version_policy": {"specific": {}}}, "version_policy.specific names no version"),
        ({"version_policy": {"specific": {"versions": [0]}}}, "'versions'"),
        ({"sequence_batching": {}}, "'sequence_batching' is not supported"),
        ({"ensemble_scheduling": {"step": []}}, "'ensemble_scheduling' is not supported"),
        ({"model_transaction_policy": {"decoupled": True}}, "'model_transaction_policy.decoupled' is not supported"),
        ({"batch_input": [{"kind": "BATCH_ELEMENT_COUNT"}]}, "'batch_input' is not supported"),
        ({"input": [{"name": "x", "data_type": "TYPE_FP32", "reshape": {"shape": []}}]}, "'input.reshape' needs max_"),
        (
            {
                "max_batch_size": 0,
                "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2], "reshape": {"shape": [3]}}],
            },
            "outputs.y: [2] and [3] have not the same number of elements",
        ),
        ({"parameters": {"TF_SIGNATURE_DEF": {"string_value": "other"}}}, "TF_SIGNATURE_DEF 'other' is not supported"),
        ({"parameters": {"TF_INIT_OPS_FILE": {"string_value": "x"}}}, "TF_INIT_OPS_FILE 'x' is not supported"),
        (
            {
                "max_batch_size": 0,
                "model_warmup": [{"batch_size": 1, "inputs": {"x": {"data_type": "TYPE_FP32", "dims": [1]}}}],
            },
            "'x' needs zero_data, random_data or input_data_file",
        ),
        ({"parameters": {"threads": {"string_value": "many"}}}, "'threads': input should be a valid integer"),
    ],
    ids=str,
)
def test_what_is_no_config_or_would_change_answers_is_refused(config: Any, told: str) -> None:
    message = refused(lambda: config_meaning.read("m", config))
    assert told in message and "\n" not in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "name", "input", "output", "dims", "data_type", "max_batch_size", "version_policy", "specific", "versions",
        "dynamic_batching", "default_queue_policy", "max_queue_size", "parameters", "instance_group", "count", "x",
    ]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_whatever_comes_is_read_or_refused(config: Any) -> None:
    with suppress(ServingError):
        config_meaning.read("m", config)
