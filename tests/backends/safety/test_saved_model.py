"""What is found in SavedModels before TensorFlow sees them."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.backends import registry, safety
from serving.backends import tensorflow as backend
from serving.backends.safety import operators
from serving.backends.safety.saved_model import problems
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from tests import savedmodels
from tests.backends.safety import harmful

tf = backend.tf
SavedModel = backend.saved_model_pb2.SavedModel

GOOD = (
    *("half_plus_two", "half_plus_three", "mlp", "lstm", "words", "defaults", "two_tags", "every_dtype"),
    *("signatures", "through", "complex", "large"),
)


def edit(path: Path, change: Callable[[Any], object]) -> Path:
    """Changes the first graph of a SavedModel. Returns `path`."""
    file = path / "saved_model.pb"
    proto = SavedModel.FromString(file.read_bytes())
    change(proto.meta_graphs[0])
    file.write_bytes(proto.SerializeToString())
    return path


def only(path: Path) -> str:
    """The one problem of a SavedModel."""
    (problem,) = problems(path)
    return problem


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_wrong_with_what_tensorflow_exports(name: str, tmp_path: Path) -> None:
    assert problems(savedmodels.write(name, tmp_path)) == []


@pytest.mark.parametrize("op", harmful.CALLS)
def test_an_operator_is_named_with_its_node_and_function(op: str, tmp_path: Path) -> None:
    found = problems(harmful.save(tmp_path, harmful.CALLS[op]))
    assert any(text.startswith(f"{op} (node '") and "of function '__inference_" in text for text in found), found


def test_every_operator_of_the_table(tmp_path: Path) -> None:
    def change(meta: Any) -> None:
        for op in operators.REFUSED:
            meta.graph_def.library.function[0].node_def.add(name=f"a_{op}", op=op)

    found = problems(edit(savedmodels.write("mlp", tmp_path), change))
    assert [text.partition(" ")[0] for text in found] == list(operators.REFUSED)
    assert all(text.endswith(what) for text, what in zip(found, operators.REFUSED.values(), strict=True))


@pytest.mark.parametrize("where", harmful.NESTED)
def test_wherever_it_hides(where: str, tmp_path: Path) -> None:
    found = problems(harmful.save(tmp_path, harmful.NESTED[where]))
    assert found and all("ReadFile" in text and text.endswith("reads files") for text in found), found


def test_what_prints_to_the_servers_own_output_is_fine(tmp_path: Path) -> None:
    def print_it(x: Any) -> Any:
        tf.print("some", x)
        return x + 1.0

    assert problems(harmful.save(tmp_path, print_it)) == []


def test_a_layer_of_keras_that_calls_python(tmp_path: Path) -> None:
    layer = keras.layers.Lambda(lambda x: tf.numpy_function(lambda a: a, [x], tf.float32), output_shape=(3,))
    keras.Sequential([keras.Input((3,)), layer]).export(tmp_path, verbose=False)
    assert "PyFunc" in only(tmp_path) and "runs Python code" in only(tmp_path)


def test_graphs_of_other_tags(tmp_path: Path) -> None:
    path = savedmodels.write("two_tags", tmp_path)
    proto = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    proto.meta_graphs[1].graph_def.node.add(name="hidden", op="WriteFile")
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())
    assert only(path) == "WriteFile (node 'hidden' of the graph [double, serve]) writes files"


# Operators on files that good models have


def test_a_start_operation_that_writes_variables(tmp_path: Path) -> None:
    def start() -> Any:
        return tf.raw_ops.SaveV2(prefix="/other", tensor_names=["w"], shape_and_slices=[""], tensors=[1.0])

    path = harmful.save_v1(tmp_path / "m", start)
    assert only(path).endswith("writes files, and the start operation reaches it")


def test_a_start_operation_really_runs_when_tensorflow_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is not harmless."""
    target = tmp_path / "written"
    path = harmful.save_v1(tmp_path / "m", lambda: tf.raw_ops.WriteFile(filename=str(target), contents="by the model"))
    with pytest.raises(LoadError, match=r"^the model is not just data: WriteFile .*; only the server's operator can"):
        registry.load(path, ModelSpec())
    assert not target.exists()
    monkeypatch.setattr(safety, "allow_unsafe_ops", True)
    registry.load(path, ModelSpec()).close()
    assert target.read_text() == "by the model"


