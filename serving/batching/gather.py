"""Whether to wake a free instance now, or after the requests that the event loop is about to read. Pure.

Clients that wait for answers send again when they get them, so requests come in groups of about the size of the batch
before. A group reaches the queue over several turns of the event loop. An instance that started with the first of it
would run a small batch, fight the loop for the interpreter, answer a small group, and so keep groups small for ever.

So while a group of the usual size is not complete, and the loop keeps finding requests, the instance is left alone.
That lasts some ten microseconds of an idle loop, never longer than `MAX_GATHER_S`, and does not happen at all to a
request that comes alone, nor where runs take so long that groups form by themselves.
"""

QUIET_TURNS = 16  # turns of the loop without a new request: nothing more is coming
MAX_GATHER_S = 0.001
LONG_RUN_S = 0.002
_FORGET = 0.9  # how fast the usual size shrinks, per batch
_FORGET_FRUITLESS = 0.5  # ... when waiting brought nothing


class Gather:
    def __init__(self) -> None:
        self._usual = 1.0  # size of recent groups, in requests
        self._first = 0  # waiting when this group began; 0: no group has begun
        self._seen = 0
        self._quiet = 0
        self._until = 0.0

    def enough(self, waiting: int) -> bool:
        """A group of the usual size is there."""
        return waiting >= self._usual

    def wait(self, waiting: int, now: float) -> bool:
        """Asked once in each turn of the loop while `waiting` requests and a free instance are there.

        True: ask again in the next turn. False: wake the instance; the group has ended.
        """
        if not self._first:
            self._first = self._seen = waiting
            self._quiet = 0
            self._until = now + MAX_GATHER_S
        elif waiting > self._seen:
            self._seen = waiting
            self._quiet = 0
        else:
            self._quiet += 1
        if waiting < self._usual and self._quiet < QUIET_TURNS and now < self._until:
            return True
        if waiting < self._usual and waiting <= self._first:
            self._usual = max(self._usual * _FORGET_FRUITLESS, 1.0)
        self._first = 0
        return False

    def took(self, size: int) -> None:
        """A batch of `size` requests begins to run."""
        self._usual = max(float(size), self._usual * _FORGET)
