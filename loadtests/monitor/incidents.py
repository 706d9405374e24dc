"""What goes wrong, and which alerts have to tell. Each incident is a context: it begins, and at the end it is cured.

Those of one wave happen at the same time. Two servers: one has the models that go wrong, and clients; the other is the
one that things are done to.
"""

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.monitor import site, traffic
from loadtests.monitor.site import Site
from serving.client import Operator

MB = 1024 * 1024
MEMORY_LIMIT_MB = 500  # of the server with the models
_TOO_MUCH_MB = 640
_WAIT_MS = 1500
_CANARY = {
    "weights": {"1": 50, "2": 50},
    "limits": {"requests": 30, "latency_ratio": 2},
}
_SLOW_TURNS = 60

STEADY = """\
versions: all
traffic: {weights: {"1": 90, "2": 10}, shadow: {to: "2"}}
"""


@dataclass(frozen=True)
class Stage:
    """
    Attributes:
        models, server: the one whose models go wrong, and the other one.
        repository, remote, spare: the two repositories of `models`, and that of `server`.
        certificates: of `server`.
        fires: whether an alert of that name fires for `server`.
        times_shorter: than the rules have it.
    """

    models: Site
    server: Site
    repository: Path
    remote: Path
    spare: Path
    certificates: Path
    fires: Callable[[str], bool]
    times_shorter: float


@dataclass(frozen=True)
class Expected:
    """An alert with at least these labels. `on`: the server that it is about; empty: it is about all."""

    alert: str
    on: str = "models"
    model: str = ""


@dataclass(frozen=True)
class Incident:
    """`also`: alerts that may fire besides, or not."""

    name: str
    stage: Callable[[Stage], AbstractContextManager[object]]
    expected: tuple[Expected, ...]
    also: tuple[str, ...] = ()


def prepare(repository: Path, remote: Path, spare: Path) -> None:
    """What is served before anything goes wrong."""
    site.put(repository, "steady", 1, site.scale(2))
    site.put(repository, "steady", 2, site.scale(2), STEADY)
    site.put(repository, "frail", 1, site.table(10))
    site.put(repository, "patient", 1, site.scale(1), f"max_queue_delay_ms: {_WAIT_MS}\n")
    site.put(repository, "narrow", 1, site.scale(1), f"max_queue_delay_ms: {_WAIT_MS}\nmax_queue_rows: 8\n")
    site.put(repository, "canary", 1, site.laborious(1))
    site.put(repository, "canary", 2, site.laborious(_SLOW_TURNS), "versions: all\ntraffic: {weights: {'1': 1}}\n")
    site.put(remote, "far", 1, site.scale(3))
    site.put(spare, "one", 1, site.scale(1))
    site.put(spare, "two", 1, site.scale(2))


@contextmanager
def steady(stage: Stage) -> Iterator[object]:
    """The load that goes on all the time."""
    kinds = (traffic.rest, traffic.rest_binary, traffic.tfs_rest, traffic.grpc_oip, traffic.grpc_tfs)
    with traffic.asking(*(kind(stage.models, "steady") for kind in kinds), pause_s=0.1) as seen:
        yield seen


# The models


@contextmanager
def failing(stage: Stage) -> Iterator[object]:
    """Clients send what the model cannot take: every other request fails."""
    good, bad = ({"x": np.full((1, 4), number, np.int64)} for number in (5, 500))
    clients = (traffic.rest(stage.models, "frail", inputs) for inputs in (good, bad))
    with traffic.asking(*clients) as seen:
        yield seen


@contextmanager
def slow(stage: Stage) -> Iterator[object]:
    """A model that was told to wait for its batches to fill, and few requests."""
    with traffic.asking(traffic.rest(stage.models, "patient"), times=2) as seen:
        yield seen


@contextmanager
def overloaded(stage: Stage) -> Iterator[object]:
    """A queue with room for 8 rows, and twice as many clients."""
    with traffic.asking(traffic.rest(stage.models, "narrow"), times=16, pause_s=0.2) as seen:
        yield seen


@contextmanager
def slow_canary(stage: Stage) -> Iterator[object]:
    """A version that takes several times as long, on trial with a limit of twice."""
    Operator(stage.models.url).change("canary", "traffic", _CANARY)
    with traffic.asking(traffic.rest(stage.models, "canary"), times=2, pause_s=0.01) as seen:
        yield seen


@contextmanager
def corrupt(stage: Stage) -> Iterator[object]:
    """A new version whose file is not what it says."""
    home = stage.repository / "frail"
    hidden = home / ".2"
    hidden.mkdir()
    (hidden / "model.onnx").write_bytes(b"not a model")
    there = hidden.rename(home / "2")
    yield there
    shutil.rmtree(there)


@contextmanager
def too_large(stage: Stage) -> Iterator[object]:
    """A new model that needs more memory than the server may use."""
    there = site.put(stage.repository, "large", 1, site.huge(_TOO_MUCH_MB))
    yield there
    shutil.rmtree(there.parent)


