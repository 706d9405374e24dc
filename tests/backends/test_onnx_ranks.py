"""Reading from a file which tensors have no shape."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from serving.backends.onnx_ranks import without_shape
from tests import models


def graph(shapes: dict[str, list[int | str] | None], weights: int = 0) -> onnx.ModelProto:
    """Inputs a.., as `shapes` says, and outputs by the same names with `_out`."""

    def declare(suffix: str) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n + suffix, TensorProto.FLOAT, s) for n, s in shapes.items()]

    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in shapes]
    constants = [numpy_helper.from_array(np.zeros(weights, np.float32), "w")] if weights else []
    value_info = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
    return helper.make_model(
        helper.make_graph(nodes, "g", declare(""), declare("_out"), constants, value_info=value_info)
    )


def test_only_inputs_and_outputs_without_a_shape(tmp_path: Path) -> None:
    proto = graph({"any": None, "scalar": [], "row": ["n", 3], "späte": None}, weights=1000)
    assert without_shape(models.save(proto, tmp_path / "m.onnx")) == {"any", "any_out", "späte", "späte_out"}


def test_what_has_no_inputs(tmp_path: Path) -> None:
    assert without_shape(models.save(graph({}), tmp_path / "m.onnx")) == frozenset()


@given(data=st.data())
def test_a_damaged_file_ends_in_an_error_or_an_answer(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Never in a loop, and never beyond the file."""
    whole = bytearray(graph({"any": None, "row": ["n", 3]}, weights=3).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = whole[: data.draw(st.integers(1, len(whole)))]
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(cut)
    with suppress(ValueError):
        assert isinstance(without_shape(path), frozenset)


@pytest.mark.parametrize("content", [b"\x3a\xff", b"\x3a\x05ab", b"\x3b", b"\x80" * 11, b"\x39\x00"])
def test_what_is_no_file_of_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="at byte"):
        without_shape(tmp_path / "m.onnx")
