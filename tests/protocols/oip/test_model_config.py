"""Triton's ModelConfig of a loaded version; and that it means what it says, when a client sends it back."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.declared import Declared, Sample, SampleInput
from serving.core.errors import ErrorKind, ServingError
from serving.core.padding import Padding
from serving.core.spec import Latest, ModelSpec
from serving.core.types import Signature, TensorSpec
from serving.core.validate import Contract
from serving.protocols.oip import config_meaning, model_config
from serving.repository.version import Version
from tests.batching.control import on_loop
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
        meant = config_meaning.read("m", json.loads(json.dumps(told))).spec
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
    meant = config_meaning.read("m", told)
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
    meant = config_meaning.read("m", json.loads(json.dumps(told)))
    assert meant.ignored == ()
    same = meant.spec.model_copy(update={"backend": None, "inputs": {}, "outputs": {}})
    assert same == spec
