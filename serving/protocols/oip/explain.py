"""What the batcher of a version did and why, and what would help: sentences, and the figures that they are made of."""

from dataclasses import asdict
from typing import Any

from serving.batching.explaining.advice import Settings
from serving.batching.explaining.explain import explain
from serving.batching.explaining.figures import Figures
from serving.engine import Engine
from serving.repository.loads import cores
from serving.repository.version import Version

_DIGITS = 6  # that count


def of_model(engine: Engine, model: str, number: int | None) -> dict[str, Any]:
    """Of the version that a request with these would go to.

    Raises:
        ServingError: NOT_FOUND or NOT_READY.
    """
    return of_version(engine.catalog.resolve(model, number))


def of_version(version: Version) -> dict[str, Any]:
    batcher, settings = version.batcher, settings_of(version)
    report = explain(batcher.account.snapshot(), settings, batcher.estimate)
    known = {str(rows): _short(1000 * batcher.estimate(rows)) for rows in report.total.sizes if rows}
    return {
        "model": version.model,
        "version": str(version.number),
        "sentences": report.what,
        "advice": report.advice,
        "settings": asdict(settings),
        "recent": _figures(report.recent),
        "total": _figures(report.total),
        "estimated_run_ms": known,
        "queued_rows": batcher.queued_rows,
    }


def settings_of(version: Version) -> Settings:
    spec, batching, contract = version.spec, version.batcher.settings, version.contract
    return Settings(
        batching.max_batch_size,
        1000 * batching.max_queue_delay_s,
        batching.max_queue_rows,
        batching.instances,
        version.execution.setting.threads,
        spec.slo_ms,
        batching.allowed_sizes,
        bool(batching.padding),
        cores.usable() if spec.providers == ("CPUExecutionProvider",) else None,
        contract.unbatched_because,
    )


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        **{name: _short(value) for name, value in vars(figures).items() if isinstance(value, int | float)},
        "sizes": {str(rows): runs for rows, runs in figures.sizes.items()},
        "closed": {
            reason.value: {name: _short(value) for name, value in vars(close).items()}
            for reason, close in figures.closed.items()
        },
        "refused": {cause.value: count for cause, count in figures.refused.items()},
    }


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
