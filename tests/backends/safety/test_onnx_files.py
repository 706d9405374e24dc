"""What is found in ONNX files before ONNX Runtime sees them."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from serving.backends import registry, safety
from serving.backends.safety.onnx_files import problems
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE
from tests import models

OUTSIDE = "outside of the model's directory"


def external(location: str, name: str = "w") -> TensorProto:
    """Four floats in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def adds(location: str) -> onnx.ModelProto:
    """y = x + w, with w in another file."""
    proto = models.model(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [models.tensor("x", "FP32", ("batch", 4))],
        [models.tensor("y", "FP32", ("batch", 4))],
        {"w": np.zeros(4, np.float32)},
    )
    proto.graph.initializer[0].CopyFrom(external(location))
    return proto


def found(proto: onnx.ModelProto, directory: Path) -> list[str]:
    return problems(models.save(proto, directory / "model.onnx"))


# Files beside the model


@pytest.mark.parametrize("location", ["w.bin", "weights/w.bin", "./w.bin", "w..bin"])
def test_files_beside_the_model_are_its_own(location: str, tmp_path: Path) -> None:
    path = models.save(adds(location), tmp_path / "m/1/model.onnx")
    assert problems(path) == []
    (path.parent / location).parent.mkdir(exist_ok=True)
    (path.parent / location).write_bytes(np.arange(4, dtype=np.float32).tobytes())
    session = registry.load(path.parent, ModelSpec())
    assert session.run({"x": np.zeros((1, 4), np.float32)}, ["y"])["y"].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../w.bin", "weights/../../w.bin", "link", "weights/link/w.bin", "", "C:\\w.bin", "a\0b",
     "*/_ORT_MEM_ADDR_/*", "loop"],
)  # fmt: skip
def test_files_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    path = models.save(adds(location), tmp_path / "m/1/model.onnx")
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (path.parent / "weights").mkdir()
    (path.parent / "link").symlink_to(tmp_path / "w.bin")
    (path.parent / "weights/link").symlink_to(tmp_path)
    (path.parent / "loop").symlink_to(path.parent / "loop")
    assert problems(path) == [f"the values of tensor 'w' are in '{location}', {OUTSIDE}"]
    with pytest.raises(LoadError, match=r"^the model is not just data: the values of tensor 'w' are in ") as refused:
        registry.load(path.parent, ModelSpec())
    assert not refused.value.retry and str(refused.value).endswith(safety.REMEDY)


def test_a_model_whose_files_are_all_links_into_one_directory(tmp_path: Path) -> None:
    """As caches of downloads and mounted volumes have them."""
    blobs = tmp_path / "blobs"
    models.save(adds("w.bin"), blobs / "aaaa")
    (blobs / "bbbb").write_bytes(bytes(16))
    version = tmp_path / "m/1"
    version.mkdir(parents=True)
    (version / "model.onnx").symlink_to(blobs / "aaaa")
    (version / "w.bin").symlink_to(blobs / "bbbb")
    assert problems(version / "model.onnx") == []


def in_a_branch(proto: onnx.ModelProto, tensor: TensorProto) -> None:
    branch = helper.make_graph([], "then", [], [], [tensor])
    inner = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=branch)], "outer", [], [])
    proto.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner))


def in_a_constant(proto: onnx.ModelProto, tensor: TensorProto) -> None:
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def in_a_list_of_graphs(proto: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Any", [], ["c"])
    graph = helper.make_graph([], "g", [], [], [tensor])
    node.attribute.append(onnx.AttributeProto(name="all", type=onnx.AttributeProto.GRAPHS, graphs=[graph]))
    proto.graph.node.append(node)


def in_a_list_of_tensors(proto: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Any", [], ["c"])
    node.attribute.append(onnx.AttributeProto(name="all", type=onnx.AttributeProto.TENSORS, tensors=[tensor]))
    proto.graph.node.append(node)


def in_a_function(proto: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    proto.functions.append(helper.make_function("own", "F", [], ["y"], [node], [helper.make_opsetid("", 21)]))


def as_the_default_of_a_function(proto: onnx.ModelProto, tensor: TensorProto) -> None:
    function = helper.make_function("own", "F", [], [], [], [helper.make_opsetid("", 21)])
    function.attribute_proto.append(helper.make_attribute("value", tensor))
    proto.functions.append(function)


def as_sparse_values(proto: onnx.ModelProto, tensor: TensorProto) -> None:
    proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, dims=[9]))


def as_sparse_indices(proto: onnx.ModelProto, tensor: TensorProto) -> None:
    values = numpy_helper.from_array(np.zeros(4, np.float32), "v")
    sparse = onnx.SparseTensorProto(values=values, indices=tensor, dims=[9])
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))


