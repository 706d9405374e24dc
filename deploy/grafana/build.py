"""Writes dashboards/serving.json from the description below, which is what to read and to change.

    python deploy/grafana/build.py            # writes it
    python deploy/grafana/build.py --check    # exit code 1 if it is not what this would write

A panel is a title, a unit, its queries and what to see in it. `SELECTED` in a query stands for the variables at the top
of the dashboard, `SERVER` for that of the server alone. Runs by itself, on Python alone; knows names of metrics, and
nothing of the server.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).parent / "dashboards" / "serving.json"

SERVER = 'job="$job", instance=~"$instance"'
SELECTED = f'{SERVER}, model=~"$model", version=~"$version"'
RATE = "[$__rate_interval]"

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24  # of Grafana's grid
_SCHEMA = 41  # of Grafana 12; newer ones read it too


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """
    Attributes:
        about: what the panel shows and what to look for; shown at its corner.
        unit: of Grafana's units: `s`, `bytes`, `reqps`, `percentunit`, `short`, ...
        kind: `stat` and `table` show what is now, `timeseries` what was.
        stacked: the series are parts of a whole.
        red_above, red_below: where a value is bad.
        texts: what a stat shows for a value.
    """

    title: str
    about: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Literal["stat", "timeseries", "table"] = "timeseries"
    width: int = 8
    stacked: bool = False
    red_above: float | None = None
    red_below: float | None = None
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]
    height: int = 8


def stat(title: str, about: str, expr: str, unit: str = "short", width: int = 3, **more: Any) -> Panel:
    return Panel(title, about, (Query(expr),), unit, "stat", width, **more)


def over_time(title: str, about: str, unit: str, *queries: Query, **more: Any) -> Panel:
    return Panel(title, about, queries, unit, **more)


def quantile(of: float, metric: str, by: str, labels: str = SELECTED) -> str:
    return f"histogram_quantile({of}, sum by ({by}, le) (rate({metric}_bucket{{{labels}}}{RATE})))"


FAILED = "model|internal|unavailable|not_ready|queue_full|expired"  # what the server or a model is to blame for

ROWS = (
    Row(
        "Now",
        (
            stat(
                "Ready",
                "Whether every server has a ready version of each model that is wanted.",
                f"min(serving_ready{{{SERVER}}})",
                red_below=1,
                texts={"0": "no", "1": "yes"},
            ),
            stat("Servers", "That answer scrapes.", f"sum(up{{{SERVER}}})", red_below=1),
            stat("Requests/s", "Of all outcomes.", f"sum(rate(serving_requests_total{{{SELECTED}}}{RATE}))", "reqps"),
            stat(
                "Failing",
                "Share of requests that fail through the fault of the server or a model; not clients' mistakes.",
                f'(sum(rate(serving_requests_total{{{SELECTED}, outcome=~"{FAILED}"}}{RATE})) or vector(0)) '
                f"/ sum(rate(serving_requests_total{{{SELECTED}}}{RATE}))",
                "percentunit",
                red_above=0.05,
            ),
            stat(
                "p99",
                "Of answered requests, over all models.",
                f"histogram_quantile(0.99, sum by (le) (rate(serving_request_seconds_bucket{{{SELECTED}}}{RATE})))",
                "s",
                red_above=1,
            ),
            stat(
                "Alerts",
                "That fire now; deploy/prometheus/rules.yaml.",
                'count(ALERTS{alertstate="firing", alertname=~"Serving.+"}) or vector(0)',
                red_above=1,
            ),
            stat(
                "In quarantine",
                "Versions that did not pass their checks.",
                f"sum(serving_quarantined{{{SELECTED}}}) or vector(0)",
                red_above=1,
            ),
            stat(
                "Up for",
                "Since the last start; the youngest server.",
                f"time() - max(process_start_time_seconds{{{SERVER}}})",
                "s",
            ),
        ),
        height=4,
    ),
    Row(
        "Requests",
        (
            over_time(
                "Requests by model and protocol",
                "A model that nobody asks any more, or a protocol that falls away, is a change among the clients.",
                "reqps",
                Query(
                    f"sum by (model, protocol) (rate(serving_requests_total{{{SELECTED}}}{RATE}))",
                    "{{model}} {{protocol}}",
                ),
                stacked=True,
            ),
            over_time(
                "Requests by outcome",
                "ok and everything else; invalid and cancelled are the clients'.",
                "reqps",
                Query(f"sum by (outcome) (rate(serving_requests_total{{{SELECTED}}}{RATE}))", "{{outcome}}"),
                stacked=True,
            ),
            over_time(
                "Failing by model",
                "The ratio that ServingErrorRate looks at.",
                "percentunit",
                Query('model:serving_request_errors:ratio_rate5m{job="$job", model=~"$model"}', "{{model}}"),
                red_above=0.05,
            ),
            over_time(
                "Latency by model",
                "From arrival to answer, of answered requests.",
                "s",
                *(
                    Query(quantile(q, "serving_request_seconds", "model"), f"{{{{model}}}} p{q * 100:g}")
                    for q in (0.5, 0.95, 0.99)
                ),
            ),
            over_time(
                "Where the time goes",
                "Mean time of an answered request by phase. Much queue: too little capacity. Much decode: large JSON.",
                "s",
                Query(
                    f"sum by (phase) (rate(serving_request_phase_seconds_sum{{{SELECTED}}}{RATE})) "
                    f"/ sum by (phase) (rate(serving_request_phase_seconds_count{{{SELECTED}}}{RATE}))",
                    "{{phase}}",
                ),
                stacked=True,
            ),
            over_time(
                "Refused before any model was asked",
                "By reason: connections, rate, unauthenticated, ... A hostile or misconfigured client shows here.",
                "reqps",
                Query(
                    f"sum by (protocol, reason) (rate(serving_refused_total{{{SERVER}}}{RATE}))",
                    "{{protocol}} {{reason}}",
                ),
                stacked=True,
            ),
        ),
    ),
    Row(
        "Batching",
        (
            over_time(
                "Rows per run",
                "Mean and p95 of the batches that instances took. It rises with the load by itself.",
                "short",
                Query(
                    f"sum by (model) (rate(serving_batch_rows_sum{{{SELECTED}}}{RATE})) "
                    f"/ sum by (model) (rate(serving_batch_rows_count{{{SELECTED}}}{RATE}))",
                    "{{model}} mean",
                ),
                Query(quantile(0.95, "serving_batch_rows", "model"), "{{model}} p95"),
            ),
            over_time(
                "Queue",
                "Rows that wait for an instance, by version.",
                "short",
                Query(f"sum by (model, version) (serving_queue_rows{{{SELECTED}}})", "{{model}}/{{version}}"),
            ),
            over_time(
                "Queue, share of its capacity",
                "At 1 requests are refused. Stays there: more capacity, or less load.",
                "percentunit",
                Query(
                    f"max by (model, version) (version:serving_queue_rows:saturation{{{SELECTED}}})",
                    "{{model}}/{{version}}",
                ),
                red_above=0.8,
            ),
            over_time(
                "Wait in the queue",
                "p99, by model.",
                "s",
                Query(
                    quantile(0.99, "serving_request_phase_seconds", "model", f'{SELECTED}, phase="queue"'), "{{model}}"
                ),
            ),
            over_time(
                "In flight",
                "Requests between arrival and answer.",
                "short",
                Query(f"sum by (model, version) (serving_in_flight_requests{{{SELECTED}}})", "{{model}}/{{version}}"),
            ),
            over_time(
                "Instances busy",
                "Share of their time in which instances ran the model. Near 1: more comes than one more can take.",
                "percentunit",
                Query(
                    f"sum by (model, version) (rate(serving_run_seconds_total{{{SELECTED}}}{RATE})) "
                    f"/ sum by (model, version) (serving_instances{{{SELECTED}}})",
                    "{{model}}/{{version}}",
                ),
            ),
        ),
    ),
    Row(
        "Models",
        (
            Panel(
                "Versions",
                "Every version that a server knows, and its state.",
                (Query(f"max by (instance, model, version, state) (serving_model_state{{{SELECTED}}} == 1)"),),
                kind="table",
            ),
            over_time(
                "Shares",
                "What versions get of the requests that name none: canaries and rollbacks.",
                "percentunit",
                Query(f"avg by (model, version) (serving_traffic_share{{{SELECTED}}})", "{{model}}/{{version}}"),
            ),
            over_time(
                "Requests by version",
                "What versions really get, those that name one included.",
                "reqps",
                Query(
                    f"sum by (model, version) (rate(serving_requests_total{{{SELECTED}}}{RATE}))",
                    "{{model}}/{{version}}",
                ),
                stacked=True,
            ),
            over_time(
                "Events",
                "How often something has happened since the start: ready, failed, quarantined, promoted, rolled_back.",
                "short",
                Query(f'sum by (kind) (serving_events_total{{{SERVER}, model=~"$model"}})', "{{kind}}"),
            ),
            over_time(
                "Copies to shadows",
                "Answers of a shadow that are the same or differ; dropped says nothing of the version.",
                "reqps",
                Query(
                    f"sum by (model, version, outcome) (rate(serving_shadow_requests_total{{{SELECTED}}}{RATE}))",
                    "{{model}}/{{version}} {{outcome}}",
                ),
                stacked=True,
            ),
            over_time(
                "Time of loads",
                "Mean of all loads since the start, with warm-up.",
                "s",
                Query(
                    f'sum by (model, outcome) (serving_model_load_seconds_sum{{{SERVER}, model=~"$model"}}) '
                    f'/ sum by (model, outcome) (serving_model_load_seconds_count{{{SERVER}, model=~"$model"}})',
                    "{{model}} {{outcome}}",
                ),
            ),
        ),
    ),
    Row(
        "Server",
        (
            over_time(
                "Memory",
                "Of the processes. It grows with each load, and falls back after each unload.",
                "bytes",
                Query(f"process_resident_memory_bytes{{{SERVER}}}", "{{instance}}"),
            ),
            over_time(
                "Memory, share of what can be had",
                "Until the first limit: the server's own, the container's, the machine's. At 1 no version loads.",
                "percentunit",
                Query(f"instance:serving_memory:ratio{{{SERVER}}}", "{{instance}}"),
                red_above=0.9,
            ),
            over_time(
                "Memory by version",
                "As measured when it was loaded.",
                "bytes",
                Query(f"sum by (model, version) (serving_model_memory_bytes{{{SELECTED}}})", "{{model}}/{{version}}"),
                stacked=True,
            ),
            over_time(
                "CPU",
                "Cores in use, without the helper processes that read large JSON.",
                "short",
                Query(f"rate(process_cpu_seconds_total{{{SERVER}}}{RATE})", "{{instance}}"),
            ),
            over_time(
                "Lag of the event loop",
                "How late its timers run: every client waits for that. p50 and p99.",
                "s",
                *(
                    Query(
                        quantile(q, "serving_event_loop_lag_seconds", "instance", SERVER),
                        f"{{{{instance}}}} p{q * 100:g}",
                    )
                    for q in (0.5, 0.99)
                ),
                red_above=0.1,
            ),
            over_time(
                "Connections and open files",
                "Both flat under steady load.",
                "short",
                Query(f"serving_connections{{{SERVER}}}", "{{instance}} {{protocol}}"),
                Query(f"process_open_fds{{{SERVER}}}", "{{instance}} files"),
            ),
            over_time(
                "Since remote repositories were in line",
                "Rises while a store cannot be read; what was fetched serves on. Only with remote repositories.",
                "s",
                Query(f"time() - serving_repository_last_sync_timestamp_seconds{{{SERVER}}}", "{{source}}"),
            ),
            over_time(
                "Lost records",
                "Lines of the access log, traces and captures that were dropped, since too many waited.",
                "cps",
                Query(
                    f"sum by (instance, kind) (rate(serving_dropped_records_total{{{SERVER}}}{RATE}))",
                    "{{instance}} {{kind}}",
                ),
            ),
            over_time(
                "Certificate ends in",
                "Only with TLS.",
                "s",
                Query(f"serving_tls_certificate_expiry_timestamp_seconds{{{SERVER}}} - time()", "{{instance}}"),
                red_below=14 * 86400,
            ),
        ),
    ),
    Row(
        "GPUs",
        (
            over_time(
                "Device memory",
                "Of all processes on the device. Only with a GPU.",
                "bytes",
                Query(f"serving_device_memory_used_bytes{{{SERVER}}}", "{{instance}} {{device}}"),
                Query(f"serving_device_memory_total_bytes{{{SERVER}}}", "{{instance}} {{device}} total"),
                width=12,
            ),
            over_time(
                "Device utilization",
                "Share of the time in which something ran there. Only with a GPU.",
                "percentunit",
                Query(f"serving_device_utilization_ratio{{{SERVER}}}", "{{instance}} {{device}}"),
                width=12,
            ),
        ),
    ),
)


def dashboard(rows: Sequence[Row] = ROWS) -> dict[str, Any]:
    """As Grafana's classic JSON model has it."""
    return {
        "uid": "serving",
        "title": "serving",
        "description": "Model servers: requests, batches, versions, resources. Made by deploy/grafana/build.py.",
        "tags": ["serving"],
        "schemaVersion": _SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_alerts()]},
        "templating": {"list": list(_variables())},
        "links": [],
        "panels": list(_laid_out(rows)),
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": _DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing", alertname=~"Serving.+"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{instance}} {{model}} {{version}}",
        "step": "10s",
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}
    asked = (
        ("job", "Job", "label_values(serving_ready, job)", False),
        ("instance", "Server", 'label_values(serving_ready{job="$job"}, instance)', True),
        ("model", "Model", 'label_values(serving_model_state{job="$job"}, model)', True),
        ("version", "Version", 'label_values(serving_model_state{job="$job", model=~"$model"}, version)', True),
    )
    for name, label, query, many in asked:
        everything = {"includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,  # whenever the time range changes
            "sort": 3 if name == "version" else 1,  # by number, by name
            "multi": many,
            "hide": 0,
            **(everything if many else {"includeAll": False}),
        }


