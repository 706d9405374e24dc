"""The rules of deploy/prometheus: promtool takes them, they tell what they should, and each alert is complete."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtests.monitor import rules
from loadtests.monitor.incidents import UNSTAGED, WAVES
from serving.core.metrics import LiveVersion, Metrics
from serving.core.scrape import families

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = list(rules.alerts(rules.read()))

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt install prometheus")


def promtool(*arguments: object) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_configuration_and_rules_are_valid() -> None:
    assert "1 rule files found" in promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_every_alert_fires_and_does_not() -> None:
    promtool("test", "rules", "rules_test.yaml")


def test_every_alert_has_a_test() -> None:
    cases: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "rules_test.yaml").read_text())["tests"]
    expected = {
        name
        for case in cases
        for test in case["promql_expr_test"]
        for sample in test["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert expected == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alert_is_complete(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{alert['alert'].lower()}"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alert_is_staged_or_said_not_to_be(alert: dict[str, Any]) -> None:
    staged = {expected.alert for wave in WAVES for incident in wave for expected in incident.expected}
    assert (alert["alert"] in staged) != (alert["alert"] in UNSTAGED)


def test_rules_ask_for_metrics_that_there_are() -> None:
    """A name that is mistyped would never fire. Metrics of GPUs and of the process come from elsewhere."""
    recorded = {rule["record"] for group in rules.read()["groups"] for rule in group["rules"] if "record" in rule}
    metrics = Metrics(live=lambda: [LiveVersion("m", "1", "READY", 0, 0)], certificate_expiry=lambda: 1.0)
    metrics.memory_free_bytes = lambda: 1
    metrics.sync("s3://b")
    known = {name for family in families(metrics) for name in _series(family.name, family.type)}
    elsewhere = re.compile(r"up|process_\w+|serving_device_\w+")
    for group in rules.read()["groups"]:
        for rule in group["rules"]:
            plain = re.sub(r'"[^"]*"|\{[^}]*\}', "", rule["expr"])
            asked = set(re.findall(r"\b(?:serving|process|model|instance|version)[\w:]*[_:]\w+|\bup\b", plain))
            unknown = {name for name in asked - known - recorded if not elsewhere.fullmatch(name)}
            assert asked, rule
            assert not unknown, f"{unknown} in {rule['expr']}"


def _series(name: str, kind: str) -> list[str]:
    if kind == "histogram":
        return [f"{name}_bucket", f"{name}_sum", f"{name}_count"]
    return [f"{name}_total" if kind == "counter" else name]


def test_shortened() -> None:
    given = {"groups": [{"rules": [{"expr": "rate(a[5m]) unless b{x='[7]'} offset 15m > 600", "for": "1h"}]}]}
    (rule,) = rules.shortened(given, 30)["groups"][0]["rules"]
    assert rule == {"expr": "rate(a[10000ms]) unless b{x='[7]'} offset 30000ms > 600", "for": "120000ms"}
    assert given["groups"][0]["rules"][0]["for"] == "1h"


def test_times_of_all_rules_are_shortened() -> None:
    """None is in a form that would be passed over."""
    for group in rules.shortened(rules.read(), 30)["groups"]:
        for rule in group["rules"]:
            assert rule.get("for", "1ms").endswith("ms")
            assert all(time.endswith("ms]") for time in re.findall(r"\[[^\]]*\]", rule["expr"])), rule["expr"]


@pytest.mark.parametrize("time", ["5", "m", "1h30m", "-1s"])
def test_other_times(time: str) -> None:
    with pytest.raises(ValueError, match="expected a number"):
        rules.seconds(time)
