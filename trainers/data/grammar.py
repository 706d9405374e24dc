"""A text of any length from a small grammar: English words, made-up sense, and a structure that reaches far back.

What a language model has to keep in mind to foresee the next word:

    number       the dogs that the baker ( this cat yawns ) greets bark .     "bark", for "dogs", ten words before
    kind         people, animals and things have verbs of their own
    nesting      clauses in clauses, and the bracket that closes the one that was opened
    a paragraph  bella is a baker . ... she ... so says bella .

Each choice shows in the word that is said next, and no two choices in the same place show as the same word. So whoever
knows the grammar can tell from the words so far where in it they are, and the probability that a word is said with is
its true probability after all words before it. No model can do better on average: this is the entropy floor.

Pure but for the generator of random numbers; the same seed gives the same text.
"""

import math
import random
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import NamedTuple, TypeVar

T = TypeVar("T")

PARAGRAPH = "¶"  # after each paragraph


class Kind(NamedTuple):
    """A part of the world in words, the frequent before the rare. Verbs are in the plural; `-s` is the other number."""

    nouns: Sequence[str]
    do: Sequence[str]
    do_to: Sequence[str]
    say: Sequence[str] = ()


@dataclass(frozen=True)
class Lexicon:
    kinds: Sequence[Kind]  # the first: people
    adjectives: Sequence[str]
    adverbs: Sequence[str]
    women: Sequence[str]
    men: Sequence[str]
    shares: tuple[float, ...]  # of the kinds


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ENGLISH = Lexicon(
    kinds=(
        Kind(
            _words("baker farmer sailor teacher doctor miller king judge pilot clerk nurse hunter poet monk duke"),
            _words("laugh sing sleep wait smile whistle dance kneel"),
            _words("greet help thank blame visit praise follow trust"),
            _words("say think hope know"),
        ),
        Kind(
            _words("dog cat horse cow bear goat duck hen crow mole frog hare snake spider pig lion"),
            _words("bark growl graze howl purr wander yawn swim"),
            _words("bite chase lick smell fear sniff trail nibble"),
        ),
        Kind(
            _words("lamp table door bell clock boat cart wheel rope bucket basket ladder hammer kettle bottle"),
            _words("fall shine creak rattle break crack gleam rust"),
            _words("cover hold block hide support hit shade dent"),
        ),
    ),
    adjectives=_words("small big grey white black quiet strange new fine poor heavy tall"),
    adverbs=_words("now then today often sometimes again"),
    women=_words("bella clara dora flora greta hanna julia"),
    men=_words("boris carl david felix georg max paul"),
    shares=(0.4, 0.35, 0.25),
)

# Determiners: what they are said with, and the numbers that they leave open (False: one, True: many).
_DETERMINERS = (("the", (False, True)), ("a", (False,)), ("some", (True,)), ("this", (False,)), ("these", (True,)))
_BRACKETS = (("(", ")"), ("[", "]"))
_EXTRA = (0.4, 0.35, 0.25, 0.0)  # how often a noun has a clause or brackets of its own, by depth
_DEEPEST = len(_EXTRA) - 1


class Subject(NamedTuple):
    kind: Kind
    many: bool
    at: int  # which word of the text it is