@contextmanager
def stuck(stage: Stage) -> Iterator[object]:
    """A new model whose load has no end."""
    there = site.put(stage.repository, "stuck", 1, site.endless())
    yield there
    shutil.rmtree(there.parent)


@contextmanager
def cut_off(stage: Stage) -> Iterator[object]:
    """The remote repository cannot be read."""
    away = stage.remote.with_name("away")
    stage.remote.rename(away)
    yield away
    away.rename(stage.remote)
    Operator(stage.models.url).change("far", "load", {})  # at once: by itself it looks less and less often


# The server


@contextmanager
def killed(stage: Stage) -> Iterator[object]:
    """kill -9, and nobody starts it again."""
    stage.server.kill()
    yield None
    stage.server.start()


@contextmanager
def restarting(stage: Stage) -> Iterator[object]:
    """kill -9 and a start, again and again."""
    for _ in range(10):
        stage.server.kill()
        stage.server.start()
        time.sleep(60 / stage.times_shorter)  # for the next scrapes
        if stage.fires("ServingRestartLoop"):
            break
    yield None


@contextmanager
def damaged(stage: Stage) -> Iterator[object]:
    """A start with one of two models broken."""
    file = stage.spare / "two" / "1" / "model.onnx"
    whole = file.read_bytes()
    stage.server.stop()
    file.write_bytes(whole[: len(whole) // 2])
    stage.server.start(ready=False)
    yield None
    file.write_bytes(whole)


@contextmanager
def confined(stage: Stage) -> Iterator[object]:
    """A start with a memory limit that is just enough."""
    limit_mb = math.ceil(1.06 * stage.server.resident_bytes() / MB)
    stage.server.stop()
    stage.server.start("--memory-limit-mb", limit_mb, ready=False)
    yield None
    stage.server.stop()
    stage.server.start()


@contextmanager
def stopping_still(stage: Stage) -> Iterator[object]:
    """The process does not run for 150 of 400 ms."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(0.25):
            stage.server.hang(0.15)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield None
    finally:
        over.set()
        thread.join()


@contextmanager
def attacked(stage: Stage) -> Iterator[object]:
    """A client announces bodies that are far too large."""
    with traffic.asking(traffic.too_large(stage.server), pause_s=0.05) as seen:
        yield seen


@contextmanager
def expiring(stage: Stage) -> Iterator[object]:
    """A certificate that ends in five days, until somebody puts another one in its place."""
    site.certify(stage.certificates, days=5)
    yield None
    site.certify(stage.certificates, days=90)


_RESTARTS = ("ServingDown", "ServingNotReady", "ServingRestartLoop")

WAVES = (
    (
        Incident("a model fails on every other request", failing, (Expected("ServingErrorRate", "", "frail"),)),
        Incident("a model waits too long for batches", slow, (Expected("ServingLatency", "", "patient"),)),
        Incident(
            "more clients than a queue has room",
            overloaded,
            (Expected("ServingQueueSaturated", model="narrow"), Expected("ServingErrorRate", "", "narrow")),
            also=("ServingLatency",),
        ),
        Incident("a canary is slow and rolled back", slow_canary, (Expected("ServingRolledBack", model="canary"),)),
        Incident("a version is corrupt", corrupt, (Expected("ServingQuarantined", model="frail"),)),
        Incident(
            "a model does not fit into memory",
            too_large,
            (Expected("ServingLoadFailed", model="large"),),
            also=("ServingLoadStuck",),  # on a busy machine its trial lasts, by the shortened times, for a quarter hour
        ),
    ),
    (
        Incident(
            "a load has no end",
            stuck,
            (Expected("ServingLoadStuck", model="stuck"),),
            also=("ServingQuarantined", "ServingLoadFailed"),
        ),
        Incident("a remote repository is gone", cut_off, (Expected("ServingRemoteSyncStale"),)),
        Incident("a client sends what is refused", attacked, (Expected("ServingRefusing", "server"),)),
        Incident("the certificate ends soon", expiring, (Expected("ServingCertificateExpires", "server"),)),
    ),
    (Incident("the process does not run at times", stopping_still, (Expected("ServingEventLoopLag", "server"),)),),
    (Incident("kill -9", killed, (Expected("ServingDown", "server"),)),),
    (Incident("kill -9 again and again", restarting, (Expected("ServingRestartLoop", "server"),), also=_RESTARTS),),
    (
        Incident(
            "a start with a damaged model",
            damaged,
            (Expected("ServingNotReady", "server"), Expected("ServingQuarantined", "server", "two")),
            also=_RESTARTS,
        ),
    ),
    (
        Incident(
            "a memory limit that is nearly met",
            confined,
            (Expected("ServingMemoryNearLimit", "server"),),
            also=(*_RESTARTS, "ServingLoadFailed"),  # what does not fit is refused
        ),
    ),
)

# Alerts that what else the machine does may bring about, at any time: they tell the truth then.
OF_THE_MACHINE = ("ServingEventLoopLag",)

# Alerts that nothing here can bring about.
UNSTAGED = {"ServingDeviceMemoryNearLimit": "a GPU"}
