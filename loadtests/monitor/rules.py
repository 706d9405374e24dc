"""The rules of deploy/prometheus with all their times shortened, so that an incident of an hour takes minutes.

Pure, but for reading the files. Shortened are `for:`, the ranges of expressions (`[5m]`) and `offset`: all that says
how long something has to last. Thresholds stay as they are.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"(?P<before>\[|\boffset\s+)(?P<time>\d+[smhd])\b")


def read(path: Path = DEPLOY / "rules.yaml") -> dict[str, Any]:
    rules: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return rules


def alerts(rules: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The alert rules, in their order."""
    for group in rules["groups"]:
        yield from (rule for rule in group["rules"] if "alert" in rule)


def seconds(time: str) -> float:
    """Of a time with one unit, such as `15m`. ValueError for any other."""
    found = re.fullmatch(r"(\d+)([smhd])", time)
    if found is None:
        raise ValueError(f"expected a number and one of {', '.join(_SECONDS)}, got '{time}'")
    return int(found[1]) * _SECONDS[found[2]]


def shortened(rules: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Every time divided by `factor`."""
    result: dict[str, Any] = copy.deepcopy(dict(rules))
    for group in result["groups"]:
        for rule in group["rules"]:
            rule["expr"] = _TIME.sub(lambda at: at["before"] + _divided(at["time"], factor), rule["expr"])
            if "for" in rule:
                rule["for"] = _divided(rule["for"], factor)
    return result


def _divided(time: str, factor: float) -> str:
    return f"{round(1000 * seconds(time) / factor)}ms"


def configuration(targets: Sequence[Mapping[str, Any]], rules: Path, interval_s: float) -> dict[str, Any]:
    """That of deploy/prometheus, for these targets and rules."""
    result: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    every = f"{round(1000 * interval_s)}ms"
    result["global"] = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    result["rule_files"] = [str(rules)]
    (job,) = result["scrape_configs"]
    job["static_configs"] = [dict(target) for target in targets]
    job["tls_config"] = {"insecure_skip_verify": True}  # certificates here are made by the minute
    return result
