"""The command: a real Prometheus watches real servers while incidents are staged.

    python -m loadtests.monitor [--quick] [--factor 30] [--out DIR] [--picture FILE]

Starts two servers and a Prometheus on free loopback ports, with the rules of deploy/prometheus, whose times are divided
by the factor (`for: 5m` becomes 10 s). Then, under load, wave after wave of incidents: each must make its alerts fire,
these must resolve when it is cured, and no other alert may fire. In the end every query of the Grafana dashboard must
have returned data; those that need what is not there are named.

Prints a table, and writes `monitor.json` and `dashboard.png`, the dashboard as Grafana would show it, to the directory.
Exit code 1 when something was not as it must be. Needs `prometheus` (Debian and Ubuntu: apt install prometheus).
"""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from loadtests.command import Screen, environment, write_json
from loadtests.monitor import dashboard, incidents, picture, prometheus, rules, site, stage
from loadtests.monitor.dashboard import Answer
from loadtests.monitor.incidents import MEMORY_LIMIT_MB, OF_THE_MACHINE, UNSTAGED, WAVES, Stage
from loadtests.monitor.prometheus import Prometheus
from loadtests.monitor.site import Site
from loadtests.monitor.stage import Outcome, Watch
from loadtests.processes import ProcessError
from serving.client import ClientError

QUICK_FACTOR = 60.0
_PATIENCE_S = 30.0  # beyond what the rules' times come to
_CALM_S = 10.0
_INTERVAL_S = 1.0  # of scrapes and rules
_LONGEST_S = 20 * 60  # of a rule: its range and its `for`
_QUICK = ("--settle-s", 0.2, "--poll-s", 1, "--remote-poll-s", 1, "--retry-limit-s", 2)


@dataclass
class Found:
    outcomes: list[Outcome] = field(default_factory=list)
    unexpected: set[str] = field(default_factory=set)
    answers: list[Answer] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    unclear: set[str] = field(default_factory=set)  # annotations whose template failed
    spans: list[tuple[float, float]] = field(default_factory=list)
    start_s: float = 0.0

    @property
    def good(self) -> bool:
        told = all(outcome.good for outcome in self.outcomes)
        return told and not (self.unexpected or self.empty or self.unclear)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtests.monitor", description="Staged incidents with a real Prometheus.")
    parser.add_argument("--factor", type=float, default=30.0, help="what the rules' times are divided by (default 30)")
    parser.add_argument("--quick", action="store_true", help=f"divide them by {QUICK_FACTOR:g}")
    parser.add_argument("--out", type=Path, default=Path("runs/monitor"), help="directory (default runs/monitor)")
    parser.add_argument("--picture", type=Path, help="where the picture goes (default: in the directory)")
    return parser


def main() -> int:
    options = arguments().parse_args()
    factor = QUICK_FACTOR if options.quick else options.factor
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="serving-monitor-") as directory, screen.status as status:
        try:
            found = run(Path(directory), factor, status.update)
        except (ProcessError, ClientError, OSError) as error:
            screen.error(str(error))
            return 1
    screen.table(table(found))
    for title, texts in (
        ("fired and was not expected", sorted(found.unexpected)),
        ("has an annotation that cannot be filled in", sorted(found.unclear)),
        ("returned nothing", found.empty),
    ):
        for text in texts:
            screen.note(f"{title}: {text}")
    screen.note(f"{sum(not a.empty for a in found.answers)} of {len(found.answers)} queries of the dashboard have data")
    for what in (UNSTAGED, dashboard.ABSENT):
        screen.note("; ".join(f"{name} needs {needs}" for name, needs in what.items()))
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "monitor.json", document(found, environment({"factor": factor})))
    drawn = options.picture or options.out / "dashboard.png"
    title = f"The dashboard over a staged run; incidents are shaded, times of rules divided by {factor:g}"
    picture.draw(drawn, found.answers, found.start_s, found.spans, title)
    screen.note(f"Written to {options.out / 'monitor.json'} and {drawn}")
    return 0 if found.good else 1


