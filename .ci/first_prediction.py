"""Serves the repository's models with the installed package and predicts over REST and gRPC.

Run by an environment that holds the wheel with its cpu extra and nothing else. Whatever is wrong ends it with
a traceback and the server's log.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import serving

MODEL = "digits"
ROWS = 3
READY_LIMIT_S = 60
STOP_LIMIT_S = 60


def check_package(root: Path) -> None:
    """The package under test is the installed one, and its descriptor set holds each of our protos."""
    assert Path(serving.__file__).is_relative_to(sys.prefix), f"not the installed package: {serving.__file__}"
    protos = {path.name for path in (root / "protos").glob("*.proto")}
    assert protos, f"no protos in {root}"
    packaged = FileDescriptorSet.FromString((files("serving") / "protocols/descriptors/all.binpb").read_bytes())
    missing = protos - {file.name for file in packaged.file}
    assert not missing, f"not in the packaged descriptor set: {sorted(missing)}"
    print(f"packaged descriptors: {', '.join(sorted(protos))}")


def free_ports() -> tuple[int, int]:
    """Two ports of the loopback address that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


def answer(url: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON that the server answers, for a GET or, with a body, a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def wait_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + READY_LIMIT_S
    while True:
        assert server.poll() is None, f"the server ended with {server.returncode} before it was ready"
        assert time.monotonic() < limit, f"the server was not ready after {READY_LIMIT_S} s"
        try:
            answer(f"{url}/v2/health/ready")
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)


def predict_golden(url: str, golden: Path) -> None:
    """Sends rows stored when the model was trained, and expects the outputs stored with them."""
    stored = np.load(golden)
    metadata = answer(f"{url}/v2/models/{MODEL}")
    inputs = []
    for tensor in metadata["inputs"]:
        rows = stored[f"in:{tensor['name']}"][:ROWS]
        inputs.append(tensor | {"shape": rows.shape, "data": rows.ravel().tolist()})
    outputs = answer(f"{url}/v2/models/{MODEL}/infer", {"inputs": inputs})["outputs"]
    assert outputs, "no outputs"
    for tensor in outputs:
        got = np.array(tensor["data"]).reshape(tensor["shape"])
        np.testing.assert_allclose(got, stored[f"out:{tensor['name']}"][:ROWS], atol=1e-4, rtol=1e-4)
    print(f"REST: {ROWS} rows answered as when the model was trained")


def main(root: Path) -> None:
    check_package(root)
    command = str(Path(sys.prefix) / "bin" / "serving")
    http_port, grpc_port = free_ports()
    ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    url = f"http://127.0.0.1:{http_port}"
    log = Path("server.log")
    with log.open("wb") as sink:
        start = [command, "start", str(root / "model_repo"), *ports]
        server = subprocess.Popen(start, stdout=sink, stderr=subprocess.STDOUT)
    try:
        wait_ready(url, server)
        predict_golden(url, next((root / "model_repo" / MODEL).glob("*/golden.npz")))
        with urllib.request.urlopen(f"{url}/docs", timeout=10) as page:
            assert b"openapi.json" in page.read(), "the documentation page is not what was packaged"
        for address in (url, f"127.0.0.1:{grpc_port}"):
            subprocess.run([command, "predict", MODEL, "--random", "--url", address], check=True, timeout=60)
        server.terminate()
        code = server.wait(STOP_LIMIT_S)
        assert code == 0, f"the server ended with {code} on SIGTERM"
    except BaseException:
        print(log.read_text(errors="replace"), file=sys.stderr)
        raise
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    print("stopped on SIGTERM with exit code 0")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
