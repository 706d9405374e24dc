"""Triton's ModelConfig: what it says of a loaded version, and what one that a client sends means."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.backends import registry
from serving.core import dtypes
from serving.core.declared import Declared, Sample, SampleInput
from serving.core.errors import ErrorKind, ServingError
from serving.core.padding import Padding
from serving.core.spec import Latest, ModelSpec
from serving.core.types import Signature, TensorSpec
from serving.core.validate import Contract
from serving.protocols.oip import model_config
from serving.repository.version import Version
from tests.batching.control import on_loop
from tests.protocols.build import refused
from tests.protocols.oip.management import serving, value
from tests.repository.build import version

SIMPLE = {
    "name": "simple",
    "platform": "onnxruntime_onnx",
    "backend": "onnxruntime",
    "runtime": "",
    "version_policy": {"latest": {"num_versions": 1}},
    "max_batch_size": 8,
    "input": [
        {
            "name": name,
            "data_type": "TYPE_INT32",
            "format": "FORMAT_NONE",
            "dims": [16],
            "is_shape_tensor": False,
            "allow_ragged_batch": False,
            "optional": False,
            "is_non_linear_format_io": False,
        }
        for name in ("INPUT0", "INPUT1")
    ],
    "output": [
        {
            "name": name,
            "data_type": "TYPE_INT32",
            "dims": [16],
            "label_filename": "",
            "is_shape_tensor": False,
            "is_non_linear_format_io": False,
        }
        for name in ("OUTPUT0", "OUTPUT1")
    ],
    "batch_input": [],
    "batch_output": [],
    "optimization": {
        "priority": "PRIORITY_DEFAULT",
        "input_pinned_memory": {"enable": True},
        "output_pinned_memory": {"enable": True},
        "gather_kernel_buffer_threshold": 0,
        "eager_batching": False,
    },
    "dynamic_batching": {
        "preferred_batch_size": [8],
        "max_queue_delay_microseconds": 0,
        "preserve_ordering": False,
        "priority_levels": 0,
        "default_priority_level": 0,
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": 0,
            "allow_timeout_override": True,
            "max_queue_size": 4096,
        },
        "priority_queue_policy": {},
    },
    "instance_group": [
        {
            "name": "simple_0",
            "kind": "KIND_CPU",
            "count": 1,
            "gpus": [],
            "secondary_devices": [],
            "profile": [],
            "passive": False,
            "host_policy": "",
        }
    ],
    "default_model_filename": "model.onnx",
    "cc_model_filenames": {},
    "metric_tags": {},
    "parameters": {},
    "model_warmup": [],
}


def loaded(spec: ModelSpec | None = None, signature: Signature | None = None) -> Version:
    """A version as it would be loaded under these settings, of a model that batches."""
    made = version(1, spec=spec)
    tensors = {"x": TensorSpec("x", dtypes.FP32, (-1, 4))}, {"y": TensorSpec("y", dtypes.FP32, (-1, 4))}
    made.contract = Contract("m", signature or Signature(*tensors), made.spec.max_batch_size)
    made.platform = "onnxruntime_onnx"
    return made


# What is said


@on_loop
async def test_every_field_that_triton_fills_in(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.rest.load("simple", json.dumps({"parameters": {"config": '{"max_batch_size":8}'}}).encode())
        for number in (None, "1"):
            told = value(await served.rest.model_config("simple", number))
            assert told == SIMPLE and list(told) == list(SIMPLE)
        over_grpc = (await served.call("ModelConfig", name="simple")).config
        assert over_grpc == model_config.message(SIMPLE)
        assert (over_grpc.max_batch_size, over_grpc.input[0].dims, over_grpc.input[0].data_type) == (8, [16], 8)


@pytest.mark.parametrize(
    ("model", "number", "kind"),
    [("nosuch", None, ErrorKind.NOT_FOUND), ("simple", "9", ErrorKind.NOT_FOUND), ("simple", "x", ErrorKind.INVALID)],
)
@on_loop
async def test_of_what_is_not_there(tmp_path: Path, model: str, number: str | None, kind: ErrorKind) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(ServingError) as over_rest:
            await served.rest.model_config(model, number)
        with pytest.raises(ServingError) as over_grpc:
            await served.call("ModelConfig", name=model, version=number or "")
        assert over_rest.value.kind is over_grpc.value.kind is kind


@on_loop
async def test_settings_are_told() -> None:
    spec = ModelSpec(
        versions=(3, 5),
        max_batch_size=16,
        max_queue_delay_ms=1.5,
        queue_timeout_ms=250,
        max_queue_rows=100,
        instances=2,
        threads=4,
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
        version_labels={"stable": 3},
        class_labels={"y": "names.txt"},
    )
    told = model_config.of_version(loaded(spec))
    assert told["version_policy"] == {"specific": {"versions": [3, 5]}}
    assert told["dynamic_batching"]["max_queue_delay_microseconds"] == 1500
    assert told["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == 250_000
    assert told["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 100
    assert (told["instance_group"][0]["count"], told["instance_group"][0]["kind"]) == (2, "KIND_GPU")
    assert told["output"][0]["label_filename"] == "names.txt"
    assert told["parameters"] == {
        "threads": {"string_value": "4"},
        "providers": {"string_value": '["CUDAExecutionProvider","CPUExecutionProvider"]'},
        "version_labels": {"string_value": '{"stable":3}'},
    }


@on_loop
async def test_a_model_without_a_batch_axis_has_whole_shapes() -> None:
    tensors = {"x": TensorSpec("x", dtypes.BYTES, (3, -1), optional=True)}, {"y": TensorSpec("y", dtypes.BF16, None)}
    told = model_config.of_version(loaded(ModelSpec(max_batch_size=0), Signature(*tensors)))
    assert told["max_batch_size"] == 0 and "dynamic_batching" not in told
    assert [(t["data_type"], t["dims"]) for t in (*told["input"], *told["output"])] == [
        ("TYPE_STRING", [3, -1]),
        ("TYPE_BF16", [-1]),
    ]
    assert told["input"][0]["optional"]


@on_loop
async def test_what_clients_see_in_another_shape() -> None:
    spec = ModelSpec.model_validate(
        {
            "max_batch_size": 1,
            "inputs": {"x": {"datatype": "FP32", "shape": [-1, 3, 4], "format": "NHWC"}},
            "outputs": {"y": {"datatype": "FP32", "shape": [-1, 6], "reshape": [-1, 6, 1]}},
        }
    )
    for axis in (-1, 1):  # a batch axis, and one that the model fixes
        tensors = {"x": TensorSpec("x", dtypes.FP32, (axis, 3, 4))}, {"y": TensorSpec("y", dtypes.FP32, (axis, 6))}
        made = loaded(spec, Signature(*tensors))
        made.contract = Contract("m", made.contract.signature, 1 if axis == -1 else 0)
        told = model_config.of_version(made)
        assert told["input"][0]["format"] == "FORMAT_NHWC" and "reshape" not in told["input"][0]
        assert told["output"][0]["reshape"] == {"shape": [6, 1] if axis == -1 else [1, 6, 1]}
        meant = model_config.read("m", json.loads(json.dumps(told))).spec
        if axis == -1:
            assert (meant.inputs, meant.outputs) == (spec.inputs, spec.outputs)


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.name)
def test_every_datatype_there_and_back(dtype: dtypes.DType) -> None:
    tensors = {"x": TensorSpec("x", dtype, (-1, 4))}, {"y": TensorSpec("y", dtype, (-1,))}

    @on_loop
    async def config() -> None:
        told.update(model_config.of_version(loaded(signature=Signature(*tensors))))

    told: dict[str, Any] = {}
    config()
    assert told["output"][0]["dims"] == []
    meant = model_config.read("m", told)
    assert meant.spec.inputs == {"x": Declared(datatype=dtype.name, shape=(-1, 4))}
    assert meant.spec.outputs == {"y": Declared(datatype=dtype.name)}


SPECS = st.builds(
    ModelSpec,
    versions=st.sampled_from(["all", Latest(latest=3), (1, 9)]),
    max_batch_size=st.integers(1, 512),
    max_queue_delay_ms=st.integers(0, 60_000_000).map(lambda us: us / 1000),
    queue_timeout_ms=st.none() | st.integers(1, 10**9).map(lambda us: us / 1000),
    max_queue_rows=st.integers(1, 10**6),
    instances=st.integers(1, 256),
    threads=st.integers(1, 8),
    providers=st.sampled_from([("CPUExecutionProvider",), ("CUDAExecutionProvider", "CPUExecutionProvider")]),
    version_labels=st.dictionaries(st.text("abc", min_size=1), st.integers(1, 9), max_size=2),
    class_labels=st.sampled_from([{}, {"y": "labels.txt"}]),
    tags=st.sampled_from([("serve",), ("serve", "gpu")]),
    accelerate=st.sampled_from([None, "onnx"]),
    accelerate_tolerance=st.sampled_from([1e-4, 0.5]),
    warmup=st.booleans(),
    file=st.sampled_from([None, "net.onnx"]),
    max_request_rows=st.sampled_from([None, 1000]),
    padding=st.sampled_from([{}, {"x": Padding(sizes=(4, 8), outputs={"y": 1})}]),
    batching=st.sampled_from(["continuous", "adaptive"]),
    slo_ms=st.sampled_from([None, 2.5]),
    share=st.sampled_from([1.0, 2.0]),
    samples=st.sampled_from(
        [(), (Sample(name="s", inputs={"x": SampleInput(datatype="FP32", shape=(2, 4), file="warmup/f")}, runs=2),)]
    ),
)


@given(SPECS)
def test_what_is_told_means_the_same_settings(spec: ModelSpec) -> None:
    @on_loop
    async def config() -> None:
        told.update(model_config.of_version(loaded(spec)))

    told: dict[str, Any] = {}
    config()
    meant = model_config.read("m", json.loads(json.dumps(told)))
    assert meant.ignored == ()
    same = meant.spec.model_copy(update={"backend": None, "inputs": {}, "outputs": {}})
    assert same == spec


# What is meant


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
    read = model_config.read("m", config)
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
    assert sorted(model_config.read("m", config).ignored) == sorted(ignored)


def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is a matter of what is installed."""
    monkeypatch.setattr(registry, "has_gpu_runtime", lambda: True)
    config: dict[str, Any] = {"instance_group": [{"kind": "KIND_GPU", "count": 2}]}
    meant = model_config.read("m", config)
    assert meant.spec == ModelSpec(providers=("CUDAExecutionProvider", "CPUExecutionProvider"), instances=2)
    assert meant.ignored == ()
    own = {"parameters": {"providers": {"string_value": '["TensorrtExecutionProvider"]'}}}
    assert model_config.read("m", config | own).spec.providers == ("TensorrtExecutionProvider",)
    assert "providers" not in model_config.read("m", config | {"backend": "tensorflow"}).spec.model_fields_set
    assert "a version has one model" in refused(
        lambda: model_config.read("m", config | {"cc_model_filenames": {"7.5": "a.onnx"}})
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
    meant = model_config.read(
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
    message = refused(lambda: model_config.read("m", config))
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
        model_config.read("m", config)