def run(directory: Path, factor: float, say: Any) -> Found:
    """Raises: ProcessError, ClientError, OSError: something did not start, or broke."""
    repository, remote, spare, certificates = (
        directory / name for name in ("repository", "remote", "spare", "certificates")
    )
    incidents.prepare(repository, remote, spare)
    certificate, key = site.certify(certificates, days=90)
    trial_s = 15 * 60 / factor + 15  # longer than a load must be stuck for an alert
    limits = ("--memory-limit-mb", MEMORY_LIMIT_MB, "--trial-limit-s", trial_s)
    kept = ("--state-dir", directory / "state", "--access-log", directory / "access.log")
    one = Site(directory / "one", repository, f"file://{remote}", *_QUICK, *limits, *kept)
    tls = ("--tls-cert", certificate, "--tls-key", key)
    two = Site(directory / "two", spare, *_QUICK, *tls, "--cache-dir", directory / "cache", tls=True)
    found = Found()
    with ExitStack() as stack:
        stack.enter_context(site.closing(one, two))
        say("starting two servers and Prometheus")
        one.start()
        two.start()
        targets = [one.target, two.target]
        asked = stack.enter_context(prometheus.running(directory, targets, factor, _INTERVAL_S))
        watch = stack.enter_context(stage.watching(asked))

        def fires(alert: str) -> bool:
            return any(f.alert.name == alert and f.resolved_at is None for f in watch.all())

        set_up = Stage(one, two, repository, remote, spare, certificates, fires, factor)
        stack.enter_context(incidents.steady(set_up))
        found.start_s = time.time()
        say("everything is well")
        _baseline(found, watch, factor)
        for number, wave in enumerate(WAVES, 1):
            say(f"wave {number} of {len(WAVES)}: {', '.join(incident.name for incident in wave)}")
            seen = stage.wave(wave, set_up, watch, _LONGEST_S / factor + trial_s + _PATIENCE_S)
            found.spans.append((seen.begun_at, seen.cured_at))
            found.outcomes += seen.outcomes
            found.unexpected |= seen.unexpected
        say("everything is well again")
        time.sleep(_CALM_S)
        say("asking the dashboard's queries")
        _ask(found, asked)
        found.unclear = {
            f.alert.name for f in watch.all() if any("<error" in text for text in f.alert.annotations.values())
        }
    return found


def _baseline(found: Found, watch: Watch, factor: float) -> None:
    """Long enough for every rule to look at something: none may fire."""
    time.sleep(_LONGEST_S / factor)
    found.unexpected |= {
        f"{f.alert.name} {dict(f.alert.labels)} (before any incident)"
        for f in watch.all()
        if f.alert.name not in OF_THE_MACHINE
    }


def _ask(found: Found, asked: Prometheus) -> None:
    end_s = time.time()
    step_s = max(_INTERVAL_S, (end_s - found.start_s) / 1000)
    rate_interval = f"{round(4000 * _INTERVAL_S)}ms"  # as Grafana has it: four scrapes
    found.answers, found.empty = dashboard.ask(asked, found.start_s, end_s, step_s, rate_interval)


def table(found: Found) -> Table:
    result = Table(title="Incidents: the alert fires so long after the beginning, and is over so long after the cure")
    for column in ("incident", "alert", "fires", "over", ""):
        result.add_column(column)
    for outcome in found.outcomes:
        times = [f"{s:.1f} s" if s is not None else "never" for s in (outcome.fired_s, outcome.resolved_s)]
        verdict = Text("good") if outcome.good else Text("bad", style="red")
        result.add_row(outcome.incident, outcome.alert, *times, verdict)
    return result


def document(found: Found, settings: dict[str, Any]) -> dict[str, Any]:
    """All but the series, as plain data."""
    staged = {outcome.alert for outcome in found.outcomes}
    return {
        "environment": settings,
        "good": found.good,
        "incidents": [asdict(outcome) for outcome in found.outcomes],
        "unexpected": sorted(found.unexpected),
        "unclear": sorted(found.unclear),
        "not_staged": {rule["alert"]: UNSTAGED.get(rule["alert"], "") for rule in rules.alerts(rules.read())
                       if rule["alert"] not in staged},
        "queries": [
            {"panel": a.question.panel, "expr": a.question.expr, "series": len(a.series), "empty": a.empty}
            for a in found.answers
        ],
        "queries_without_data": found.empty,
        "absent": dashboard.ABSENT,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
