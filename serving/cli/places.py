"""What a check is asked to look at, as sources: paths as they are, URLs as local copies, a list of models as its paths.

Blocking. Copies hold what would be served and no more, and end with the check.
"""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from serving.cli.examine import would_serve
from serving.cli.remedies import Problem, problem_of
from serving.core.metrics import Metrics
from serving.core.spec import ModelSpec, SpecError
from serving.protocols.oip.pbtxt import READERS
from serving.protocols.tfs.files import FileError, ModelConfigFile
from serving.repository.disk.layout import Kind
from serving.repository.disk.reading import Reading
from serving.repository.disk.survey import Source
from serving.repository.remote import Mirror, MirrorError, is_url


@dataclass
class Places:
    """
    Attributes:
        reading: how settings are read; it has what a list of models says of them.
        problems: with what could not be had.
        shown: local copies by path, and the URLs that they are of.
    """

    sources: list[Source] = field(default_factory=list)
    reading: Reading = field(default_factory=lambda: Reading(READERS))
    problems: list[Problem] = field(default_factory=list)
    shown: dict[str, str] = field(default_factory=dict)

    def named(self, text: str) -> str:
        """`text`, with URLs for the paths of their copies."""
        for path, url in self.shown.items():
            text = text.replace(path, url)
        return text


@contextmanager
def places(paths: Sequence[str], model_config_file: Path | None) -> Iterator[Places]:
    """
    Args:
        model_config_file: of TensorFlow Serving; None: there is none.
    """
    found = Places()
    wanted: list[tuple[str, str | None]] = [(path, None) for path in paths]
    if model_config_file is not None:
        try:
            models = ModelConfigFile(model_config_file).read()
        except FileError as error:
            found.problems.append(problem_of(error, model_config_file))
            models = []
        specs = {m.name: ModelSpec(versions=m.versions, version_labels=dict(m.labels)) for m in models}
        found.reading = replace(found.reading, wanted=specs)
        wanted += [(model.path, model.name) for model in models]
    with TemporaryDirectory(prefix="serving-check-") as cache:
        for path, name in wanted:
            if not is_url(path):
                found.sources.append(Source(Path(path), name, None if name is None else Kind.MODEL))
                continue
            asyncio.run(_copy(path, name, Path(cache), found))
        yield found


async def _copy(url: str, name: str | None, cache: Path, found: Places) -> None:
    mirror = Mirror(url, cache, Metrics(), name=name)
    told: list[str] = []  # what was wrong with parts of it, or again and again with all of it
    mirror.say = told.append
    try:
        await mirror.start(_needed, found.reading)
    except MirrorError as error:
        fix = "look at the address, the credentials, and whether the store answers"
        found.problems.append(Problem(mirror.url, str(error), fix))
    else:
        found.sources.append(mirror.source)
        found.shown[str(mirror.source.path)] = mirror.url.rstrip("/")
        found.problems += [Problem(mirror.url, text) for text in told[-1:]]
    finally:
        await mirror.close()


def _needed(_model: str, spec: ModelSpec | SpecError, there: Collection[int], _held: Collection[int]) -> set[int]:
    return would_serve(there, ModelSpec() if isinstance(spec, SpecError) else spec)
