"""A Ray cluster of several nodes on this machine with the application on it, to try it and to break it.

    python -m deploy.ray.local model_repo --nodes 3

starts it, prints where each node listens as one line of JSON, and ends it when its standard input ends or a signal
comes. Each node is a raylet with processes of its own; only the machine is shared. Nodes have ports of their own.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
APP = "serving"
_OBJECT_STORE_BYTES = 100 * 1024 * 1024
_CPUS = 8  # of a node, as Ray counts them


@dataclass(frozen=True)
class Node:
    """A node of the cluster, and where its proxies listen. The first one is the head, which has no replicas."""

    number: int
    http: str
    grpc: str
    made: Any

    def kill(self) -> int:
        """Kills every process of the node at once, as if its machine had failed; returns how many there were."""
        raylet = self.made.all_processes["raylet"][0].process.pid
        pids = [raylet, *processes_below(raylet)]
        for pid in pids:  # none may do anything about the end of another
            os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return len(pids)


class LocalCluster:
    """A running cluster. Made by `started`."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.nodes: list[Node] = []

    def add(self) -> Node:
        number = len(self.nodes)
        http_port, grpc_port = _free_ports(2)
        ports = {
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(http_port),
            "RAY_SERVE_WORKER_PROXY_GRPC_PORT": str(grpc_port),
        }
        made = self._cluster.add_node(
            num_cpus=_CPUS if number else 0,
            object_store_memory=_OBJECT_STORE_BYTES,
            env_vars=ports,
            **({} if number else {"include_dashboard": False}),
        )
        node = Node(number, f"{HOST}:{http_port}", f"{HOST}:{grpc_port}", made)
        self.nodes.append(node)
        return node

    def remove(self, node: Node) -> None:
        """Forgets a node that was killed."""
        self._cluster.remove_node(node.made, allow_graceful=False)
        self.nodes.remove(node)

    def deploy(self, arguments: Mapping[str, Any]) -> None:
        """Runs the application, or replaces its replicas one by one; returns when all are ready."""
        from ray import serve

        from deploy.ray.app import Arguments, build

        serve.run(build(Arguments.model_validate(arguments)), name=APP, route_prefix="/")

    def replicas(self) -> set[str]:
        """The names of those that run."""
        return {replica["replica_id"] for replica in _details()}

    def wait_replicas(self, count: int, limit_s: float) -> bool:
        """Whether so many run within the limit."""
        return wait(lambda: len(self.replicas()) >= count, limit_s)


@contextmanager
def started(workers: int, arguments: Mapping[str, Any]) -> Iterator[LocalCluster]:
    """A cluster of a head and `workers` nodes, when as many replicas as `min_replicas` says are ready; ends it, too.

    Args:
        arguments: of the application (app.Arguments).
    """
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deploy.ray.proxy:middlewares",
    }
    # Ray reads its environment when it is imported.
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    with ExitStack() as stack:
        cluster = Cluster()
        stack.callback(cluster.shutdown)
        local = LocalCluster(cluster)
        head = local.add()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        stack.callback(ray.shutdown)
        for _ in range(workers):
            local.add()
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": HOST, "port": int(head.http.rpartition(":")[2])},
            grpc_options={
                "port": int(head.grpc.rpartition(":")[2]),
                "grpc_servicer_functions": ["deploy.ray.proxy.add_services"],
                "enable_reflection": False,  # Ray's own, which does not know our messages; replicas answer it
            },
        )
        stack.callback(serve.shutdown)
        local.deploy(arguments)
        for node in local.nodes:
            if not wait(partial(_listens, node), 60):
                raise TimeoutError(f"the proxies of node {node.number} do not listen")
        yield local


def _details() -> list[dict[str, Any]]:
    """The running replicas, as Ray's controller knows them."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    found = ray.get(controller.get_serve_instance_details.remote())
    deployments = found["applications"].get(APP, {}).get("deployments", {})
    return [r for each in deployments.values() for r in each["replicas"] if r["state"] == "RUNNING"]


def _listens(node: Node) -> bool:
    for address in (node.http, node.grpc):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
    return True


def wait(condition: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [made.getsockname()[1] for made in sockets]


def processes_below(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy.ray.local", description="A Ray cluster on this machine that serves.")
    parser.add_argument("model_repo")
    parser.add_argument("--nodes", type=int, default=2, help="nodes with replicas, besides the head (default 2)")
    parser.add_argument("--arguments", type=json.loads, default={}, help="of the application, as a JSON object")
    options = parser.parse_args()
    arguments = {"model_repo": options.model_repo, "min_replicas": options.nodes, **options.arguments}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with started(options.nodes, arguments) as local:
        print(json.dumps([{"http": node.http, "grpc": node.grpc} for node in local.nodes]), flush=True)
        with suppress(KeyboardInterrupt):
            sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