def test_a_restore_that_writes(tmp_path: Path) -> None:
    def change(meta: Any) -> None:
        meta.saver_def.restore_op_name = meta.saver_def.save_tensor_name.partition(":")[0]

    for name in ("mlp", "half_plus_two"):
        path = edit(savedmodels.write(name, tmp_path / name), change)
        assert all("and the restore of variables reaches it" in text for text in problems(path)) and problems(path)


def test_a_restore_from_another_file(tmp_path: Path) -> None:
    def change(meta: Any) -> None:
        for node in meta.graph_def.node:
            if node.op == "RestoreV2":
                node.input[0] = "elsewhere"
        meta.graph_def.node.add(name="elsewhere", op="Const")

    found = problems(edit(savedmodels.write("half_plus_two", tmp_path), change))
    assert found and all(text.endswith("a file that is not known to be of the model's variables") for text in found)


def test_a_signature_that_reaches_the_savers_functions(tmp_path: Path) -> None:
    def change(meta: Any) -> None:
        meta.signature_def["serving_default"].outputs["output_0"].name = meta.saver_def.save_tensor_name

    found = problems(edit(savedmodels.write("mlp", tmp_path), change))
    assert found and all(text.endswith("and a signature reaches it") for text in found)
    assert any("SaveV2" in text and "__inference__traced_save" in text for text in found)


def test_a_table_from_a_file_that_is_no_asset(tmp_path: Path) -> None:
    def change(meta: Any) -> None:
        for node in meta.graph_def.node:
            if node.op == "AssignVariableOp":
                node.input[1] = "elsewhere"
        meta.graph_def.node.add(name="elsewhere", op="Const")

    assert only(edit(savedmodels.write("words", tmp_path), change)).endswith("not known to be among the model's assets")


def test_a_variable_that_something_else_is_put_into(tmp_path: Path) -> None:
    """Under another name, but in the same memory."""

    def alias(meta: Any) -> None:
        handle = next(node.input[0] for node in meta.graph_def.node if node.op == "AssignVariableOp")
        also = meta.graph_def.node.add()
        also.CopyFrom(next(node for node in meta.graph_def.node if node.name == handle))
        also.name = "also"

    assert only(edit(savedmodels.write("words", tmp_path), alias)).endswith("not known to be among the model's assets")


def test_a_function_of_an_object_whose_file_is_no_asset(tmp_path: Path) -> None:
    """`tf.saved_model.load`, which the conversion to ONNX uses, runs these functions itself."""

    def change(meta: Any) -> None:
        for node in meta.object_graph_def.nodes:
            if node.WhichOneof("kind") == "asset":
                node.constant.operation = "elsewhere"

    assert only(edit(savedmodels.write("words", tmp_path), change)).endswith("not known to be among the model's assets")


def test_a_signature_may_not_fill_tables(tmp_path: Path) -> None:
    """The loader feeds the names of assets to the start operation alone."""

    def change(meta: Any) -> None:
        name = next(n.name for n in meta.graph_def.node if "initializer" in n.attr["f"].func.name)
        meta.signature_def["serving_default"].outputs["id"].name = f"{name}:0"

    found = problems(edit(savedmodels.write("words", tmp_path), change))
    assert any(text.endswith("reads files, and a signature reaches it") for text in found)


@pytest.mark.parametrize("file", ["../../secret", "/etc/passwd", "link"])
def test_assets_outside_of_the_model(file: str, tmp_path: Path) -> None:
    def change(meta: Any) -> None:
        meta.asset_file_def[0].filename = file

    path = edit(savedmodels.write("words", tmp_path / "m"), change)
    (path / "assets/link").symlink_to(tmp_path)
    assert only(path) == f"its asset '{file}' is outside of its directory"


