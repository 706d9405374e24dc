"""A server at a fixed address, through starts, ends and worse; and the models that incidents need.

Blocking. All processes are this one's children, and end with the context.
"""

import http.client
import os
import signal
import ssl
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from onnx import TensorProto, helper, numpy_helper

from loadtests.processes import ProcessError, Server, free_ports, log_tail

READY_S = 60.0

_ANYONE = ssl._create_unverified_context()


class Site:
    """`serving start ARGUMENTS`, started again and again on the same ports.

    Args:
        directory: for its logs.
        arguments: paths and flags that every start has.
        tls: whether REST is over TLS.
    """

    def __init__(self, directory: Path, *arguments: object, tls: bool = False) -> None:
        self._directory, self._arguments, self._tls = directory, arguments, tls
        self.http_port, self.grpc_port = free_ports(2)
        self.instance = f"127.0.0.1:{self.http_port}"
        self.url = f"{'https' if tls else 'http'}://{self.instance}"
        self._server: Server | None = None
        self._starts = 0
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def target(self) -> dict[str, object]:
        """For Prometheus."""
        return {"targets": [self.instance], "labels": {"__scheme__": "https"} if self._tls else {}}

    @property
    def _pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def start(self, *more: object, ready: bool = True) -> None:
        """With more flags. Raises: ProcessError: it is not ready in time; without `ready`: does not listen."""
        self._starts += 1
        ports = ["--http-port", self.http_port, "--grpc-port", self.grpc_port]
        argv = [sys.executable, "-m", "serving", "start", *map(str, [*self._arguments, *ports, *more])]
        log = self._directory / f"serving-{self._starts}.log"
        self._server = Server("the server", argv, log, {}, None)
        self._server.wait_until(lambda: self.answers("/v2/health/ready" if ready else "/v2/health/live"), READY_S)

    def answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5, context=_ANYONE if self._tls else None) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def connection(self, limit_s: float) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection("127.0.0.1", self.http_port, timeout=limit_s, context=_ANYONE)
        return http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=limit_s)

    def kill(self) -> None:
        """As `kill -9` does."""
        os.kill(self._pid, signal.SIGKILL)
        self._ended()

    def stop(self) -> None:
        os.kill(self._pid, signal.SIGTERM)
        self._ended()

    def hang(self, seconds: float) -> None:
        """The whole process stands still."""
        os.kill(self._pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self._pid, signal.SIGCONT)

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _ended(self) -> None:
        assert self._server is not None
        self._server.__exit__()
        self._server = None

    def log(self) -> str:
        path = self._directory / f"serving-{self._starts}.log"
        return log_tail(path) if path.exists() else ""

    def close(self) -> None:
        if self._server is not None:
            self._ended()


@contextmanager
def closing(*sites: Site) -> Iterator[None]:
    """Ends them; a failure comes with the ends of their logs."""
    try:
        yield
    except ProcessError as error:
        logs = "\n".join(f"{site.instance}:\n{site.log()}" for site in sites)
        raise ProcessError(f"{error}\nThe servers' logs end:\n{logs}") from None
    finally:
        for site in sites:
            site.close()


# Models; all take x and give y


def scale(factor: float) -> onnx.ModelProto:
    """y = factor * x, FP32 [batch, 4]."""
    return _model([helper.make_node("Mul", ["x", "c"], ["y"])], TensorProto.FLOAT, {"c": np.array(factor, np.float32)})


def table(size: int) -> onnx.ModelProto:
    """y = x for INT64 [batch, 4] below `size`; a run with another number fails."""
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)]
    return _model(nodes, TensorProto.INT64, {"table": np.arange(size, dtype=np.float32)})


def laborious(turns: int) -> onnx.ModelProto:
    """y = x, FP32 [batch, 4], after so many products with a matrix of 256 x 256: some 10 us each for one row."""
    wide = np.zeros((4, 256), np.float32)
    wide[:, :4] = np.eye(4)
    nodes = [helper.make_node("MatMul", ["x", "wide"], ["t0"])]
    nodes += [helper.make_node("MatMul", [f"t{n}", "same"], [f"t{n + 1}"]) for n in range(turns)]
    nodes.append(helper.make_node("MatMul", [f"t{turns}", "narrow"], ["y"]))
    return _model(
        nodes, TensorProto.FLOAT, {"wide": wide, "same": np.eye(256, dtype=np.float32), "narrow": wide.T.copy()}
    )


def endless() -> onnx.ModelProto:
    """y = x, FP32 [batch, 4]; ONNX Runtime computes its constants when it loads it, and is not done in an hour."""
    start, turns = np.eye(1024, dtype=np.float32), 100_000
    nodes = [helper.make_node("MatMul", [f"c{n}", "turn"], [f"c{n + 1}"]) for n in range(turns)]
    nodes.append(helper.make_node("ReduceMax", [f"c{turns}"], ["c"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["x", "c"], ["y"]))
    return _model(nodes, TensorProto.FLOAT, {"c0": start, "turn": np.roll(start, 1, axis=0)})


def huge(mebibytes: int) -> onnx.ModelProto:
    """FP32 [batch, 4]; its file is small, and its load needs this much memory, in pieces of 64 MiB."""
    nodes, ends = [], []
    for n in range(mebibytes // 64):
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [float(n + 1)])  # all different, or kept once
        nodes += [
            helper.make_node("ConstantOfShape", ["shape"], [f"raw{n}"], value=value),
            helper.make_node("Neg", [f"raw{n}"], [f"w{n}"]),
            helper.make_node("MatMul", ["x", f"w{n}"], [f"p{n}"]),
            helper.make_node("ReduceMax", [f"p{n}", "axes"], [f"m{n}"], keepdims=1),
        ]
        ends.append(f"m{n}")
    nodes += [helper.make_node("Sum", ends, ["sum"]), helper.make_node("Add", ["x", "sum"], ["y"])]
    constants = {"shape": np.array([4, 2**22], np.int64), "axes": np.array([1], np.int64)}
    return _model(nodes, TensorProto.FLOAT, constants)


def _model(nodes: list[onnx.NodeProto], takes: int, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "incident",
        [helper.make_tensor_value_info("x", takes, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def put(repository: Path, model: str, version: int, proto: onnx.ModelProto, settings: str = "") -> Path:
    """A version, which appears at once; returns its directory."""
    home = repository / model
    hidden, there = home / f".{version}", home / str(version)
    hidden.mkdir(parents=True)
    (hidden / "model.onnx").write_bytes(proto.SerializeToString())
    if settings:
        (home / "model.yaml").write_text(settings, encoding="utf-8")
    return hidden.rename(there)


# Certificates


def certify(directory: Path, days: float) -> tuple[Path, Path]:
    """A certificate for the loopback address that is valid so long, signed by itself, and its key; both replaced."""
    directory.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files = directory / "tls.crt", directory / "tls.key"
    contents = certificate.public_bytes(pem), key.private_bytes(pem, form, plain)
    for file, content in reversed(list(zip(files, contents, strict=True))):
        new = file.with_suffix(".new")
        new.write_bytes(content)
        new.replace(file)
    return files
