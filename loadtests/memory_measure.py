"""One session in which a large model is loaded and unloaded again and again: what the server's process keeps of it.

Runs on the main thread; the server is a process, of which the kernel tells how much of it is in memory.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests import heavy, kinds, mlp
from loadtests.generators import LoadError
from loadtests.measure import Running, serving
from loadtests.oip import AnswerError
from loadtests.processes import ProcessError
from serving.core.types import Tensors

LIMIT_S = 300.0  # for one step
LOOK_S = 0.02

FINE = "onnx-fine"  # an ONNX model with as many bytes, in small tensors
KINDS = {FINE: "onnxruntime_onnx", **kinds.PLATFORMS}
FINE_WIDTH, FINE_LAYERS = 128, 1600


@dataclass
class Cycles:
    """Of one kind of model: bytes of the server's process when it began, with the model loaded, and without it again,
    by cycle; and seconds that each load took. With a `failure` it is void."""

    kind: str
    began: int = 0
    loaded: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    failure: str | None = None


def measure(
    kind: str, cycles: int, server_arguments: tuple[str, ...], files: Path, say: Callable[[str], None]
) -> Cycles:
    """On a server of its own, which serves a small model in the same runtime all the time: a runtime is loaded once,
    and stays. What fails voids the result."""
    found = Cycles(kind)
    say(f"{kind}: making the models")
    repository, log = files / kind, files / f"serving-{kind}.log"

    def command(path: Path, http_port: int, grpc_port: int) -> list[str]:
        ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
        mode = ["--mode", "explicit", "--load-model", mlp.NAME]
        return [sys.executable, "-m", "serving", "start", str(path), *mode, *ports, *server_arguments]

    try:
        kinds.write_repository("onnx" if kind == FINE else kind, repository, files)
        inputs = _write_large(kind, repository, files)
        with serving(f"the server with the {kind} model", repository, log, False, command) as running:
            client = _Client(running, kind, inputs)
            client.ask_small()
            found.began = resident(running.server.pid)
            for number in range(1, cycles + 1):
                say(f"{kind}: cycle {number} of {cycles}")
                begin = time.perf_counter()
                client.load()
                found.load_s.append(time.perf_counter() - begin)
                client.check()
                found.loaded.append(resident(running.server.pid))
                client.unload()
                found.left.append(resident(running.server.pid))
            client.ask_small()
    except (AnswerError, LoadError, ProcessError, OSError, httpx.HTTPError) as error:
        found.failure = str(error)
    return found


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _write_large(kind: str, repository: Path, files: Path) -> Tensors:
    """Writes the large model; what to ask it."""
    if kind != FINE:
        _, second = heavy.write_repository(kind, repository, files)
        shutil.rmtree(second)
        return {heavy.INPUT: heavy.golden().inputs[heavy.INPUT]}
    path = repository / heavy.NAME / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(_fine().SerializeToString())
    (repository / heavy.NAME / "model.yaml").write_text(heavy.SPEC, encoding="utf-8")
    return {heavy.INPUT: np.ones((4, FINE_WIDTH), np.float32)}


def _fine() -> onnx.ModelProto:
    """`x` FP32 [batch,128] through 1600 layers of 128 x 128 to `y`: 105 MB in tensors of 64 KB."""
    rng = np.random.default_rng(0)
    names = [heavy.INPUT, *(f"h{number}" for number in range(1, FINE_LAYERS)), heavy.OUTPUT]
    shape = (FINE_WIDTH, FINE_WIDTH)
    constants = [
        numpy_helper.from_array(rng.standard_normal(shape, np.float32) / np.float32(FINE_WIDTH**0.5), f"w{number}")
        for number in range(FINE_LAYERS)
    ]
    nodes = [
        helper.make_node("MatMul", [names[number], f"w{number}"], [names[number + 1]]) for number in range(FINE_LAYERS)
    ]
    sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", FINE_WIDTH]) for n in (names[0], names[-1])]
    graph = helper.make_graph(nodes, heavy.NAME, sides[:1], sides[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class _Client:
    """Says what the server shall do with the large model, and asks both. LoadError when it does not do so."""

    def __init__(self, running: Running, kind: str, inputs: Tensors) -> None:
        self._port = running.ports["http"]
        self._url = f"http://127.0.0.1:{self._port}"
        self._platform = KINDS[kind]
        self._inputs = inputs

    def ask_small(self) -> None:
        self._infer(mlp.NAME, {mlp.INPUT: mlp.row()}, mlp.OUTPUT)

    def load(self) -> None:
        self._post(f"/v2/repository/models/{heavy.NAME}/load")
        platform = self._answer("GET", f"/v2/models/{heavy.NAME}")["platform"]
        if platform != self._platform:
            raise LoadError(f"it is served as {platform}, not as {self._platform}")

    def check(self) -> None:
        """The large model answers, with one request and with a batch."""
        x = self._inputs[heavy.INPUT]
        self._infer(heavy.NAME, {heavy.INPUT: x[:1]}, heavy.OUTPUT)
        self._infer(heavy.NAME, self._inputs, heavy.OUTPUT)

    def unload(self) -> None:
        """Returns when the model is gone."""
        self._post(f"/v2/repository/models/{heavy.NAME}/unload")
        begin = time.perf_counter()
        while any(
            entry["name"] == heavy.NAME and entry.get("reason") != "unloaded"
            for entry in self._answer("POST", "/v2/repository/index")
        ):
            if time.perf_counter() - begin > LIMIT_S:
                raise LoadError(f"the unload took more than {LIMIT_S:.0f} s")
            time.sleep(LOOK_S)

    def _infer(self, model: str, inputs: Tensors, output: str) -> None:
        ((name, x),) = inputs.items()
        body = {"inputs": [{"name": name, "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}]}
        answer = self._answer("POST", f"/v2/models/{model}/infer", json=body)
        (found,) = answer["outputs"]
        if found["name"] != output or found["shape"][0] != len(x) or not np.isfinite(found["data"]).all():
            raise AnswerError(f"'{model}' answers with {found['name']} {found['shape']}")

    def _post(self, path: str) -> None:
        answer = httpx.post(self._url + path, timeout=LIMIT_S)
        if answer.status_code != 200:
            raise LoadError(f"{path}: {answer.status_code} {answer.text[:500]}")

    def _answer(self, method: str, path: str, **more: Any) -> Any:
        answer = httpx.request(method, self._url + path, timeout=LIMIT_S, **more)
        if answer.status_code != 200:
            raise LoadError(f"{path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()