class Speaker:
    """Says paragraphs: `words`, the natural `surprise` of each (-log p, in nats) and its `reach`: how many words back
    the word lies that this one has to agree with; 0 where it is free."""

    def __init__(self, choose: Callable[[tuple[float, ...]], int], lexicon: Lexicon = ENGLISH) -> None:
        """
        Args:
            choose: one of some options, whose probabilities it is given.
        """
        self.words: list[str] = []
        self.surprise: list[float] = []
        self.reach: list[int] = []
        self._pick = choose
        self._lexicon = lexicon
        self._chosen = 0.0  # log p of what was chosen and does not show yet

    def paragraph(self) -> None:
        names, pronoun = self._choose(((self._lexicon.women, "she"), (self._lexicon.men, "he")))
        hero, at = self._choose(names), len(self.words)
        self._say(hero)
        self._say("is")
        self._say("a")
        self._say(self._choose(self._lexicon.kinds[0].nouns))
        self._say(".")
        while self._happens(0.85):
            self.sentence(pronoun, at)
        self._say("so")
        self._say("says")
        self._say(hero, at)
        self._say(".")
        self._say(PARAGRAPH)

    def sentence(self, pronoun: str, hero: int) -> None:
        """
        Args:
            pronoun: for whom the paragraph is about.
            hero: which word of the text told so.
        """
        opening = self._choose(("noun", "pronoun", "adverb"), (0.5, 0.3, 0.2))
        if opening == "pronoun":
            self._say(pronoun, hero)
            self._verb(Subject(self._lexicon.kinds[0], False, len(self.words) - 1), 0)
        else:
            if opening == "adverb":
                self._say(self._choose(self._lexicon.adverbs))
                self._say(",")
            self._clause(0)
        if self._happens(0.2):
            self._say("and")
            self._clause(0)
        self._say(".")

    def _clause(self, depth: int) -> None:
        self._verb(self._noun(depth), depth)

    def _noun(self, depth: int) -> Subject:
        determiner, numbers = self._choose(_DETERMINERS)
        at = len(self.words)
        self._say(determiner)
        if self._happens(0.25):
            self._say(self._choose(self._lexicon.adjectives))
        many = self._choose(numbers)
        kind = self._choose(self._lexicon.kinds, self._lexicon.shares)
        subject = Subject(kind, many, len(self.words))
        self._say(self._choose(kind.nouns) + ("s" if many else ""), at)
        if self._happens(_EXTRA[depth]):
            self._more_of(subject, depth + 1)
        return subject

    def _more_of(self, subject: Subject, depth: int) -> None:
        if self._happens(0.3):
            opening, closing = self._choose(_BRACKETS)
            at = len(self.words)
            self._say(opening)
            self._clause(depth)
            self._say(closing, at)
            return
        self._say("that")
        if self._happens(0.6):
            self._verb(subject, depth)
        else:
            doer = self._noun(depth)
            self._say_verb(doer.kind.do_to, doer)

    def _verb(self, subject: Subject, depth: int) -> None:
        """A verb that agrees with its subject, and what it asks for."""
        kind = subject.kind
        can_say = 0.2 if kind.say and depth < _DEEPEST else 0.0
        form = self._choose(("do", "do to", "say"), (0.45, 0.55 - can_say, can_say))
        if form == "do":
            self._say_verb(kind.do, subject)
        elif form == "do to":
            self._say_verb(kind.do_to, subject)
            self._noun(depth)
        else:
            self._say_verb(kind.say, subject)
            self._say("that")
            self._clause(depth + 1)

    def _say_verb(self, verbs: Sequence[str], subject: Subject) -> None:
        self._say(self._choose(verbs) + ("" if subject.many else "s"), subject.at)

    def _happens(self, probability: float) -> bool:
        return self._choose((True, False), (probability, 1 - probability))

    def _choose(self, options: Sequence[T], shares: tuple[float, ...] = ()) -> T:
        """One of them; where no shares are given, the n-th is n times rarer than the first."""
        shares = shares or _falling(len(options))
        chosen = self._pick(shares)
        self._chosen += math.log(shares[chosen])
        return options[chosen]

    def _say(self, word: str, agrees_with: int | None = None) -> None:
        self.reach.append(0 if agrees_with is None else len(self.words) - agrees_with)
        self.words.append(word)
        self.surprise.append(-self._chosen)
        self._chosen = 0.0


@cache
def _falling(count: int) -> tuple[float, ...]:
    shares = [1 / place for place in range(1, count + 1)]
    return tuple(share / sum(shares) for share in shares)


@cache
def _upper(shares: tuple[float, ...]) -> tuple[float, ...]:
    """Where each option's part of [0, 1) ends, but for the last that can happen: that one takes the rest."""
    possible = max(index for index, share in enumerate(shares) if share > 0)
    return tuple(accumulate(shares[:possible]))


def speak(words: int, seed: int) -> Speaker:
    """Whole paragraphs, until there are at least so many words."""
    draw = random.Random(seed).random
    speaker = Speaker(lambda shares: bisect(_upper(shares), draw()))
    while len(speaker.words) < words:
        speaker.paragraph()
    return speaker
