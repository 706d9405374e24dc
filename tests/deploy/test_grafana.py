"""The dashboard: the file is what its description makes, holds together, and asks for metrics that there are.

Whether its queries return anything is what `python -m loadtests.monitor` finds out.
"""

import json
import re
import runpy
import shutil
import subprocess
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtests.monitor import dashboard, picture, rules
from loadtests.monitor.dashboard import Answer, Question
from loadtests.monitor.prometheus import Series
from serving.core.metrics import LiveVersion, Metrics
from serving.core.scrape import families

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
BUILD = runpy.run_path(str(GRAFANA / "build.py"))
DASHBOARD = dashboard.read()
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


def test_file_is_what_the_description_makes() -> None:
    assert BUILD["text"]() == BUILD["FILE"].read_text(), "run: python deploy/grafana/build.py"


def test_panels_do_not_overlap_and_fit() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    assert all(x < 24 for panel in PANELS for x, _ in cells(panel))
    assert not any(cells(one) & cells(other) for one, other in combinations(PANELS, 2))


def test_names_and_numbers_are_unique() -> None:
    for key in ("id", "title"):
        assert not [value for value, count in Counter(panel[key] for panel in PANELS).items() if count > 1]


def test_every_panel_is_explained() -> None:
    assert all(panel["description"] for panel in PANELS if panel["type"] != "row")


def test_variables_are_those_that_queries_use() -> None:
    used = set(re.findall(r"\$\{?(\w+)", str(DASHBOARD))) - {"__rate_interval", "__all"}
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"]}


def test_everything_asks_the_data_source_that_is_chosen() -> None:
    sources = [panel["datasource"] for panel in PANELS if panel["type"] != "row"]
    sources += [target["datasource"] for panel in PANELS for target in panel.get("targets", ())]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_queries_ask_for_metrics_that_there_are() -> None:
    recorded = {rule["record"] for group in rules.read()["groups"] for rule in group["rules"] if "record" in rule}
    metrics = Metrics(live=lambda: [LiveVersion("m", "1", "READY", 0, 0)], certificate_expiry=lambda: 1.0)
    metrics.sync("s3://b")
    names = {family.name for family in families(metrics)} | recorded
    elsewhere = re.compile(r"process_\w+|serving_device_\w+|up|ALERTS")
    for question in dashboard.questions(DASHBOARD):
        plain = re.sub(r'"[^"]*"', "", question.expr)
        for name in re.findall(r"([a-zA-Z_:][\w:]*)\{", plain):
            stem = re.sub(r"_(total|bucket|sum|count)$", "", name)
            assert stem in names or name in names or elsewhere.fullmatch(name), name


def test_those_that_may_be_empty_are_there() -> None:
    assert dashboard.ABSENT.keys() <= {panel["title"] for panel in PANELS}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt install prometheus")
def test_queries_are_valid(tmp_path: Path) -> None:
    """As rules, since that is what promtool checks."""
    made = [
        {"record": f"q:{number}", "expr": dashboard.expanded(question.expr, "1m")}
        for number, question in enumerate(dashboard.questions(DASHBOARD))
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": made}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(made)} rules found" in done.stdout


def test_grafana_keeps_every_field() -> None:
    """Read by the classes that Grafana publishes for its model, and written again, nothing is lost."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    again = json.loads(json.dumps(models.Dashboard.from_json(DASHBOARD), cls=encoder.JSONEncoder))
    # An annotation's fields are those of its data source, which these classes do not know.
    assert lost({**DASHBOARD, "annotations": {}}, again) == []


def lost(value: Any, again: Any, where: str = "") -> list[str]:
    """What of a value is not in another one."""
    if isinstance(value, dict) and isinstance(again, dict):
        missing = [f"{where}/{key}" for key in value.keys() - again.keys()]
        return missing + [text for key in value.keys() & again.keys() for text in lost(value[key], again[key], key)]
    if isinstance(value, list) and isinstance(again, list) and len(value) == len(again):
        return [text for one, other in zip(value, again, strict=True) for text in lost(one, other, where)]
    return [] if value == again else [where]


def test_provisioning_fits_together() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/serving.yaml").read_text())["providers"]
    scraped = yaml.safe_load((rules.DEPLOY / "prometheus.yml").read_text())
    assert source["type"] == "prometheus" and source["isDefault"]
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    assert provider["type"] == "file"
    mounts = yaml.safe_load((GRAFANA.parent / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in mounts


def test_legends() -> None:
    labels = {"__name__": "m", "model": "a", "version": "1"}
    assert picture.legend("{{model}}/{{ version }} p99", labels) == "a/1 p99"
    assert picture.legend("{{nothing}}", labels) == ""
    assert picture.legend("__auto", labels) == "model=a, version=1"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.125, "percentunit", "12.5 %"), (0.002, "s", "2 ms"), (90.0, "s", "90 s"), (864000.0, "s", "10 d"),
     (2.0**30, "bytes", "1 GiB"), (12.0, "reqps", "12/s"), (3.0, "short", "3")],
)  # fmt: skip
def test_values_in_words(value: float, unit: str, text: str) -> None:
    assert picture.worded(value, unit) == text


def test_picture(tmp_path: Path) -> None:
    """Every kind of panel, with data and without."""
    pytest.importorskip("matplotlib")
    values = [(100.0, 1.0), (101.0, 2.0)]
    answers = [
        Answer(Question("Row", f"{kind} {stacked} {len(series)}", kind, "s", "{{model}}", "x", stacked), series)
        for kind in ("stat", "table", "timeseries")
        for stacked in (False, True)
        for series in ([], [Series({"model": "m", "state": "READY"}, values), Series({"model": "n"}, values[1:])])
    ]
    picture.draw(tmp_path / "it.png", answers, 100.0, [(100.0, 100.5)], "title")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
