"""`kill -9` of the server and of a trial, swaps, canaries and a stop, under load: every request is accounted for."""

from collections import Counter
from pathlib import Path

from loadtests.chaos import judge
from loadtests.chaos.scenario import Settings, run
from loadtests.soak import wire
from loadtests.soak.outcomes import RETRYABLE, Outcome

SMALL = Settings(pause_s=0.6, per_s=6, clients=2, swaps=1, helper_kills=2)


def test_every_request_is_answered_or_told_to_come_again(tmp_path: Path) -> None:
    found = run(SMALL, tmp_path, lambda _: None)
    assert judge.problems(found) == []

    kill, stop = found.phases[-2:]
    assert kill.back_s is not None and any(note.startswith("as before") for note in kill.notes)
    tallies = judge.tallies(found)
    assert tallies["all"].sent == len(found.records) == sum(tallies[phase.name].sent for phase in found.phases)
    seen = Counter(record.ending.outcome for _, records in judge.by_phase(found) for record in records)
    assert seen.keys() <= {Outcome.ANSWERED, *RETRYABLE}

    # The load did not spare it: there was some while it was gone, and over every protocol before and after that.
    away = [record for record in found.records if kill.kills[0] <= record.sent_s < kill.back_s]
    assert any(record.ending.outcome is Outcome.UNREACHABLE for record in away)
    answered = [record for record in found.records if record.ending.outcome is Outcome.ANSWERED]
    assert {record.protocol for record in answered if record.sent_s < kill.kills[0]} == set(wire.PROTOCOLS)
    assert len({record.ending.version for record in answered}) >= 4
    assert any(kill.back_s < record.sent_s < stop.begun_s for record in answered)