def test_a_table_from_an_asset_of_tensorflow_1(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("the\ncat\n")
    with tf.Graph().as_default(), harmful.v1.Session() as session:
        text = harmful.v1.placeholder(tf.string, [None])
        by_line = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
                                                tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)  # fmt: skip
        number = tf.lookup.StaticHashTable(by_line, -1).lookup(text)
        session.run(harmful.v1.tables_initializer())
        harmful.v1.saved_model.simple_save(
            session, str(tmp_path / "m"), {"x": text}, {"y": number}, harmful.v1.tables_initializer()
        )
    shutil.copytree(tmp_path / "m", tmp_path / "moved")
    assert problems(tmp_path / "moved") == []


# Files that are not as TensorFlow writes them


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 10,
        b"\x12\x05ab",
        b"\x13",  # a group
        b"\x92\x80\x80\x80\x10\x00",  # field 2 to a reader that drops what is beyond 32 bits
        b"\x12\x04\x12\x02\x0a\x07",  # a node of more bytes than there are
    ],
)
def test_damage(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ValueError, match="byte"):
        problems(tmp_path)
    with pytest.raises(LoadError, match=r"^TensorFlow cannot load it: saved_model\.pb cannot be read as a SavedModel"):
        safety.check("serving.backends.tensorflow", tmp_path)


def test_two_operators_of_one_node(tmp_path: Path) -> None:
    """Whichever counts for others, it is refused."""
    node = b"\x0a\x01n\x12\x03Add\x12\x08ReadFile"
    graph = b"\x0a" + bytes([len(node)]) + node
    meta = b"\x12" + bytes([len(graph)]) + graph
    (tmp_path / "saved_model.pb").write_bytes(b"\x12" + bytes([len(meta)]) + meta)
    with pytest.raises(ValueError, match="two operators"):
        problems(tmp_path)


def test_a_graph_in_two_pieces_is_one(tmp_path: Path) -> None:
    """As protobuf has it: what comes later is added."""
    path = savedmodels.write("half_plus_two", tmp_path)
    more = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]
    extra = type(more)()
    extra.graph_def.node.add(name="late", op="ReadFile")
    data = more.SerializeToString() + extra.SerializeToString()
    (path / "saved_model.pb").write_bytes(b"\x12" + _varint(len(data)) + data)
    assert only(path) == "ReadFile (node 'late' of the graph [serve]) reads files"


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("words")
    return (savedmodels.write("words", path) / "saved_model.pb").read_bytes()


@given(data=st.data())
def test_a_damaged_file_ends_in_an_error_or_an_answer(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.mkdir(exist_ok=True)
    (path / "saved_model.pb").write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with suppress(ValueError):
        assert isinstance(problems(path), list)


def _operators(proto: Any) -> set[str]:
    graphs = [meta.graph_def for meta in proto.meta_graphs]
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for graph in graphs for function in graph.library.function for node in function.node_def]
    return {node.op for node in nodes}


@given(data=st.data())
def test_protobuf_sees_nothing_that_was_not_seen_here(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """An operator that TensorFlow's reader finds is found here too, or the file is refused, whatever was done to it."""
    meta = SavedModel().meta_graphs.add()
    meta.graph_def.node.add(name="a", op="ReadFile", input=["b"])
    meta.graph_def.node.add(name="b", op="Const").attr["value"].s = b"/etc/passwd"
    function = meta.graph_def.library.function.add()
    function.signature.name = "f"
    function.node_def.add(name="c", op="WriteFile")
    body = bytearray(meta.SerializeToString())
    damaged = bytearray(b"\x12" + _varint(len(body))) + body
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        change = data.draw(st.sampled_from(("set", "insert", "remove", "repeat")))
        if change == "set":
            damaged[at] = data.draw(st.integers(0, 255))
        elif change == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=6))
        elif change == "remove" and len(damaged) > 1:
            del damaged[at]
        else:
            damaged[at:at] = damaged[at : at + data.draw(st.integers(1, 30))]
    try:
        seen = _operators(SavedModel.FromString(bytes(damaged))) & operators.REFUSED.keys()
    except Exception:  # of protobuf: TensorFlow would not load it
        return
    path = tmp_path_factory.getbasetemp() / "odd"
    path.mkdir(exist_ok=True)
    (path / "saved_model.pb").write_bytes(damaged)
    with suppress(ValueError):
        found = problems(path)
        assert all(any(text.startswith(f"{op} (node") for text in found) for op in seen), (seen, found)
