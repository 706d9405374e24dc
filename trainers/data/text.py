"""Texts as words: a file's, or made up by a small grammar (grammar.py). Knows no machine learning library."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainers.contract import DataError
from trainers.data.grammar import PARAGRAPH, speak

PADDING, UNKNOWN = "<padding>", "<unknown>"  # the words 0 and 1 of every vocabulary
HELD_OUT = 0.1  # the last part of a text
LEAST = 2_000  # words of a text

# A word with its apostrophes, one sign, or the empty line between two paragraphs.
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]|(?<=\n)[ \t\r]*\n\s*")


@dataclass(frozen=True)
class Text:
    """Words to train on and the words after them, held out.

    Attributes:
        floor: float64 [held-out words], -log of each word's true probability, in nats; None for a text from a file.
        reach: int64 [held-out words], how many words back the word lies that this one has to agree with; 0: it is free.
        about: one line.
    """

    train: list[str]
    held_out: list[str]
    about: str
    floor: np.ndarray | None = None
    reach: np.ndarray | None = None


class Vocabulary:
    """The words that a model knows; a word's number is its place in `words`. 0 is padding, 1 any other word."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def of(cls, words: Iterable[str], *, at_most: int, seen: int) -> "Vocabulary":
        """The most frequent words, those seen less often left out."""
        counted = [word for word, count in Counter(words).most_common(max(0, at_most - 2)) if count >= seen]
        return cls([PADDING, UNKNOWN, *counted])

    def __len__(self) -> int:
        return len(self.words)

    def numbers(self, words: Iterable[str]) -> np.ndarray:
        """int32 [words]."""
        return np.array([self._numbers.get(word, 1) for word in words], np.int32)

    def file(self) -> bytes:
        """A word a line, the first line is number 0."""
        return ("\n".join(self.words) + "\n").encode()


def split(text: str) -> list[str]:
    """Lower-case words, signs, and `¶` where an empty line ends a paragraph."""
    return [PARAGRAPH if word.isspace() else word for word in _WORD.findall(text.lower())]


def join(words: Iterable[str]) -> str:
    """A text that `split` takes apart into the same words."""
    return re.sub(rf" ?{PARAGRAPH} ?", "\n\n", " ".join(words))


def read(path: Path) -> Text:
    """A file's text in UTF-8. Raises DataError."""
    try:
        words = split(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8: byte {error.start} is {error.object[error.start]:#x}") from None
    if len(words) < LEAST:
        raise DataError(f"{path}: a text of {len(words)} words, expected at least {LEAST}")
    end = round(len(words) * (1 - HELD_OUT))
    about = f"{path.name}: {end} words to train on, {len(words) - end} held out"
    return Text(words[:end], words[end:], about)


def made_up(words: int, seed: int) -> Text:
    """A text of about so many words from the grammar: the same for the same seed."""
    speaker = speak(words, seed)
    end = round(words * (1 - HELD_OUT))
    about = f"made up by a grammar: {end} words to train on, {len(speaker.words) - end} held out"
    floor, reach = np.array(speaker.surprise[end:]), np.array(speaker.reach[end:], np.int64)
    return Text(speaker.words[:end], speaker.words[end:], about, floor, reach)
