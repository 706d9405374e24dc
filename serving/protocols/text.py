"""Protobuf's text form, as operators write it by hand: read into our messages, with the place of each field. Pure.

Fields that a message does not have are no error here, since other servers add some with each release; whoever reads the
text has to name them to its author. Protobuf's own parser cannot pass over all of them, and does not say which they
were. So they are found first, and blanked out.
"""

import difflib
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format

from serving.protocols.messages import pool

_MAX_SHOWN = 300

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>[][{}<>:,;-])
      | (?P<other>[+.\w]+|.)""",
    re.VERBOSE | re.DOTALL,
)
_ENDS = {"{": "}", "<": ">"}


class TextError(ValueError):
    """The text cannot be read; one line that begins with the place: `line:column: `."""


@dataclass(frozen=True)
class Parsed:
    """
    Attributes:
        message: what was read.
        lines: where a field comes first, by its path, such as `input.data_type`; elements of lists are not told apart.
        unknown: a line for each field that the message does not have, with the place and the nearest that it has.
    """

    message: Any
    lines: Mapping[str, int]
    unknown: tuple[str, ...]

    def line(self, path: str) -> int | None:
        """Of a field, or else of what it is in."""
        while path and path not in self.lines:
            path = path.rpartition(".")[0]
        return self.lines.get(path)


def parse(text: str, message: Any) -> Parsed:
    """Reads into a message, which should be empty.

    Raises:
        TextError: see there.
    """
    try:
        fields = _Fields(text, message.DESCRIPTOR)
        text_format.Parse(fields.known_text, message, descriptor_pool=pool)
    except text_format.ParseError as error:
        raise TextError(_worded(error)) from None
    except RecursionError:
        raise TextError("1:1: nested too deeply") from None
    except Exception as error:  # text that is wrong in a way that protobuf's parser did not think of
        raise TextError(f"1:1: not protobuf's text form: {_short(str(error) or type(error).__name__)}") from None
    return Parsed(message, fields.lines, tuple(fields.unknown))


def _worded(error: text_format.ParseError) -> str:
    where, _, what = str(error).partition(" : ")
    return f"{where}: {_short(what)}" if what else f"1:1: {_short(where)}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}..."


class _Fields:
    """The fields that are set in a text. What is wrong with the text is for the parser to find, which reads it next.

    Attributes:
        lines, unknown: as `Parsed` has them.
        known_text: the text with blanks where unknown fields were, so that places stay as they are.
    """

    def __init__(self, text: str, descriptor: Any) -> None:
        self.lines: dict[str, int] = {}
        self.unknown: list[str] = []
        self.known_text = text
        self._tokens = [token for token in _TOKEN.finditer(text) if token.lastgroup != "skip"]
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]  # of lines
        self._message("", descriptor, "")

    @property
    def _word(self) -> str:
        """The next token; empty: there is none."""
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _take(self, word: str) -> bool:
        """Passes over the next token if it is this one."""
        if not word or self._word != word:
            return False
        self._at += 1
        return True

    def _message(self, path: str, kind: Any, end: str) -> bool:
        """What is between two brackets, or all of it; whether it ends. `kind`: the message's descriptor; None: nobody
        knows."""
        while self._word:
            if self._take(end):
                return True
            if self._tokens[self._at].lastgroup == "name":
                self._field(path, kind)
            elif self._word == "[":  # the name of an extension, or of a type
                while self._word and not self._take("]"):
                    self._at += 1
                self._take(":")
                self._value("", None)
            else:
                self._at += 1
        return not end

    def _field(self, outer: str, kind: Any) -> None:
        name = self._tokens[self._at]
        path = f"{outer}.{name[0]}" if outer else name[0]
        field = kind.fields_by_name.get(name[0]) if kind is not None else None
        line = bisect_right(self._starts, name.start())
        self._at += 1
        whole = self._take(":") or self._word in (*_ENDS, "[")
        whole = self._value(path, field.message_type if field is not None else None) and whole
        if field is not None:
            self.lines.setdefault(path, line)
        elif kind is not None and whole:  # otherwise it is for the parser to refuse
            near = difflib.get_close_matches(name[0], kind.fields_by_name, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            self.unknown.append(f"line {line}: unknown field '{path}'{hint}")
            self._take(",") or self._take(";")
            self._blank(name.start(), self._tokens[self._at - 1].end())

    def _value(self, path: str, kind: Any) -> bool:
        """A message, a list, a number, a word, or strings that follow each other; whether it was one, and whole."""
        word = self._word
        if word in _ENDS:
            self._at += 1
            return self._message(path, kind, _ENDS[word])
        if self._take("["):
            while self._word:
                if self._take("]"):
                    return True
                if not self._value(path, kind):
                    self._at += 1  # a comma, as a rule
            return False
        if word.startswith(("'", '"')):
            while self._word.startswith(("'", '"')):
                self._at += 1
            return True
        if word in ("]", "}", ">", ":", ",", ";", ""):
            return False
        self._at += 1 + self._take("-")
        return True

    def _blank(self, start: int, end: int) -> None:
        blanks = re.sub(r"[^\n]", " ", self.known_text[start:end])
        self.known_text = self.known_text[:start] + blanks + self.known_text[end:]
