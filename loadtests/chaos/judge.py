"""Which of what clients saw they should not have seen. Pure.

Every request is answered, with these exceptions. Each of them tells its client that it may ask again.

- A request that was under way when the server, or the helper that worked on it, was killed.
- A request sent after the server was killed or told to stop, until it was ready again. gRPC clients wait a little
  between two attempts to connect, so for them that is until then and `RECONNECT_S` more.
"""

from collections.abc import Sequence

from loadtests.chaos.scenario import Found, Phase
from loadtests.soak import counts
from loadtests.soak.counts import Tally
from loadtests.soak.outcomes import RETRYABLE, Ending, Outcome, Record

RECONNECT_S = 5.0
# A server that starts has not loaded its models yet. TensorFlow Serving's API has no other words for that.
_NOT_YET = ("404", "NOT_FOUND")


def by_phase(found: Found) -> list[tuple[Phase, list[Record]]]:
    """Each phase with the requests that were sent in it."""
    ends = [phase.begun_s for phase in found.phases[1:]] + [float("inf")]
    return [
        (phase, [seen(phase, record) for record in found.records if begun_s <= record.sent_s < end_s])
        for phase, end_s, begun_s in zip(found.phases, ends, _begins(found), strict=True)
    ]


def _begins(found: Found) -> list[float]:
    """The first phase has whatever was sent before it, too."""
    return [float("-inf"), *(phase.begun_s for phase in found.phases[1:])]


def seen(phase: Phase, record: Record) -> Record:
    """The record; where its server was on its way up, with a refusal told as one."""
    if (
        record.ending.outcome is Outcome.FAILED
        and record.protocol.startswith("tfs")
        and record.ending.status in _NOT_YET
        and _away(phase, record)
    ):
        return record._replace(ending=Ending(Outcome.REFUSED, record.ending.status, detail=record.ending.detail))
    return record


def may_fail(phase: Phase, record: Record) -> bool:
    """Whether something else than an answer is to be expected of this request."""
    if record.ending.outcome not in RETRYABLE:
        return False
    if _away(phase, record):
        return True
    if phase.name == "SIGTERM":  # what was under way then must be answered
        return bool(phase.kills) and record.sent_s >= phase.kills[0]
    return any(record.sent_s <= killed_s <= record.ended_s for killed_s in phase.kills)


def _away(phase: Phase, record: Record) -> bool:
    """Sent while the server was gone."""
    if phase.back_s is None:
        return False
    grpc = "grpc" in record.protocol or "stream" in record.protocol
    reconnect_s = RECONNECT_S if grpc and record.ending.outcome is not Outcome.FAILED else 0.0
    return phase.kills[0] <= record.sent_s <= phase.back_s + reconnect_s


def problems(found: Found) -> list[str]:
    """In words; none: all is well."""
    told = []
    for phase, records in by_phase(found):
        told += [f"{phase.name}: {problem}" for problem in phase.problems]
        bad = [each for each in records if each.ending.outcome is not Outcome.ANSWERED and not may_fail(phase, each)]
        if bad:
            told.append(f"{phase.name}: {len(bad)} requests: {'; '.join(_examples(bad))}")
        if not any(record.ending.outcome is Outcome.ANSWERED for record in records) and phase.name != "SIGTERM":
            told.append(f"{phase.name}: no request was answered")
    return told


def _examples(records: Sequence[Record]) -> list[str]:
    return counts.tally(records).examples


def tallies(found: Found) -> dict[str, Tally]:
    """By phase, and of all."""
    phases = by_phase(found)
    every = [record for _, records in phases for record in records]
    return {**{phase.name: counts.tally(records) for phase, records in phases}, "all": counts.tally(every)}
