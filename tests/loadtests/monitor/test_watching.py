"""What is told of alerts, from a Prometheus that says what the test wants; and once from a real one."""

import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from loadtests.monitor import prometheus, site, stage, traffic
from loadtests.monitor.incidents import Expected, Incident, Stage
from loadtests.monitor.prometheus import Alert, Prometheus
from loadtests.monitor.site import Site
from loadtests.monitor.stage import Watch
from tests.e2e.server import wait_for


class Said:
    """Stands for Prometheus: has the alerts that it was given."""

    def __init__(self) -> None:
        self.now: list[Alert] = []

    def alerts(self) -> list[Alert]:
        return self.now


def alert(name: str, state: str = "firing", **labels: str) -> Alert:
    return Alert(name, {"alertname": name, **labels}, state, {})


def set_up(tmp_path: Path) -> Stage:
    one, two = Site(tmp_path / "one"), Site(tmp_path / "two")
    return Stage(one, two, tmp_path, tmp_path, tmp_path, tmp_path, lambda name: False, 60)


def test_watch_notes_what_fires_and_when_it_is_over() -> None:
    said = Said()
    watch = Watch(cast(Prometheus, said))
    said.now = [alert("A", model="m"), alert("B", "pending")]
    watch.look()
    watch.look()
    said.now = [alert("A", model="n")]
    watch.look()
    first, second = watch.all()
    assert (first.alert.labels["model"], second.alert.labels["model"]) == ("m", "n")
    assert first.resolved_at is not None and first.resolved_at >= first.fired_at
    assert second.resolved_at is None


def test_wave(tmp_path: Path) -> None:
    """An alert that was expected, with the labels that were; one of another model; one that may come; one of the
    machine."""
    said = Said()
    watch = Watch(cast(Prometheus, said))
    here = set_up(tmp_path)
    instance = here.models.instance
    good = alert("Good", instance=instance, model="m")
    others = [alert("Good", instance=instance, model="other"), alert("May"), alert("ServingEventLoopLag")]

    @contextmanager
    def incident(_: Stage) -> Iterator[None]:
        said.now = [good, *others]
        watch.look()
        yield
        said.now = []
        watch.look()

    staged = Incident("it", incident, (Expected("Good", model="m"), Expected("Never", "server")), also=("May",))
    seen = stage.wave((staged,), here, watch, limit_s=0.3)
    outcome, never = seen.outcomes
    assert outcome.good and outcome.labels["model"] == "m"
    assert not never.good and never.fired_s is None
    assert [text.split()[0] for text in seen.unexpected] == ["Good"] and "'other'" in next(iter(seen.unexpected))


def test_alert_that_does_not_resolve_is_not_good(tmp_path: Path) -> None:
    said = Said()
    watch = Watch(cast(Prometheus, said))
    here = set_up(tmp_path)

    @contextmanager
    def incident(_: Stage) -> Iterator[None]:
        said.now = [alert("Stays", instance=here.server.instance)]
        watch.look()
        yield

    staged = Incident("it", incident, (Expected("Stays", "server"),))
    (outcome,) = stage.wave((staged,), here, watch, limit_s=0.3).outcomes
    assert outcome.fired_s is not None and outcome.resolved_s is None and not outcome.good


def test_certificate_and_key_belong_together(tmp_path: Path) -> None:
    for days in (90, 5):
        certificate, key = site.certify(tmp_path / "tls", days=days)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus: apt install prometheus")
def test_real_prometheus_tells_of_a_killed_server(tmp_path: Path) -> None:
    """Every rule is taken, the target is scraped, and ServingDown fires and is over."""
    site.put(tmp_path / "repo", "m", 1, site.scale(2))
    server = Site(tmp_path / "server", tmp_path / "repo", "--cache-dir", tmp_path / "cache")
    with site.closing(server):
        server.start()
        with prometheus.running(tmp_path, [server.target], 60, 1.0) as asked, stage.watching(asked) as watch:
            wait_for(lambda: [target["health"] for target in asked.targets()] == ["up"], "a scrape")
            with traffic.asking(traffic.rest(server, "m"), traffic.grpc_oip(server, "m")) as seen:
                wait_for(lambda: seen["200"] > 10, "answers")
                now = time.time()
                query = 'sum by (protocol) (serving_requests_total{outcome="ok"})'
                wait_for(lambda: len(asked.over_time(query, now, time.time(), 1)) == 2, "both protocols")
            server.kill()
            wait_for(lambda: [f.alert.name for f in watch.all()] == ["ServingDown"], "the alert")
            server.start()
            wait_for(lambda: watch.all()[0].resolved_at is not None, "its end")
            with pytest.raises(ValueError, match="parse error"):
                asked.over_time("sum by", 0, 1, 1)


def test_process_that_hangs_goes_on(tmp_path: Path) -> None:
    """`hang` leaves it running."""
    site.put(tmp_path / "repo", "m", 1, site.scale(2))
    server = Site(tmp_path / "server", tmp_path / "repo", "--cache-dir", tmp_path / "cache")
    with site.closing(server):
        server.start()
        server.hang(0.05)
        assert server.answers("/v2/health/ready")
        assert server.resident_bytes() > 10 * 1024**2
        server.stop()
        assert not server.answers("/v2/health/live")
