"""The metrics of all replicas as one scrape: which replica has what, and how it comes to the one that was asked.

What a replica returns to another one must stay below 100 kB: larger results go through Ray's object store, and Ray 2.60
ends the process that has asked for them if it is done with one before Ray is. So metrics travel compressed, in pieces.
"""

import gzip
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

PIECE_BYTES = 64 * 1024
_KEPT = 8  # scrapes at once

# Of a scrape's name and a number, from each replica: its name, that piece of its metrics, and how many there are.
Ask = Callable[[str, int], Awaitable[Sequence[tuple[str, bytes, int]]]]


class Pieces:
    """The metrics of one replica, as they were when a scrape began."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        self._text = text
        self._begun: dict[str, bytes] = {}

    def piece(self, scrape: str, number: int) -> tuple[bytes, int]:
        """A piece, from 0 on, and how many there are; none, if the scrape began without this replica."""
        if number == 0:
            self._begun[scrape] = gzip.compress(self._text(), 1)
            if len(self._begun) > _KEPT:
                del self._begun[next(iter(self._begun))]
        data = self._begun.get(scrape, b"")
        count = -(-len(data) // PIECE_BYTES)
        if number + 1 >= count:
            self._begun.pop(scrape, None)
        return data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES], count


async def scraped(scrape: str, ask: Ask) -> str:
    """The metrics of all replicas; one that went away meanwhile is left out."""
    found: dict[str, bytes] = {}
    counts: dict[str, int] = {}
    number = 0
    while number == 0 or number < max(counts.values(), default=0):
        for replica, piece, count in await ask(scrape, number):
            if number == 0:
                counts[replica] = count
            if count == counts.get(replica):
                found[replica] = found.get(replica, b"") + piece
        number += 1
    texts = {}
    for replica, data in found.items():
        try:
            texts[replica] = gzip.decompress(data).decode()
        except (EOFError, OSError):  # not all of it came
            continue
    return merged(texts)


_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?")


def merged(scrapes: Mapping[str, str]) -> str:
    """One text of what each replica gave, every sample with the label `replica`.

    Samples of a family stay together, below its one description, as the format wants it.

    Args:
        scrapes: the texts in Prometheus' format, by the name of the replica.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}  # by name: its description, its samples
    for replica, text in sorted(scrapes.items()):
        described: list[str] = []
        samples: list[str] = []
        for line in text.splitlines():
            if line.startswith("# HELP "):
                described, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
            if line.startswith("#"):
                if line not in described:
                    described.append(line)
            elif line:
                samples.append(_SAMPLE.sub(partial(_labelled, replica), line, count=1))
    lines = [line for described, samples in families.values() for line in (*described, *samples)]
    return "\n".join([*lines, ""])


def _labelled(replica: str, found: "re.Match[str]") -> str:
    name, others = found.groups()
    return f'{name}{{replica="{replica}"' + ("," if others else "}")
