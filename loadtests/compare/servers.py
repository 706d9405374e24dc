"""Who is compared: for each server how it is started on the model, and the requests that it understands.

Pure apart from the files that a server is started on. To add one: a list of requirements and an app in peers/, and an
entry in `SERVERS`.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import orjson

from loadtests import mlp
from loadtests.cases import JSON, Answer, Case, Question, grpc_raw, rest_binary, rest_json
from loadtests.compare import environments, triton
from loadtests.compare.launch import Command
from loadtests.measure import serving_command

Form = Literal["json", "binary", "grpc"]
FORMS: Mapping[str, str] = {"json": "REST, JSON", "binary": "REST, binary", "grpc": "gRPC"}
OURS, TRITON = "serving", "triton"
BATCH_SIZES = (8, 16, 32)
UNBATCHED = 1
# How long a peer may hold a batch that is not full, if it has to be told a time; of 1, 5 and 20 ms the best for most.
WAIT_MS = 1


@dataclass(frozen=True)
class Setup:
    """What a server is started with. `files` is an empty directory of its own; `ports` are for HTTP, gRPC, metrics."""

    model: Path
    max_batch_size: int
    files: Path
    ports: tuple[int, int, int]


@dataclass(frozen=True)
class Contestant:
    """One of those compared. `requests` are by form, in the `protocol` named; `package` is the one whose version it
    goes by, if it has no `version` of its own.

    `environment` names its environment, None for this process's own; `sizes` are what its largest batch may be.
    """

    title: str
    package: str
    environment: str | None
    command: Callable[[Setup], Command]
    requests: Mapping[Form, Callable[[Question], Case]]
    protocol: str = "OIP"
    sizes: tuple[int, ...] = BATCH_SIZES
    version: str | None = None


def plain_json(question: Question, path: str = "/json") -> Case:
    """The row as a bare JSON object, for servers that do not speak the Open Inference Protocol: {"x": rows}."""
    body = orjson.dumps(question.inputs, option=orjson.OPT_SERIALIZE_NUMPY)
    return Case("plain-json", "http", path, JSON, body, _read_object, question.expected)


def orjson_route(question: Question) -> Case:
    return plain_json(question, "/orjson")


def bare_json(question: Question) -> Case:
    """The same, answered with nothing but the output's rows."""
    body = orjson.dumps(question.inputs, option=orjson.OPT_SERIALIZE_NUMPY)
    return Case("bare-json", "http", "/json", JSON, body, _read_rows, question.expected)


def raw(question: Question) -> Case:
    """The row's bytes and nothing else, both ways."""
    headers = {"content-type": "application/octet-stream"}
    body = question.inputs[mlp.INPUT].tobytes()
    return Case("raw", "http", "/raw", headers, body, _read_raw, question.expected)


def _read_object(answer: Answer) -> dict[str, np.ndarray]:
    return {name: np.array(rows, np.float32) for name, rows in dict(json.loads(answer.body)).items()}


def _read_rows(answer: Answer) -> dict[str, np.ndarray]:
    return {mlp.OUTPUT: np.array(json.loads(answer.body), np.float32)}


def _read_raw(answer: Answer) -> dict[str, np.ndarray]:
    return {mlp.OUTPUT: np.frombuffer(answer.body, np.float32).reshape(1, -1)}


def _serving(setup: Setup) -> Command:
    repository = setup.files / "models"
    mlp.write_repository(repository)
    spec = f"max_batch_size: {setup.max_batch_size}\nthreads: 1\ninstances: 1\n"
    (repository / mlp.NAME / "model.yaml").write_text(spec, encoding="utf-8")
    return Command(serving_command(repository, *setup.ports[:2]))


def _triton(setup: Setup) -> Command:
    return triton.prepare(setup.model, setup.max_batch_size, setup.files, setup.ports, mlp.NAME)


def _mlserver(setup: Setup) -> Command:
    http, grpc, metrics = setup.ports
    ports = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    # Without its access log, without a process for the model, and without compression, which nobody asks for.
    settings = {**ports, "debug": False, "parallel_workers": 0, "gzip_enabled": False}
    model = {
        "name": mlp.NAME,
        "implementation": "loadtests.compare.peers.mlserver_app.OnnxModel",
        "max_batch_size": setup.max_batch_size,
        "max_batch_time": WAIT_MS / 1e3,
    }
    for name, content in (("settings.json", settings), ("model-settings.json", model)):
        (setup.files / name).write_text(json.dumps(content), encoding="utf-8")
    return _app(setup, [str(_binary("mlserver", "mlserver")), "start", str(setup.files)])


