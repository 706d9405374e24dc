"""Triton Inference Server on CPU, from the nvidia-pytriton wheel: no docker, no GPU.

The wheel carries the server with HTTP, gRPC and the python backend, which runs peers/triton_app.py with ONNX Runtime.
Its native ONNX backend is not in it. Other tools may use `triton` to measure against.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from loadtests.compare import environments, launch
from loadtests.compare.launch import Command
from loadtests.processes import Server, free_ports
from serving.core import dtypes

APP = environments.PEERS / "triton_app.py"
NAME = "triton"
VERSION = "2.51.0"  # of the server in the wheel that peers/triton.txt names
READY = "/v2/health/ready"

CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {max_batch_size}
{tensors}instance_group [ {{ count: 1, kind: KIND_CPU }} ]
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
parameters [
  {{ key: "model", value: {{ string_value: "{model}" }} }},
  {{ key: "threads", value: {{ string_value: "{threads}" }} }}
]
"""


@dataclass(frozen=True)
class Triton:
    """A Triton that is ready, on the loopback address; `server.pid` is the first process of its tree."""

    server: Server
    http_port: int
    grpc_port: int

    @property
    def pid(self) -> int:
        return self.server.pid


@contextmanager
def triton(
    model: Path,
    max_batch_size: int,
    files: Path,
    *,
    name: str = "mlp",
    threads: int = 1,
    delay_us: int = 0,
    cpus: Collection[int] | None = None,
) -> Iterator[Triton]:
    """A Triton that serves the ONNX file `model` as `name`, one instance with `threads`, dynamic batching on.

    Makes its environment first if need be. All inputs and outputs must have an open axis 0. `files` is a directory for
    its repository and log, `cpus` where it may run (None: anywhere), `delay_us` how long it holds a batch that is not
    full. Leaving the context ends it. ProcessError when it does not get ready.
    """
    environments.make(NAME)
    http_port, grpc_port, metrics_port = free_ports(3)
    command = prepare(model, max_batch_size, files, (http_port, grpc_port, metrics_port), name, threads, delay_us)
    with launch.started(NAME, command, files / "triton.log", lambda: launch.says_ok(http_port, READY), cpus) as server:
        yield Triton(server, http_port, grpc_port)


def prepare(
    model: Path,
    max_batch_size: int,
    files: Path,
    ports: tuple[int, int, int],
    name: str = "mlp",
    threads: int = 1,
    delay_us: int = 0,
) -> Command:
    """Write Triton's model repository and the directory of its python backend into `files`; how it is started then.

    `ports` are those of HTTP, gRPC and metrics.
    """
    config = config_text(model, name, max_batch_size, threads, delay_us)
    package, libraries = _package()
    version = files / "repository" / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
    shutil.copyfile(APP, version / "model.py")
    # The wheel keeps a stub for each Python apart from the backend, which looks for one of them beside itself.
    backend = files / "backends" / "python"
    backend.mkdir(parents=True)
    stub = package / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    for source in [*(package / "backends" / "python").iterdir(), *stub.iterdir()]:
        (backend / source.name).symlink_to(source)
    binary = package / "bin" / "tritonserver"
    argv = [str(binary), f"--model-repository={files / 'repository'}", f"--backend-directory={files / 'backends'}"]
    for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        argv += [f"--{kind}-address=127.0.0.1", f"--{kind}-port={port}"]
    # The stub takes its packages from the first `python3` on the path, and needs that version's shared library.
    path = [str(environments.environment(NAME) / "bin"), *filter(None, [os.environ.get("PATH")])]
    shared = [str(libraries), *filter(None, [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")])]
    variables = {"PATH": os.pathsep.join(path), "LD_LIBRARY_PATH": os.pathsep.join(shared)}
    return Command(argv, {**variables, "CUDA_VISIBLE_DEVICES": "-1"})


def config_text(model: Path, name: str, max_batch_size: int, threads: int, delay_us: int) -> str:
    """Triton's configuration for an ONNX file. ValueError when a tensor has no open axis 0."""
    graph = onnx.load(str(model), load_external_data=False).graph
    constants = {one.name for one in graph.initializer}
    inputs = [_tensor(one) for one in graph.input if one.name not in constants]
    tensors = f"input [ {', '.join(inputs)} ]\noutput [ {', '.join(map(_tensor, graph.output))} ]\n"
    return CONFIG.format(
        name=name,
        max_batch_size=max_batch_size,
        tensors=tensors,
        delay_us=delay_us,
        model=model.resolve(),
        threads=threads,
    )


def _tensor(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    dims = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in kind.shape.dim]
    if dims[:1] != [-1]:
        raise ValueError(f"tensor '{value.name}' has no open axis 0")
    name = dtypes.BY_NUMPY[onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)].name
    return f'{{ name: "{value.name}", data_type: TYPE_{"STRING" if name == "BYTES" else name}, dims: {dims[1:]} }}'


def _package() -> tuple[Path, Path]:
    """The directory of Triton's parts in its environment, and that of the libraries it was built with."""
    (site,) = (environments.environment(NAME) / "lib").glob("python3.*/site-packages")
    return site / "pytriton" / "tritonserver", site / "nvidia_pytriton.libs"