def for_training(proto: onnx.ModelProto, tensor: TensorProto) -> None:
    proto.training_info.add(algorithm=helper.make_graph([], "a", [], [], [tensor]))


@pytest.mark.parametrize(
    "put",
    [
        in_a_branch,
        in_a_constant,
        in_a_list_of_graphs,
        in_a_list_of_tensors,
        in_a_function,
        as_the_default_of_a_function,
        as_sparse_values,
        as_sparse_indices,
        for_training,
    ],
)
def test_wherever_a_tensor_is(put: Callable[[onnx.ModelProto, TensorProto], None], tmp_path: Path) -> None:
    proto = models.identity()
    put(proto, external("../w.bin", "hidden"))
    assert found(proto, tmp_path) == [f"the values of tensor 'hidden' are in '../w.bin', {OUTSIDE}"]


# Operators


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"])
def test_operators_that_onnx_runtime_has(domain: str, tmp_path: Path) -> None:
    proto = models.identity()
    proto.graph.node.append(helper.make_node("Any", ["x"], ["z"], domain=domain))
    assert found(proto, tmp_path) == []


def test_operators_of_a_library(tmp_path: Path) -> None:
    proto = models.identity()
    proto.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    proto.graph.node[0].domain = "ai.onnx.contrib"
    proto.graph.node[0].op_type = "PyOp"
    proto.graph.node[0].name = "call"
    path = models.save(proto, tmp_path / "model.onnx")
    with pytest.raises(LoadError, match=r"operator PyOp \(node 'call'\) is of the domain 'ai\.onnx\.contrib'"):
        registry.load(tmp_path, ModelSpec())
    assert len(problems(path)) == 1


def test_no_library_is_there_if_an_operator_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here ever registers one."""
    monkeypatch.setattr(safety, "allow_unsafe_ops", True)
    proto = models.identity()
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[0].domain = "own"
    models.save(proto, tmp_path / "model.onnx")
    with pytest.raises(LoadError, match=r"^ONNX Runtime cannot load model\.onnx: .*own"):
        registry.load(tmp_path, ModelSpec())


def test_functions_that_the_model_brings_along(tmp_path: Path) -> None:
    node = helper.make_node("Neg", ["a"], ["b"])
    proto = models.identity()
    proto.functions.append(helper.make_function("own", "Minus", ["a"], ["b"], [node], [helper.make_opsetid("", 21)]))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[0].CopyFrom(helper.make_node("Minus", ["x"], ["y"], domain="own"))
    models.save(proto, tmp_path / "model.onnx")
    session = registry.load(tmp_path, ModelSpec())
    assert list(session.signatures) == [DEFAULT_SIGNATURE]
    assert session.run({"x": np.ones((1, 4), np.float32)}, ["y"])["y"].tolist() == [[-1] * 4]


def test_programs_of_a_devices_maker(tmp_path: Path) -> None:
    proto = models.identity()
    proto.graph.node.append(helper.make_node("EPContext", ["x"], ["z"], name="engine", domain="com.microsoft"))
    assert found(proto, tmp_path) == [
        "operator EPContext (node 'engine') runs a program that is hidden in a value or a file"
    ]


# Damage


def test_graphs_within_graphs_without_end(tmp_path: Path) -> None:
    graph = b""
    for _ in range(300):  # a node, with an attribute, with a graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            graph = tag + _varint(len(graph)) + graph
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + _varint(len(graph)) + graph)
    with pytest.raises(ValueError, match="nested too deeply"):
        problems(tmp_path / "model.onnx")


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def test_an_empty_file_is_for_the_runtime_to_judge(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    assert problems(tmp_path / "model.onnx") == []


@given(data=st.data())
def test_a_damaged_file_ends_in_an_error_or_an_answer(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    proto = adds("w.bin")
    in_a_branch(proto, external("v.bin"))
    damaged = bytearray(proto.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))])
    with suppress(ValueError):
        result: Any = problems(path)
        assert isinstance(result, list)
