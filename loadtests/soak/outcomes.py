"""What can come of a request, from its client's side. Pure."""

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """Every request that was begun ends as exactly one of these."""

    ANSWERED = "answered"  # rightly
    REFUSED = "refused"  # by an answer that says that it may be asked again
    UNREACHABLE = "unreachable"  # no connection could be made: nothing was sent
    BROKEN = "broken"  # the connection ended before the answer came: the client sees an error, and may ask again
    FAILED = "failed"  # by an answer that says nothing of asking again
    WRONG = "wrong"  # an answer that is not right
    LOST = "lost"  # neither an answer nor an error came in time


RETRYABLE = (Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.BROKEN)


class Ending(NamedTuple):
    """`status`: HTTP's, or the name of gRPC's code, or in a word what the system said. `version`: that answered."""

    outcome: Outcome
    status: str
    version: int = 0
    detail: str = ""


class Record(NamedTuple):
    """One request; times on the clock of `time.monotonic`."""

    protocol: str
    sent_s: float
    ended_s: float
    ending: Ending
