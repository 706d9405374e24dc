"""Texts as words, and the grammar whose entropy has to be exact."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from trainers.contract import DataError
from trainers.data.grammar import ENGLISH, PARAGRAPH, Kind, Lexicon, Speaker, speak
from trainers.data.text import LEAST, Vocabulary, join, made_up, read, split

TINY = Lexicon(
    kinds=(Kind(("baker",), ("laugh",), ("greet",), ("say",)), Kind(("dog", "cat"), ("bark",), ("bite",))),
    adjectives=("big",),
    adverbs=("now",),
    women=("bella",),
    men=("boris",),
    shares=(0.6, 0.4),
)


SMALL = ["the", "a", "some", "this", "these", "(", ")", "[", "]", "that", "and", "so", "is", "he", "she", ",", "."]


class UndecidedError(Exception):
    pass


class Every:
    """Says the first paragraph of a tiny language in every possible way that is not too rare."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.said: list[Speaker] = []
        self.begun: list[Speaker] = []  # where it would go on too rarely
        self.rare = 0.0  # probability of all that is left out

    def explore(self, choices: tuple[int, ...] = (), probability: float = 1.0) -> None:
        script = iter(choices)
        offered: list[tuple[float, ...]] = []

        def choose(shares: tuple[float, ...]) -> int:
            offered.append(shares)
            for choice in script:
                return choice
            raise UndecidedError

        speaker = Speaker(choose, TINY)
        try:
            speaker.paragraph()
        except UndecidedError:
            likely = [probability * share >= self.least for share in offered[-1]]
            if not all(likely):
                self.begun.append(speaker)
            for choice, share in enumerate(offered[-1]):
                if likely[choice]:
                    self.explore((*choices, choice), probability * share)
                else:
                    self.rare += probability * share
        else:
            self.said.append(speaker)


@pytest.fixture(scope="module")
def every() -> Every:
    found = Every(least=1e-4)
    found.explore()
    return found


def test_no_text_can_be_said_in_two_ways(every: Every) -> None:
    assert len(every.said) > 50 and len(every.begun) > 1_000
    assert len({tuple(speaker.words) for speaker in every.said}) == len(every.said)
    deepest = max(speaker.words.count("(") + speaker.words.count("that") for speaker in every.begun)
    assert deepest >= 2


def test_probabilities_of_all_texts_add_up_to_one(every: Every) -> None:
    told = math.fsum(math.exp(-sum(speaker.surprise)) for speaker in every.said)
    assert told + every.rare == pytest.approx(1, abs=1e-9)


def test_a_words_surprise_depends_on_the_words_before_it_alone(every: Every) -> None:
    """So it is what remains to be known, and its mean is the entropy that no model comes below."""
    next_words: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for speaker in (*every.said, *every.begun):
        for at, (word, surprise) in enumerate(zip(speaker.words, speaker.surprise, strict=True)):
            known = next_words[tuple(speaker.words[:at])].setdefault(word, surprise)
            assert abs(known - surprise) < 1e-12
    totals = [sum(math.exp(-surprise) for surprise in words.values()) for words in next_words.values()]
    assert max(totals) <= 1 + 1e-9
    assert sum(total > 1 - 1e-9 for total in totals) > 100  # of whose next words none is too rare


def test_words_agree_with_what_lies_as_far_back_as_is_said() -> None:
    speaker = speak(20_000, seed=1)
    closes = {")": "(", "]": "["}
    singular = {f"{verb}s" for kind in ENGLISH.kinds for verbs in kind[1:] for verb in verbs}
    plural = {verb for kind in ENGLISH.kinds for verbs in kind[1:] for verb in verbs}
    seen = set()
    for at, (word, reach) in enumerate(zip(speaker.words, speaker.reach, strict=True)):
        other = speaker.words[at - reach]
        if word in closes:
            assert other == closes[word]
        elif word in ("he", "she"):
            assert other in (ENGLISH.men if word == "he" else ENGLISH.women)
        elif word in ENGLISH.men or word in ENGLISH.women:
            assert other == word
        elif word in singular and speaker.words[at - 1] != "so":
            assert reach and (other in ("he", "she") or any(other in kind.nouns for kind in ENGLISH.kinds))
        elif word in plural:
            assert reach and any(other.removesuffix("s") in kind.nouns and other[-1] == "s" for kind in ENGLISH.kinds)
        elif word in (".", "and", PARAGRAPH):
            assert reach == 0
        seen.add(min(reach, 30))
    assert {1, 2, 5, 10, 20, 30} <= seen


def test_no_word_has_two_parts_to_play() -> None:
    kinds = ENGLISH.kinds
    nouns = [form for kind in kinds for noun in kind.nouns for form in (noun, f"{noun}s")]
    verbs = [form for kind in kinds for verbs in kind[1:] for verb in verbs for form in (verb, f"{verb}s")]
    others = [*ENGLISH.adjectives, *ENGLISH.adverbs, *ENGLISH.women, *ENGLISH.men]
    words = [*nouns, *verbs, *others, *SMALL, PARAGRAPH]
    assert len(set(words)) == len(words)


def test_a_made_up_text_is_the_same_for_the_same_seed_and_survives_its_file() -> None:
    text, again, other = made_up(5_000, 3), made_up(5_000, 3), made_up(5_000, 4)
    words = [*text.train, *text.held_out]
    assert words == [*again.train, *again.held_out] != [*other.train, *other.held_out]
    assert len(text.train) == 4_500 and 500 <= len(text.held_out) < 900
    assert text.floor is not None and text.reach is not None
    assert len(text.held_out) == len(text.floor) == len(text.reach)
    assert 5 < np.exp(text.floor.mean()) < 12
    assert split(join(words)) == words
    assert text.about == f"made up by a grammar: 4500 words to train on, {len(text.held_out)} held out"


def test_text_is_split_into_words_signs_and_paragraphs() -> None:
    assert split("The cat's here:\n(at  last)!\n \n\nÉté, 3.5\r\n\r\nend\n") == [
        *["the", "cat's", "here", ":", "(", "at", "last", ")", "!", PARAGRAPH],
        *["été", ",", "3", ".", "5", PARAGRAPH, "end"],
    ]


def test_a_vocabulary_keeps_frequent_words_and_counts_the_rest_as_unknown() -> None:
    vocabulary = Vocabulary.of("babcabdd", at_most=4, seen=2)
    assert vocabulary.words == ["<padding>", "<unknown>", "b", "a"]
    assert len(vocabulary) == 4
    numbers = vocabulary.numbers(["a", "z", "b", "d"])
    assert numbers.dtype == np.int32 and numbers.tolist() == [3, 1, 2, 1]
    assert Vocabulary.of("babc", at_most=9, seen=2).words[2:] == ["b"]
    assert vocabulary.file().decode().splitlines() == vocabulary.words


def test_a_file_is_read_and_its_end_held_out(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text("one two three four .\n" * 1_000, encoding="utf-8")
    text = read(path)
    assert (len(text.train), len(text.held_out)) == (4_500, 500)
    assert text.floor is None and text.reach is None
    assert text.about == "story.txt: 4500 words to train on, 500 held out"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"some words\xff" + b"more", "not a text in UTF-8: byte 10 is 0xff"),
        (b"one two three", f"a text of 3 words, expected at least {LEAST}"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "story.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read(path)
    assert str(raised.value) == f"{path}: {reason}"