def _kserve(setup: Setup) -> Command:
    http, grpc, _ = setup.ports
    argv = [*_module("kserve"), "--http_port", str(http), "--grpc_port", str(grpc)]
    return _app(setup, argv, KSERVE_LOGLEVEL="WARNING")


def _bentoml(setup: Setup) -> Command:
    argv = [str(_binary("bentoml", "bentoml")), "serve", "loadtests.compare.peers.bentoml_app:Mlp"]
    argv += ["--host", "127.0.0.1", "--port", str(setup.ports[0])]
    return _app(setup, argv, BENTOML_HOME=str(setup.files / "home"), BENTOML_DO_NOT_TRACK="true")


def _litserve(setup: Setup) -> Command:
    return _app(setup, [*_module("litserve"), str(setup.ports[0])])


def _ray(setup: Setup) -> Command:
    return _app(
        setup,
        [*_module("ray"), str(setup.ports[0])],
        # What its documentation gives for high throughput: HAProxy in front, and no process between it and the replica.
        RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
        RAY_SERVE_ENABLE_HA_PROXY="1",
        RAY_TMPDIR=str(setup.files),
        RAY_AUTH_MODE="disabled",
        RAY_USAGE_STATS_ENABLED="0",
    )


def _mosec(setup: Setup, routes: str = "/json,/raw") -> Command:
    argv = [*_module("mosec"), "--address", "127.0.0.1", "--port", str(setup.ports[0]), "--log-level", "error"]
    return _app(setup, argv, ROUTES=routes)


def _mosec_orjson(setup: Setup) -> Command:
    return _mosec(setup, "/orjson")


def _app(setup: Setup, argv: list[str], **more: str) -> Command:
    """A peer's app: it finds the model and its own module through the environment."""
    batch = {"MODEL": str(setup.model), "MAX_BATCH_SIZE": str(setup.max_batch_size), "MAX_WAIT_MS": str(WAIT_MS)}
    return Command(argv, {**batch, "PYTHONPATH": str(environments.ROOT), **more})


def _module(name: str) -> list[str]:
    return [str(environments.python(name)), "-m", f"loadtests.compare.peers.{name}_app"]


def _binary(name: str, program: str) -> Path:
    return environments.environment(name) / "bin" / program


_OIP: dict[Form, Callable[[Question], Case]] = {"json": rest_json, "binary": rest_binary, "grpc": grpc_raw}

SERVERS: dict[str, Contestant] = {
    OURS: Contestant("serving", "serving", None, _serving, _OIP),
    TRITON: Contestant("Triton", "nvidia-pytriton", "triton", _triton, _OIP, version=triton.VERSION),
    "mlserver": Contestant("MLServer", "mlserver", "mlserver", _mlserver, {"json": rest_json, "grpc": grpc_raw}),
    "kserve": Contestant("KServe", "kserve", "kserve", _kserve, _OIP, sizes=(UNBATCHED,)),
    "bentoml": Contestant("BentoML", "bentoml", "bentoml", _bentoml, {"json": bare_json}, protocol="own"),
    "litserve": Contestant("LitServe", "litserve", "litserve", _litserve, {"json": plain_json}, protocol="own"),
    "ray": Contestant("Ray Serve", "ray", "ray", _ray, {"json": plain_json, "binary": raw}, protocol="own"),
    "mosec": Contestant("mosec", "mosec", "mosec", _mosec, {"json": plain_json, "binary": raw}, protocol="own"),
    "mosec-orjson": Contestant(
        "mosec (orjson)", "mosec", "mosec", _mosec_orjson, {"json": orjson_route}, protocol="own"
    ),
}


def interpreter(name: str) -> Path:
    """The Python that a server runs on; its environment is made if need be. ProcessError when it cannot be."""
    environment = SERVERS[name].environment
    return Path(sys.executable) if environment is None else environments.make(environment)
