"""Every example is a request that the model takes, and every printed command sends it, as a shell reads the command."""

import json
import subprocess
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.spec import ModelSpec
from serving.core.types import InferRequest, Signature, Tensors, TensorSpec
from serving.core.validate import Contract
from serving.protocols import examples
from serving.protocols.oip import rest_codec
from serving.repository.catalog import Catalog, CatalogModel
from serving.repository.disk.layout import FoundVersion
from serving.repository.version import Version
from tests.protocols.build import dtype_id

BASE = "http://127.0.0.1:8000"


def version_of(
    *inputs: tuple[str, DType, tuple[int, ...]],
    model: str = "m",
    sample: Tensors | None = None,
    max_batch_size: int = 64,
) -> Version:
    """A version as it is after loading, without its runtime."""
    specs = {name: TensorSpec(name, dtype, shape) for name, dtype, shape in inputs}
    version = Version(model, FoundVersion(1, Path("nowhere"), (), 0.0, False), ModelSpec())
    version.contract = Contract(model, Signature(specs, {}), max_batch_size)
    version.sample = sample
    return version


def catalog_of(*versions: Version) -> Catalog:
    models = {v.model: CatalogModel(v.model, {v.number: v}, v) for v in versions}
    return Catalog(MappingProxyType(models), ready=True)


def ran(command: str, directory: Path) -> tuple[list[str], bytes]:
    """What a shell makes of a printed command: the arguments of curl, and what it reads."""
    script = f"curl() {{ printf '%s\\0' \"$@\" >args; cat >read; }}; {command}"
    subprocess.run(["bash", "-c", script], cwd=directory, stdin=subprocess.DEVNULL, check=True, timeout=60)
    return (directory / "args").read_text().split("\0")[:-1], (directory / "read").read_bytes()


def sent(version: Version, directory: Path) -> tuple[str, InferRequest]:
    """The path that the printed command asks, and the request that it sends."""
    args, stdin = ran(examples.curl(version, BASE), directory)
    urls = [a for a in args if a.startswith(BASE)]
    assert len(urls) == 1, args
    header_length = None
    if "-d" in args:
        data = args[args.index("-d") + 1].encode()
    else:
        assert args[args.index("--data-binary") + 1] == "@-"
        data = stdin
        header_length = args[args.index("-H") + 1].removeprefix("Inference-Header-Content-Length: ").encode()
    size = rest_codec.header_size(header_length, len(data))
    request, _ = rest_codec.decode(version.model, None, data, size)
    return urls[0].removeprefix(BASE), request


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
def test_a_request_for_every_type(dtype: DType, tmp_path: Path) -> None:
    version = version_of(("x", dtype, (-1, 3)))
    path, request = sent(version, tmp_path)
    assert path == "/v2/models/m/infer"
    assert version.contract.check(request) == 1
    body = examples.infer_body(version)
    if dtype in (dtypes.FP16, dtypes.BF16):
        assert body is None  # JSON cannot carry it, so the command sends raw bytes
    else:
        again, _ = rest_codec.decode("m", None, json.dumps(body).encode(), None)
        assert version.contract.check(again) == 1


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (-1, 2, 0), (-1, -1, -1)])
@pytest.mark.parametrize("dtype", [dtypes.FP32, dtypes.BYTES], ids=dtype_id)
def test_a_request_for_every_shape(dtype: DType, shape: tuple[int, ...], tmp_path: Path) -> None:
    version = version_of(("x", dtype, shape), max_batch_size=0)
    assert version.contract.check(sent(version, tmp_path)[1]) == 1


@pytest.mark.parametrize("dtype", [dtypes.FP32, dtypes.BYTES], ids=dtype_id)
def test_a_long_request_is_sent_as_raw_bytes(dtype: DType, tmp_path: Path) -> None:
    version = version_of(("x", dtype, (-1, 224, 224)), ("y", dtypes.INT8, (-1, 1)))
    assert examples.infer_body(version) is None
    assert len(examples.curl(version, BASE)) < 1000
    assert version.contract.check(sent(version, tmp_path)[1]) == 1


