"""`docs/metrics.md` and what a server exports: the same names, types and labels."""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from serving.core.metrics import LiveVersion, Metrics
from serving.core.scrape import LIMITS, exporter
from serving.core.types import Timing
from serving.engine import Engine
from serving.observe import other_names
from serving.observe.gpu import find
from tests import models
from tests.observe.test_gpu import nvml
from tests.protocols.build import serving_engine
from tests.transport.raw import on_loop

DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"
_ROW = re.compile(r"\| `([a-z_:]+)` \| (counter|gauge|histogram) \| ([\w, ]*?) ?\| ([^|]+) \| ([^|]+) \|")
_TYPE = re.compile(r"# TYPE (\S+) (\S+)")
_SAMPLE = re.compile(r"([a-z_:]+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+")
_LABEL = re.compile(r'([A-Za-z_]+)="(?:[^"\\]|\\.)*"')


class About(NamedTuple):
    kind: str
    labels: frozenset[str]


def documented() -> dict[str, About]:
    rows = _ROW.findall(DOCUMENT.read_text())
    assert len({name for name, *_ in rows}) == len(rows)
    return {name: About(kind, frozenset(filter(None, labels.split(", ")))) for name, kind, labels, *_ in rows}


def exported(text: str) -> dict[str, About]:
    kinds = dict(_TYPE.findall(text))
    labels: dict[str, frozenset[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            name = next(each for each in (line.partition("{")[0].partition(" ")[0], match[1]) if each in kinds)
            labels[name] = frozenset(_LABEL.findall(match[2] or "")) - {"le"}
    return {name: About(kind, labels[name]) for name, kind in kinds.items()}


def everything(engine: Engine) -> Metrics:
    """Metrics of a server that has, and that has seen, all there is."""
    metrics = engine.metrics
    metrics.requests("m", "1", "oip_rest").answered(0, Timing(), 0, 0)
    metrics.requests("m", "1", "oip_rest").failed("model")
    metrics.batches("m", "1").observe(1)
    metrics.loaded("m", "ok", 1)
    metrics.shadow("m", "1").compared(True, 0, 0)
    metrics.sync("s3://bucket")
    metrics.refused("http", "rate")
    metrics.events = {("m", "ready"): 1}
    metrics.states = ("READY",)
    metrics.live = lambda: [LiveVersion("m", "1", "READY", 0, 0, True, 1.0, 1, 1, 1)]
    metrics.connections["http"] = metrics.dropped["trace"] = int
    metrics.certificate_expiry = metrics.memory_free_bytes = lambda: 1
    metrics.limits = dict.fromkeys(LIMITS, 1.0)
    return metrics


@on_loop
async def test_the_document_lists_what_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    models.save(models.identity(), tmp_path / "m/1/model.onnx")
    gpus: Any = find()
    async with serving_engine(tmp_path) as (engine, _):
        texts = (other_names.triton(engine), other_names.tensorflow_serving(engine))
        text = exporter(everything(engine), more=[gpus], texts=texts)().decode()
    found = exported(text)
    assert found.keys() == documented().keys()
    assert found == documented()


def test_outcomes_reasons_and_kinds_are_explained() -> None:
    from serving.core.errors import ErrorKind
    from serving.repository.control.events import Kind

    text = DOCUMENT.read_text()
    asked = {kind.value for kind in ErrorKind} - {"exists", "unauthenticated", "forbidden", "too_many"}  # not of models
    for word in (*asked, *(kind.value for kind in Kind)):
        assert f"`{word}`" in text, word
