"""Kills a node of a Ray cluster under load, and says what became of every request.

    python -m deploy.ray.chaos [--workers 3] [--users 3] [--before 5] [--after 10] [--json runs/ray-chaos.json]

On a cluster of its own on this machine: a head that has proxies and no replica, and nodes with one replica each.
Users ask over both protocol families, REST and gRPC, at the head, at each node that stays, and at the one that is
killed: every process of it at once, with SIGKILL. Then another node joins, as a cluster's autoscaler would have it, and
at last the application is deployed anew with another setting, which replaces every replica.

Kept, or the exit code is 1:

- no request fails in a way that clients must not retry, and each that failed is answered by another node;
- at other nodes a user loses at most the one request that was under way, and is answered after that;
- as many replicas as before run again;
- no request fails while replicas are replaced.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from deploy.ray.load import ASKS, Model, Outcome, User
from deploy.ray.local import LocalCluster, started, wait

HEAD, STAYS, KILLED = "head", "nodes that stay", "killed node"
PLACES = (HEAD, STAYS, KILLED)
_BACK_LIMIT_S = 120.0
_PAUSE_S = 0.02  # of a user between two requests
_QUEUE_DELAY_MS = 1000  # so that at any time nearly all requests are at a replica


@dataclass(frozen=True)
class Found:
    users: Sequence[User]
    killed_at: float
    processes: int  # that were killed
    replicas: int
    left: int  # replicas, when the dead node had been noticed
    back_s: float | None  # until as many replicas as before ran, from the time when a new node was there; None: never
    deployed_at: float  # anew
    same: int  # replicas that were there before that and after it

    def first(self, place: str, kind: str | None = None) -> Counter[Outcome]:
        return self._sum("first", place, kind)

    def second(self, place: str, kind: str | None = None) -> Counter[Outcome]:
        return self._sum("second", place, kind)

    def _sum(self, which: str, place: str, kind: str | None) -> Counter[Outcome]:
        chosen = (user for user in self.users if user.place == place and kind in (None, user.kind))
        return sum((getattr(user, which) for user in chosen), Counter())

    def promises(self) -> list[tuple[str, bool]]:
        elsewhere = [user for user in self.users if user.place != KILLED]
        failed = (Outcome.IN_FLIGHT, Outcome.CUT, Outcome.NOT_SENT, Outcome.BUSY)
        wrong = sum(user.first[Outcome.WRONG] for user in self.users)
        again = sum((user.second for user in self.users), Counter())
        return [
            (f"{wrong} requests failed in a way that must not be retried", wrong == 0),
            (
                f"{again[Outcome.ANSWERED]} of {again.total()} requests that failed were answered by another node",
                again[Outcome.ANSWERED] == again.total(),
            ),
            (
                "at other nodes no user lost more than the one request that was under way",
                all(sum(user.first[outcome] for outcome in failed) <= 1 for user in elsewhere),
            ),
            (
                "requests were under way at the replica that was killed",
                any(user.first[Outcome.IN_FLIGHT] for user in elsewhere),
            ),
            (
                "at other nodes every user was answered after the kill",
                all(user.answers and user.answers[-1][0] > self.killed_at for user in elsewhere),
            ),
            (
                f"{self.left} of {self.replicas} replicas stayed; another one ran "
                + (f"{self.back_s:.1f} s after a new node had joined" if self.back_s is not None else "never"),
                self.back_s is not None and self.left == self.replicas - 1,
            ),
            (
                "all replicas were replaced, and no request failed while they were",
                not self.same and not any(at > self.deployed_at for user in elsewhere for at in user.failures),
            ),
        ]

    def slowest_s(self, after: bool) -> float:
        """The slowest answer at other nodes before the node was killed, or from then on."""
        elsewhere = (user for user in self.users if user.place != KILLED)
        return max((s for user in elsewhere for at, s in user.answers if (at > self.killed_at) is after), default=0.0)


def run(directory: Path, workers: int, users: int, before_s: float, after_s: float) -> Found:
    """`users`: of each kind at the head; at each other node there is one."""
    model = write_model(directory / "models")
    arguments = {
        "model_repo": str(directory / "models"),
        "min_replicas": workers,
        "max_replicas": workers,
        "max_replicas_per_node": 1,
        "health_check_period_s": 1,
        "settings": {"model_defaults": {"max_queue_delay_ms": _QUEUE_DELAY_MS}},
    }
    with started(workers, arguments) as cluster:
        return _under_load(cluster, arguments, model, users, before_s, after_s)


def _under_load(
    cluster: LocalCluster, arguments: Mapping[str, Any], model: Model, users: int, before_s: float, after_s: float
) -> Found:
    head, *stay, killed = cluster.nodes
    everyone = [
        User(place, kind, (node.http, node.grpc), [(other.http, other.grpc) for other in others])
        for place, node, others, count in (
            (HEAD, head, stay, users),
            *((STAYS, node, [head], 1) for node in stay),
            (KILLED, killed, [head], 1),
        )
        for kind in ASKS
        for _ in range(count)
    ]
    replicas = len(stay) + 1
    stop = threading.Event()
    with ThreadPoolExecutor(1) as executor:  # for the load: Ray wants the main thread for itself
        load = executor.submit(asyncio.run, _load(everyone, model, stop))
        try:
            if not wait(lambda: all(len(user.answers) > 1 for user in everyone), _BACK_LIMIT_S):
                raise TimeoutError("not every user is answered")
            time.sleep(before_s)
            killed_at = time.monotonic()
            processes = killed.kill()
            time.sleep(after_s)
            cluster.remove(killed)
            left = len(cluster.replicas())
            cluster.add()
            joined_at = time.monotonic()
            back = cluster.wait_replicas(replicas, _BACK_LIMIT_S)
            back_s = time.monotonic() - joined_at if back else None
            old, deployed_at = cluster.replicas(), time.monotonic()
            cluster.deploy({**arguments, "num_cpus": 0.5})
            same = len(old & cluster.replicas())
        finally:
            stop.set()
        load.result()
    return Found(everyone, killed_at, processes, replicas, left, back_s, deployed_at, same)


async def _load(users: Sequence[User], model: Model, stop: threading.Event) -> None:
    await asyncio.gather(*(user.run(model, stop, _PAUSE_S) for user in users))


def write_model(repo: Path) -> Model:
    """Writes a model that gives its rows back: no library is needed to make it."""
    version = repo / "echo" / "1"
    version.mkdir(parents=True)
    (version / "identity.yaml").write_text(
        json.dumps({"tensors": [{"input": "x", "output": "y", "datatype": "FP32", "shape": [-1, 4]}]})
    )
    rows = np.arange(4, dtype=np.float32).reshape(1, 4)
    return Model("echo", "x", "y", rows, rows)


def table(found: Found) -> Table:
    made = Table("users at", "protocol", "sent", *(outcome.value for outcome in Outcome), "answered elsewhere")
    for place in PLACES:
        for kind in ASKS:
            first, second = found.first(place, kind), found.second(place, kind)
            cells = (first.total(), *(first[outcome] for outcome in Outcome), second[Outcome.ANSWERED])
            made.add_row(place, kind, *(str(cell) if cell else "·" for cell in cells))
    return made


def document(found: Found) -> Mapping[str, Any]:
    return {
        "processes_killed": found.processes,
        "replicas": {"before": found.replicas, "left": found.left, "back_s": found.back_s},
        "requests": [
            {
                "place": user.place,
                "protocol": user.kind,
                "sent": user.sent,
                "first": {outcome.value: user.first[outcome] for outcome in Outcome},
                "second": {outcome.value: user.second[outcome] for outcome in Outcome},
                "texts": user.texts,
            }
            for user in found.users
        ],
        "slowest_s": {"before": found.slowest_s(after=False), "after": found.slowest_s(after=True)},
        "promises": [{"promise": text, "kept": kept} for text, kept in found.promises()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy.ray.chaos", description="Kills a node of a Ray cluster under load.")
    parser.add_argument("--workers", type=int, default=3, help="nodes with a replica each (default 3, at least 2)")
    parser.add_argument("--users", type=int, default=3, help="of each protocol at the head (default 3)")
    parser.add_argument(
        "--before",
        type=float,
        default=5,
        help="seconds of load before the kill, when all users are answered (default 5)",
    )
    parser.add_argument("--after", type=float, default=10, help="seconds after it (default 10)")
    parser.add_argument("--json", type=Path, help="file for the counts")
    options = parser.parse_args()
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="serving-ray-") as directory:
        found = run(Path(directory), max(options.workers, 2), options.users, options.before, options.after)
    console.print(table(found))
    for text, count in sum((user.texts for user in found.users), Counter()).most_common(12):
        console.print(f"{count:6} × {text}", style="dim", markup=False)
    before_s, after_s = found.slowest_s(after=False), found.slowest_s(after=True)
    console.print(f"slowest answer at other nodes: {before_s:.2f} s before the kill, {after_s:.2f} s from then on")
    for text, kept in found.promises():
        console.print(f"[{'green' if kept else 'bold red'}]{'kept' if kept else 'BROKEN'}[/]  {text}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document(found), indent=1) + "\n")
    return 0 if all(kept for _, kept in found.promises()) else 1


if __name__ == "__main__":
    sys.exit(main())
