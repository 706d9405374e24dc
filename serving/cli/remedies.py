"""What can be done about a version that cannot be loaded: where its reason lies, and how it is put right.

Reasons are texts of the repository, the backends and their runtimes. The table goes by parts of them; for one that it
does not know it names the place alone.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from serving.core.artifact import GOLDEN


@dataclass(frozen=True)
class Problem:
    """`where`: a file or directory; `fix`: empty where `what` says it, or nothing is known."""

    where: str
    what: str
    fix: str = ""


def problem_of(error: Exception, file: Path, fix: str = "") -> Problem:
    """What is wrong with a file, where the error's text may begin with its name and a line's number."""
    text = str(error)
    named = re.match(rf"{re.escape(str(file))}(?::\d+)*: ", text)
    where = named[0].removesuffix(": ") if named else str(file)
    return Problem(where, text[named.end() :] if named else text, fix)


class _Place(Enum):
    ARTIFACT = auto()
    SETTINGS = auto()
    GOLDEN = auto()
    DIRECTORY = auto()


_TABLE: tuple[tuple[str, _Place, str], ...] = (
    (r"^the model is not just data: ", _Place.ARTIFACT, "export the model without that; if you trust it, allow it"),
    (r"no model in '", _Place.DIRECTORY, "put a model there, name its file with 'file' in the settings, or remove it"),
    (r"ask for the backend '", _Place.SETTINGS, "correct 'backend', or leave it out"),
    (
        r"^(inputs|outputs|samples?|class_labels|max_batch_size)\b",
        _Place.SETTINGS,
        "correct the settings, or the model",
    ),
    (
        rf"golden sample|^{re.escape(GOLDEN)}",
        _Place.GOLDEN,
        "publish the model again with a sample of its own answers; a model that answers otherwise is another model",
    ),
    (
        r"did not finish within",
        _Place.ARTIFACT,
        "find out what it waits for; if it is just slow, give it longer with --trial-limit-s",
    ),
    (r"memory|bad_alloc", _Place.ARTIFACT, "give the server more memory, or serve a smaller model"),
    (
        r"was ended by SIG|ended with exit code",
        _Place.ARTIFACT,
        "the runtime does not survive this model: export it again, with other options or another version",
    ),
    (r"is not installed: ", _Place.ARTIFACT, ""),  # it says what to install
    (
        r"cannot load|INVALID_PROTOBUF|INVALID_GRAPH",
        _Place.ARTIFACT,
        "export the model again, for this runtime; if it was copied, compare it with the original",
    ),
    (r"the model fails on", _Place.ARTIFACT, "export the model again; it does not run on its own kind of inputs"),
)


def of(reason: str, settings: Path | None, artifact: Path, directory: Path) -> Problem:
    """
    Args:
        settings: the model's file of settings, if it has one.
        directory: the version's.
    """
    known = ((place, fix) for pattern, place, fix in _TABLE if re.search(pattern, reason))
    place, fix = next(known, (_Place.ARTIFACT, ""))
    places = {
        _Place.ARTIFACT: artifact,
        _Place.SETTINGS: settings or directory,
        _Place.GOLDEN: directory / GOLDEN,
        _Place.DIRECTORY: directory,
    }
    return Problem(str(places[place]), reason, fix)