def _laid_out(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Rows from top to bottom, and panels from left to right as long as they fit."""
    number, y = 1, 0
    for row in rows:
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": y},
            "panels": [],
        }
        number, y, x = number + 1, y + 1, 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + row.height
            yield {"id": number, **_panel(panel), "gridPos": {"h": row.height, "w": panel.width, "x": x, "y": y}}
            number, x = number + 1, x + panel.width
        y += row.height


def _panel(panel: Panel) -> dict[str, Any]:
    result: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "targets": [_target(panel, query, "ABCDEF"[n]) for n, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }
    if panel.kind == "table":
        result["transformations"] = [
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True, "Value": True},
                    "indexByName": {"instance": 0, "model": 1, "version": 2, "state": 3},
                },
            }
        ]
    return result


def _target(panel: Panel, query: Query, ref: str) -> dict[str, Any]:
    now = panel.kind != "timeseries"
    return {
        "refId": ref,
        "datasource": _DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "editorMode": "code",
        "instant": now,
        "range": not now,
        "format": "table" if panel.kind == "table" else "time_series",
    }


def _field(panel: Panel) -> dict[str, Any]:
    result: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": list(_steps(panel))},
        "mappings": [],
    }
    if panel.texts:
        options = {value: {"text": text, "index": n} for n, (value, text) in enumerate(panel.texts.items())}
        result["mappings"] = [{"type": "value", "options": options}]
    if panel.kind == "timeseries":
        limited = panel.red_above is not None or panel.red_below is not None
        result["min"] = 0
        result["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if limited else "off"},
        }
    return result


def _steps(panel: Panel) -> Iterator[dict[str, Any]]:
    """A color holds from its value up."""
    if panel.red_below is not None:
        yield {"color": "red", "value": None}
        yield {"color": "green", "value": panel.red_below}
        return
    yield {"color": "green", "value": None}
    if panel.red_above is not None:
        yield {"color": "red", "value": panel.red_above}


_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes dashboards/serving.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the file differs")
    if parser.parse_args().check:
        return 0 if FILE.is_file() and FILE.read_text(encoding="utf-8") == text() else 1
    FILE.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
