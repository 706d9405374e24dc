"""The queries of deploy/grafana's dashboard as Grafana would send them, and what a Prometheus answers.

The first half is pure; nothing here knows how the dashboard was made.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.monitor.prometheus import Prometheus, Series

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "serving.json"

# Panels that stay empty where something is not at hand.
ABSENT = {"Device memory": "a GPU", "Device utilization": "a GPU"}


@dataclass(frozen=True)
class Question:
    """One query of a panel; `legend` is its template for the names of series, `kind` the panel's type."""

    row: str
    panel: str
    kind: str
    unit: str
    legend: str
    expr: str
    stacked: bool


@dataclass(frozen=True)
class Answer:
    question: Question
    series: list[Series]

    @property
    def empty(self) -> bool:
        return not any(series.values for series in self.series)


def questions(dashboard: dict[str, Any]) -> Iterator[Question]:
    row = ""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        defaults = panel["fieldConfig"]["defaults"]
        stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
        for target in panel["targets"]:
            legend, expr = target["legendFormat"], target["expr"]
            yield Question(row, panel["title"], panel["type"], defaults["unit"], legend, expr, stacked)


def variables(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and query of each variable that asks Prometheus."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def expanded(expr: str, rate_interval: str) -> str:
    """With every variable at its first value: the job's name, and all of the others."""
    expr = expr.replace("$__rate_interval", rate_interval).replace("$job", "serving")
    for name in ("instance", "model", "version"):
        expr = expr.replace(f"${name}", ".*")
    return expr


def read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def ask(
    prometheus: Prometheus, start_s: float, end_s: float, step_s: float, rate_interval: str
) -> tuple[list[Answer], list[str]]:
    """Every query over that time; and in words what was empty that should not be."""
    dashboard = read()
    answers = []
    for question in questions(dashboard):
        expr = expanded(question.expr, rate_interval)
        answers.append(Answer(question, prometheus.over_time(expr, start_s, end_s, step_s)))
    problems = [
        f"{answer.question.panel}: {answer.question.expr}"
        for answer in answers
        if answer.empty and answer.question.panel not in ABSENT
    ]
    for name, query in variables(dashboard):
        metric = query.removeprefix("label_values(").rpartition(",")[0]
        found = prometheus.over_time(expanded(metric, rate_interval), start_s, end_s, step_s)
        if not any(query.rpartition(",")[2].strip(") ") in series.labels for series in found):
            problems.append(f"variable {name}: {query}")
    return answers, problems
