"""What clients may see of each phase, and what not."""

import pytest

from loadtests.chaos import judge
from loadtests.chaos.__main__ import arguments, document, table
from loadtests.chaos.scenario import Found, Phase, standing
from loadtests.soak.outcomes import RETRYABLE, Ending, Outcome, Record

OK = Ending(Outcome.ANSWERED, "200", 1)
BROKEN = Ending(Outcome.BROKEN, "ConnectionResetError")
UNREACHABLE = Ending(Outcome.UNREACHABLE, "ConnectionRefusedError")
NOT_YET = Ending(Outcome.FAILED, "404")


def run(*records: Record) -> Found:
    """Calm from 0, a server killed at 20 and back at 25, told to end at 50."""
    killed = Phase("kill -9 of the server", 15.0, kills=[20.0], back_s=25.0)
    phases = [Phase("nothing", 0.0), killed, Phase("SIGTERM", 50.0, kills=[50.0])]
    answered = [record(at_s, OK) for at_s in (1.0, 16.0)]
    return Found(phases, sorted([*answered, *records], key=lambda each: each.sent_s), 60.0)


def record(sent_s: float, ending: Ending, took_s: float = 0.01, protocol: str = "oip-json") -> Record:
    return Record(protocol, sent_s, sent_s + took_s, ending)


def test_all_is_well() -> None:
    assert judge.problems(run()) == []


@pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.ANSWERED])
def test_while_nothing_happens_all_are_answered(outcome: Outcome) -> None:
    (problem,) = judge.problems(run(record(5, Ending(outcome, "503"))))
    assert problem.startswith("nothing: 1 requests")


def test_what_was_under_way_at_the_kill_may_break_and_nothing_else() -> None:
    assert judge.problems(run(record(19.9, BROKEN, took_s=0.2))) == []
    assert judge.problems(run(record(19.5, BROKEN, took_s=0.2))) != []
    assert judge.problems(run(record(19.9, NOT_YET, took_s=0.2))) != []
    assert judge.problems(run(record(19.9, Ending(Outcome.LOST, "timeout"), took_s=30))) != []


@pytest.mark.parametrize("outcome", RETRYABLE)
def test_while_the_server_is_gone_clients_are_told_to_come_again(outcome: Outcome) -> None:
    assert judge.problems(run(record(22, Ending(outcome, "x")))) == []


def test_once_it_is_back_all_are_answered() -> None:
    assert judge.problems(run(record(25.5, UNREACHABLE))) != []
    assert judge.problems(run(record(25.5, UNREACHABLE, protocol="oip-grpc"))) == []  # waits before it connects again
    late = 25.5 + judge.RECONNECT_S
    assert judge.problems(run(record(late, UNREACHABLE, protocol="oip-grpc"))) != []


def test_tensorflow_servings_words_for_not_yet_count_until_the_server_is_ready() -> None:
    assert judge.problems(run(record(24, NOT_YET, protocol="tfs-rest"))) == []
    assert judge.problems(run(record(26, NOT_YET, protocol="tfs-rest"))) != []
    assert judge.problems(run(record(24, NOT_YET, protocol="oip-json"))) != []
    assert judge.tallies(run(record(24, NOT_YET, protocol="tfs-rest")))["all"].outcomes[Outcome.REFUSED] == 1


def test_what_had_begun_when_the_server_was_told_to_end_is_answered() -> None:
    assert judge.problems(run(record(49.9, UNREACHABLE, took_s=0.5))) != []
    assert judge.problems(run(record(50.1, UNREACHABLE), record(50.2, Ending(Outcome.REFUSED, "503")))) == []


def test_a_phase_in_which_nothing_was_answered_proves_nothing() -> None:
    assert "nothing: no request was answered" in judge.problems(Found([Phase("nothing", 0.0)], [], 10.0))


def test_every_request_is_in_one_phase() -> None:
    found = run(record(-0.5, OK), *(record(at_s, OK) for at_s in (14.9, 15.0, 50.0, 59.0)))
    tallies = judge.tallies(found)
    assert [tally.sent for tally in tallies.values()] == [3, 2, 2, 7]
    assert table(found).row_count == 4
    assert document(found, [])["requests"]["all"]["sent"] == 7


def test_what_must_stand_as_before() -> None:
    versions = [{"number": 4, "state": "READY", "requests": 7}, {"number": 3, "state": "ON_DISK", "requests": 0}]
    rest = {"default": 4, "labels": {"stable": 4}, "shares": {"4": 100.0}, "traffic": None, "before": [3]}
    assert standing({"versions": versions, **rest}) == {"ready": [4], **rest}


def test_arguments() -> None:
    assert arguments().parse_args(["--quick"]).quick
