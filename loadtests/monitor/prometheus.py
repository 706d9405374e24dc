"""A real Prometheus as a child process, and its HTTP API. Blocking; any thread."""

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtests.monitor import rules
from loadtests.processes import ProcessError, Server, free_ports

_LIMIT_S = 10.0

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Series:
    """`values` are pairs of seconds since the epoch and a number; gaps and NaN are left out."""

    labels: dict[str, str]
    values: list[tuple[float, float]]


@dataclass(frozen=True)
class Alert:
    """One that is active: `pending` or `firing`."""

    name: str
    labels: Mapping[str, str]
    state: str
    annotations: Mapping[str, str]

    @property
    def key(self) -> Labels:
        return tuple(sorted(self.labels.items()))


class Prometheus:
    """Raises: ProcessError: it does not answer."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=_LIMIT_S):
                return True
        except OSError:
            return False

    def alerts(self) -> list[Alert]:
        found = self._ask("alerts")["alerts"]
        return [Alert(a["labels"]["alertname"], a["labels"], a["state"], a["annotations"]) for a in found]

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("targets")["activeTargets"]
        return found

    def over_time(self, query: str, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """Raises: ValueError: the query is not one."""
        answer = self._ask("query_range", query=query, start=start_s, end=end_s, step=step_s)
        return [
            Series(
                each["metric"],
                [(float(at), float(value)) for at, value in each["values"] if not math.isnan(float(value))],
            )
            for each in answer["result"]
        ]

    def _ask(self, what: str, **parameters: object) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_LIMIT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(json.loads(error.read())["error"]) from None
        except OSError as error:
            raise ProcessError(f"Prometheus does not answer: {error}") from None


@contextmanager
def running(
    directory: Path, targets: Sequence[Mapping[str, Any]], factor: float, interval_s: float
) -> Iterator[Prometheus]:
    """One that scrapes the targets by the shortened rules, until the end of the context.

    Raises:
        ProcessError: it does not start, or there is none.
    """
    written = directory / "rules.yaml"
    written.write_text(yaml.safe_dump(rules.shortened(rules.read(), factor)), encoding="utf-8")
    config = directory / "prometheus.yml"
    config.write_text(yaml.safe_dump(rules.configuration(targets, written, interval_s)), encoding="utf-8")
    (port,) = free_ports(1)
    argv = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    try:
        server = Server("Prometheus", argv, directory / "prometheus.log", {}, None)
    except FileNotFoundError:
        raise ProcessError("there is no prometheus; on Debian and Ubuntu: apt install prometheus") from None
    with server:
        prometheus = Prometheus(port)
        server.wait_until(prometheus.ready)
        time.sleep(interval_s)
        yield prometheus
