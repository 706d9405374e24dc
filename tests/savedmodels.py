"""SavedModels made by script, for tests that need one on disk.

    savedmodels.write("half_plus_two", tmp_path / "half_plus_two/123")

All of them are made at once in a process of their own, so that a test's process need not import TensorFlow, and are
kept under the directory for temporary files by the content of this file: later calls, in any process, copy from there.

    half_plus_two       as TensorFlow Serving's: serving_default, x FP32 [-1, 1] -> y = x / 2 + 2; on `tf.Example`s
                        classify_x_to_y (scores = y), regress_x_to_y (outputs = y), regress_x_to_y2
                        (outputs = x / 2 + 3); regress_x2_to_y3, inputs FP32 [-1, 1] -> outputs = inputs / 2 + 3
    half_plus_two_more  the same with classify_x2_to_y3, inputs FP32 [-1, 1] -> scores = inputs / 2 + 3
    half_plus_three     x FP32 -> y = x / 2 + 3, both without any shape in the signature; tensorflow/serving/regress on
                        `tf.Example`s (outputs = y)
    mlp                 Keras: x FP32 [-1, 784] -> output_0 FP32 [-1, 10]; one hidden layer of 128
    lstm                Keras: x FP32 [-1, -1, 8] -> output_0 FP32 [-1, 4]; any number of steps
    words               text BYTES [-1] -> id INT64 [-1] (a table from an asset file: the 0, cat 1, sat 2, others -1)
                        and upper BYTES [-1]
    defaults            x FP32 [-1, 2], factor FP32 [] (3 if missing), unit BYTES [-1] ([b"m\\0"] if missing)
                        -> y = factor * x, and the unit as it came; `numbers`, the same without the unit
    two_tags            {serve}: y = x; {serve, double}: y = 2 * x; x FP32 [-1, 1]
    every_dtype         in_<dtype> -> out_<dtype>, [-1, 3], for every data type of the protocol
    signatures          serving_default, x FP32 [-1, 2] -> y = 2 * x; of the same form `dice`, y = x + random numbers,
                        and `centred`, y = x - mean(x) over all rows; `shout`, text BYTES [-1] -> loud BYTES [-1];
                        `any_rank`, y = 2 * x for x of any rank; `brain`, y = 2 * x in BF16 [-1, 2]; `inverse`, y = the
                        inverse of x FP32 [-1, 2, 2], for which ONNX has no operator; `narrow`, y = the row of a table
                        of one for x INT64 [-1]
    through             keys BYTES [-1] come back as they are, x FP32 [-1, 2] -> y = x + 1, twice = y under another name
    complex             serving_default, y = 2 * x; `spectrum` takes COMPLEX64, which no protocol here can carry
    large               weights of 64 MB: x FP32 [-1, 4096] -> y FP32 [-1, 4096]
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write(name: str, version_dir: Path) -> Path:
    """Puts the SavedModel `name` into `version_dir`, which it makes. Returns `version_dir`."""
    shutil.copytree(_made() / name, version_dir, dirs_exist_ok=True)
    return version_dir


def _made() -> Path:
    """The directory with all of them; the first call anywhere makes it, which takes some ten seconds."""
    content = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    home = Path(tempfile.gettempdir()) / f"serving-test-savedmodels-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    made = home / content
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            unfinished = home / f".{content}"
            shutil.rmtree(unfinished, ignore_errors=True)
            command = [sys.executable, "-m", "tests.savedmodels", str(unfinished)]
            root = Path(__file__).parents[1]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"the SavedModels for tests could not be made:\n{done.stderr[-4000:]}")
            unfinished.rename(made)
    return made


# From here on: in the process that makes them.


def _make_all(directory: Path) -> None:
    import tensorflow as tf

    makers: Mapping[str, Callable[[Any, Path], None]] = {
        "half_plus_two": _half_plus_two,
        "half_plus_two_more": lambda tf, path: _half_plus_two(tf, path, more=True),
        "half_plus_three": _half_plus_three,
        "mlp": _mlp,
        "lstm": _lstm,
        "words": _words,
        "defaults": _defaults,
        "two_tags": _two_tags,
        "every_dtype": _every_dtype,
        "signatures": _signatures,
        "through": _through,
        "complex": _complex,
        "large": _large,
    }
    for name, make in makers.items():
        make(tf, directory / name)


def _half_plus_two(tf: Any, path: Path, *, more: bool = False) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        a, b, c = (v1.Variable(value, name=name) for name, value in (("a", 0.5), ("b", 2.0), ("c", 3.0)))
        examples = v1.placeholder(tf.string, name="tf_example")
        features = {
            "x": tf.io.FixedLenFeature([1], tf.float32),
            "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        }
        parsed = v1.io.parse_example(examples, features)
        x, x2 = (tf.identity(tf.ensure_shape(parsed[name], [None, 1]), name=name) for name in ("x", "x2"))
        y = tf.add(tf.multiply(a, x), b, name="y")
        y2 = tf.add(tf.multiply(a, x), c, name="y2")
        y3 = tf.add(tf.multiply(a, x2), c, name="y3")
        signatures = {
            "serving_default": _signature(tf, {"x": x}, {"y": y}, "predict"),
            "classify_x_to_y": _signature(tf, {"inputs": examples}, {"scores": y}, "classify"),
            "regress_x_to_y": _signature(tf, {"inputs": examples}, {"outputs": y}, "regress"),
            "regress_x_to_y2": _signature(tf, {"inputs": examples}, {"outputs": y2}, "regress"),
            "regress_x2_to_y3": _signature(tf, {"inputs": x2}, {"outputs": y3}, "regress"),
        }
        if more:
            signatures["classify_x2_to_y3"] = _signature(tf, {"inputs": x2}, {"scores": y3}, "classify")
        session.run(v1.global_variables_initializer())
        _build(tf, path, session, {("serve",): signatures})


def _half_plus_three(tf: Any, path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        a, b = v1.Variable(0.5, name="a"), v1.Variable(3.0, name="b")
        examples = v1.placeholder(tf.string, name="tf_example")
        parsed = v1.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})
        x = v1.placeholder_with_default(parsed["x"], None, name="x")
        y = tf.add(tf.multiply(a, x), b, name="y")
        predict = _signature(tf, {"x": x}, {"y": y}, "predict")
        for info in (*predict.inputs.values(), *predict.outputs.values()):
            info.ClearField("tensor_shape")
        regress = _signature(tf, {"inputs": examples}, {"outputs": y}, "regress")
        session.run(v1.global_variables_initializer())
        signatures = {"serving_default": predict, "tensorflow/serving/regress": regress}
        _build(tf, path, session, {("serve",): signatures})


def _two_tags(tf: Any, path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 1], name="x")
        factor = v1.Variable(1.0, name="factor")
        one, two = tf.multiply(x, factor, name="one"), tf.multiply(x, 2 * factor, name="two")
        session.run(v1.global_variables_initializer())
        graphs = {
            tags: {"serving_default": _signature(tf, {"x": x}, {"y": y}, "predict")}
            for tags, y in {("serve",): one, ("serve", "double"): two}.items()
        }
        _build(tf, path, session, graphs)


def _through(tf: Any, path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        keys, x = v1.placeholder(tf.string, [None], name="keys"), v1.placeholder(tf.float32, [None, 2], name="x")
        y = tf.add(x, 1.0, name="y")
        predict = _signature(tf, {"keys": keys, "x": x}, {"keys": keys, "y": y, "twice": y}, "predict")
        _build(tf, path, session, {("serve",): {"serving_default": predict}})


def _signature(tf: Any, inputs: Any, outputs: Any, method: str) -> Any:
    v1 = tf.compat.v1.saved_model
    inputs, outputs = ({n: v1.build_tensor_info(t) for n, t in side.items()} for side in (inputs, outputs))
    return v1.build_signature_def(inputs, outputs, f"tensorflow/serving/{method}")


def _build(tf: Any, path: Path, session: Any, graphs: Mapping[tuple[str, ...], Any]) -> None:
    """A SavedModel as TensorFlow 1 wrote them."""
    builder = tf.compat.v1.saved_model.Builder(str(path))
    for i, (tags, signatures) in enumerate(graphs.items()):
        add = builder.add_meta_graph if i else builder.add_meta_graph_and_variables
        sess = () if i else (session,)
        add(*sess, list(tags), signature_def_map=signatures, strip_default_attrs=True)
    builder.save()


def _mlp(tf: Any, path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10, activation="softmax")]
    keras.Sequential([keras.Input((784,), name="x"), *layers]).export(path, verbose=False)


def _lstm(tf: Any, path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.LSTM(16), keras.layers.Dense(4)]
    keras.Sequential([keras.Input((None, 8), name="x"), *layers]).export(path, verbose=False)


def _words(tf: Any, path: Path) -> None:
    vocabulary = path.with_name("vocabulary.txt")
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.write_text("the\ncat\nsat\n")
    by_line = tf.lookup.TextFileInitializer(
        str(vocabulary),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(by_line, -1)
    _save(
        tf,
        path,
        module,
        lambda text: {"id": module.table.lookup(text), "upper": tf.strings.upper(text)},
        text=([None], tf.string),
    )
    vocabulary.unlink()


def _defaults(tf: Any, path: Path) -> None:
    three, metre = tf.constant(3.0), tf.constant([b"m\0"])
    x, factor = tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([], tf.float32, "factor")

    @tf.function(input_signature=[x, factor, tf.TensorSpec([None], tf.string, "unit")])
    def scale(x: Any, factor: Any = three, unit: Any = metre) -> Any:
        return {"y": factor * x, "unit": tf.identity(unit)}

    @tf.function(input_signature=[x, factor])
    def numbers(x: Any, factor: Any = three) -> Any:
        return {"y": factor * x}

    functions = {"serving_default": scale, "numbers": numbers}
    tf.saved_model.save(tf.Module(), str(path), signatures=functions)


def _every_dtype(tf: Any, path: Path) -> None:
    names = {"FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64", "BYTES": "string"}
    whole = ("BOOL", *(f"{kind}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)))
    names |= {name: name.lower() for name in whole}
    _save(
        tf,
        path,
        tf.Module(),
        lambda **inputs: {name.replace("in_", "out_"): tf.identity(x) for name, x in inputs.items()},
        **{f"in_{name}": ([None, 3], tf.dtypes.as_dtype(dtype)) for name, dtype in names.items()},
    )


def _signatures(tf: Any, path: Path) -> None:
    module = tf.Module()
    module.two = tf.Variable(2.0)
    module.table = tf.Variable([7.0])
    x = {"x": ([None, 2], tf.float32)}
    functions = {
        "serving_default": _function(tf, lambda x: {"y": module.two * x}, **x),
        "shout": _function(tf, lambda text: {"loud": tf.strings.upper(text)}, text=([None], tf.string)),
        "dice": _function(tf, lambda x: {"y": x + tf.random.uniform(tf.shape(x))}, **x),
        "centred": _function(tf, lambda x: {"y": x - tf.reduce_mean(x, axis=0)}, **x),
        "any_rank": _function(tf, lambda x: {"y": module.two * x}, x=(None, tf.float32)),
        "narrow": _function(tf, lambda x: {"y": tf.gather(module.table, x)}, x=([None], tf.int64)),
        "brain": _function(tf, lambda x: {"y": x + x}, x=([None, 2], tf.bfloat16)),
        "inverse": _function(tf, lambda x: {"y": tf.linalg.inv(x)}, x=([None, 2, 2], tf.float32)),
    }
    tf.saved_model.save(module, str(path), signatures=functions)


def _complex(tf: Any, path: Path) -> None:
    functions = {
        "serving_default": _function(tf, lambda x: {"y": 2 * x}, x=([None, 2], tf.float32)),
        "spectrum": _function(tf, lambda z: {"real": tf.math.real(z)}, z=([None, 2], tf.complex64)),
    }
    tf.saved_model.save(tf.Module(), str(path), signatures=functions)


def _large(tf: Any, path: Path) -> None:
    module = tf.Module()
    module.weights = tf.Variable(tf.eye(4096))
    _save(tf, path, module, lambda x: {"y": tf.matmul(x, module.weights)}, x=([None, 4096], tf.float32))


def _function(tf: Any, call: Callable[..., Any], **inputs: tuple[Any, Any]) -> Any:
    specs = {name: tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()}
    return tf.function(call).get_concrete_function(**specs)


def _save(tf: Any, path: Path, module: Any, call: Callable[..., Any], **inputs: tuple[Any, Any]) -> None:
    tf.saved_model.save(module, str(path), signatures=_function(tf, call, **inputs))


if __name__ == "__main__":
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
    _make_all(Path(sys.argv[1]))
