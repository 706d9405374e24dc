"""SavedModels that do more than compute. Importing this imports TensorFlow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.backends.tensorflow import tf

v1 = tf.compat.v1


def save(path: Path, call: Callable[..., Any]) -> Path:
    """A SavedModel with one signature: x FP32 [-1] -> y, as `call` says."""
    function = tf.function(lambda x: {"y": call(x)}).get_concrete_function(x=tf.TensorSpec([None], tf.float32, "x"))
    tf.saved_model.save(tf.Module(), str(path), signatures=function)
    return path


def save_v1(path: Path, start: Callable[[], Any]) -> Path:
    """One as TensorFlow 1 wrote them, with an operation that runs when it is loaded."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        weight = v1.Variable(1.0, name="weight")
        y = tf.multiply(weight, x, name="y")
        main = start()
        session.run(v1.global_variables_initializer())
        build = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def({"x": build(x)}, {"y": build(y)}, "tensorflow/serving/predict")
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=main)
        builder.save()
    return path


CALLS: dict[str, Callable[[Any], Any]] = {
    "ReadFile": lambda x: tf.io.read_file("/etc/hostname") + tf.strings.as_string(x),
    "WriteFile": lambda x: _after(tf.raw_ops.WriteFile(filename="/nowhere/file", contents="text"), x),
    "MatchingFiles": lambda x: tf.io.matching_files("/etc/*"),
    "EagerPyFunc": lambda x: tf.py_function(lambda a: a, [x], tf.float32),
    "PyFunc": lambda x: tf.numpy_function(lambda a: a, [x], tf.float32),
    "PyFuncStateless": lambda x: tf.numpy_function(lambda a: a, [x], tf.float32, stateful=False),
    "PrintV2": lambda x: _after(tf.print(x, output_stream="file:///nowhere/file"), x),
    "TextLineDataset": lambda x: _count(tf.data.TextLineDataset("/etc/hostname")),
    "TFRecordDataset": lambda x: _count(tf.raw_ops.TFRecordDataset(filenames="f", compression_type="", buffer_size=1)),
    "FixedLengthRecordDatasetV2": lambda x: _count(tf.data.FixedLengthRecordDataset("/etc/hostname", 1)),
    "CacheDatasetV2": lambda x: _count(tf.data.Dataset.range(3).cache("/nowhere/cache")),
    "DatasetFromGraph": lambda x: tf.raw_ops.DatasetFromGraph(graph_def="any"),
    "WholeFileReaderV2": lambda x: _after(tf.raw_ops.WholeFileReaderV2(), x),
    "ImmutableConst": lambda x: tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[1], memory_region_name="/dev/null"),
    "FixedUnigramCandidateSampler": lambda x: _sample(vocab_file="/etc/hostname"),
    "RestoreV2": lambda x: tf.raw_ops.RestoreV2(prefix="/other", tensor_names=["w"], shape_and_slices=[""],
                                                dtypes=[tf.float32])[0],
    "SaveV2": lambda x: _after(tf.raw_ops.SaveV2(prefix="/other", tensor_names=["w"], shape_and_slices=[""],
                                                 tensors=[x]), x),
    "MergeV2Checkpoints": lambda x: _after(tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=["a"],
                                                                         destination_prefix="b"), x),
}  # fmt: skip


def _after(done: Any, x: Any) -> Any:
    with tf.control_dependencies([done] if done is not None else []):
        return tf.identity(x)


def _count(dataset: Any) -> Any:
    dataset = dataset if isinstance(dataset, tf.data.Dataset) else tf.data.experimental.from_variant(
        dataset, tf.TensorSpec([], tf.string)
    )  # fmt: skip
    return dataset.reduce(0, lambda n, _: n + 1)


def _sample(**more: Any) -> Any:
    return tf.raw_ops.FixedUnigramCandidateSampler(
        true_classes=[[1]], num_true=1, num_sampled=1, unique=True, range_max=4, **more
    )[0]


# Where an operator can hide
NESTED: dict[str, Callable[[Any], Any]] = {
    "cond": lambda x: tf.cond(tf.size(x) > 5, lambda: tf.io.read_file("/f"), lambda: tf.constant("")),
    "while": lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, t: (i + 1, t + tf.io.read_file("/f")), [0, ""])[1],
    "map": lambda x: tf.map_fn(lambda one: tf.io.read_file("/f"), x, fn_output_signature=tf.string),
    "case": lambda x: tf.switch_case(tf.size(x), [lambda: tf.constant(""), lambda: tf.io.read_file("/f")]),
    "function": lambda x: tf.function(tf.function(lambda: tf.io.read_file("/f")))(),
    "dataset": lambda x: tf.data.Dataset.from_tensors("/f").map(tf.io.read_file).reduce("", lambda a, b: a + b),
    "unused": lambda x: (tf.io.read_file("/f"), x)[1],
}
