"""Every request in figures. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtests.soak.outcomes import Outcome, Record

EXAMPLES = 5  # of what went wrong, in words


@dataclass
class Tally:
    """Requests of one phase or protocol, by what came of them."""

    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)  # of those that were not answered
    versions: Counter[int] = field(default_factory=Counter)  # of those that were
    examples: list[str] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)  # of those that were

    def add(self, record: Record) -> None:
        ending = record.ending
        self.outcomes[ending.outcome] += 1
        if ending.outcome is Outcome.ANSWERED:
            self.versions[ending.version] += 1
            self.latencies_ms.append(1e3 * (record.ended_s - record.sent_s))
            return
        self.statuses[ending.status] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{record.protocol}: {ending.outcome}, {ending.status} {ending.detail}".rstrip())

    @property
    def sent(self) -> int:
        return self.outcomes.total()

    def plain(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            **{outcome.value: self.outcomes[outcome] for outcome in Outcome},
            "statuses": dict(self.statuses),
            "versions": dict(sorted(self.versions.items())),
            "examples": self.examples,
            "p50_ms": percentile(self.latencies_ms, 50),
            "p99_ms": percentile(self.latencies_ms, 99),
        }


def percentile(values: Sequence[float], share: float) -> float | None:
    return float(np.percentile(values, share)) if values else None


def tally(records: Iterable[Record]) -> Tally:
    found = Tally()
    for record in records:
        found.add(record)
    return found


def by_protocol(records: Iterable[Record]) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for record in records:
        found.setdefault(record.protocol, Tally()).add(record)
    return dict(sorted(found.items()))