def test_several_inputs(tmp_path: Path) -> None:
    version = version_of(("b", dtypes.INT32, (-1, 2)), ("a", dtypes.BYTES, (-1, 1)), ("c", dtypes.BOOL, (-1,)))
    _, request = sent(version, tmp_path)
    assert list(request.inputs) == ["b", "a", "c"] and version.contract.check(request) == 1


@pytest.mark.parametrize("model", ["with space", "it's", "a/b", "50%", "q?x=1", "#1", "$(id)", "grüße", '"quoted"'])
@pytest.mark.parametrize("width", [2, 2000])
def test_a_model_of_any_name(model: str, width: int, tmp_path: Path) -> None:
    version = version_of(("x", dtypes.FP32, (-1, width)), model=model)
    path, request = sent(version, tmp_path)
    prefix, _, name = path.removesuffix("/infer").rpartition("/")
    assert prefix == "/v2/models" and unquote(name) == model
    assert path.isascii() and not set(path) & set(" ?#")
    assert version.contract.check(request) == 1


@pytest.mark.parametrize("name", ["it's", "$HOME", "a b", "back\\slash", '"quoted"', "grüße", "`id`", "%s"])
@pytest.mark.parametrize("width", [2, 2000])
def test_an_input_of_any_name(name: str, width: int, tmp_path: Path) -> None:
    version = version_of((name, dtypes.FP32, (-1, width)))
    assert version.contract.check(sent(version, tmp_path)[1]) == 1


def test_the_sample_that_the_model_is_known_to_take_comes_first() -> None:
    sample = {"x": np.array([[7, 9]], np.int64)}
    assert examples.infer_body(version_of(("x", dtypes.INT64, (-1, 2)), sample=sample)) == {
        "inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 2], "data": [7, 9]}]
    }


def test_floats_are_short() -> None:
    sample = {"x": np.array([[0.123456, 2.0, -0.0004]], np.float32)}
    body: Any = examples.infer_body(version_of(("x", dtypes.FP32, (-1, 3)), sample=sample))
    assert body["inputs"][0]["data"] == [0.123, 2, 0]


@pytest.mark.parametrize("values", [[np.nan, np.inf, -np.inf], [1e30, 1e-30, 0.1]])
@pytest.mark.parametrize("dtype", [dtypes.FP32, dtypes.FP64], ids=dtype_id)
def test_a_sample_of_any_floats(dtype: DType, values: list[float], tmp_path: Path) -> None:
    version = version_of(("x", dtype, (-1, 3)), sample={"x": np.array([values], dtype.numpy)})
    assert version.contract.check(sent(version, tmp_path)[1]) == 1
    # The documentation page is JSON that browsers read, which knows no NaN.
    json.dumps([e.infer for e in examples.infer_examples(catalog_of(version)).values()], allow_nan=False)


@pytest.mark.parametrize("element", [b"it's", b"\xff\xfe", "grüße\n".encode(), b""])
def test_a_sample_of_any_bytes(element: bytes, tmp_path: Path) -> None:
    array = np.empty((1, 1), dtype=object)
    array[0, 0] = element
    version = version_of(("x", dtypes.BYTES, (-1, 1)), sample={"x": array})
    assert version.contract.check(sent(version, tmp_path)[1]) == 1


def test_the_bodies_of_a_catalog() -> None:
    row = ("x", dtypes.FP32, (-1, 2))
    named = version_of(row, model="small")
    large = version_of(("x", dtypes.FP32, (-1, 2000)), model="large")
    half = version_of(("x", dtypes.FP16, (-1, 2)), model="half")
    catalog = catalog_of(named, large, half)
    without = Catalog(MappingProxyType({**catalog.models, "down": CatalogModel("down", {}, None)}))
    assert list(examples.infer_examples(without)) == ["small"]


def test_examples_are_made_anew_when_the_catalog_is_another() -> None:
    now = catalog_of(version_of(("x", dtypes.FP32, (-1, 2)), model="small"))
    made = examples.Examples(lambda: now)
    first = made()
    assert list(first) == ["small"] and made() is first
    now = Catalog()
    assert made() == {}
