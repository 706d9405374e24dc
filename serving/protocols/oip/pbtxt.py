"""Reads a model's `config.pbtxt`, as Triton's repositories have it: the same settings as those of a `model.yaml`. Pure.

What is left out has Triton's meaning: of a file that lists inputs and outputs, no `max_batch_size` is 0. Without them
Triton completes the rest from the model, and so does this server.
"""

from collections.abc import Mapping, Set
from functools import lru_cache

from serving.core.spec import SpecError
from serving.protocols.messages import oip as m
from serving.protocols.oip import config_meaning
from serving.protocols.oip.config_meaning import ConfigError
from serving.protocols.text import TextError, parse
from serving.repository.disk.reading import Read, Reader


def read(text: str, source: str, names: Set[str]) -> Read:
    """
    Args:
        source: names the file in messages.
        names: what the model may be called in it.

    Raises:
        SpecError: one line that names the file, the line in it, and the field.
    """
    try:
        parsed = parse(text, m.ModelConfig())
    except TextError as error:
        raise SpecError(f"{source}:{error}") from None
    config = parsed.message
    complete = config.max_batch_size or (config.input and config.output)
    try:
        meant = config_meaning.meaning(config, names, config.max_batch_size if complete else None)
    except ConfigError as error:
        line = parsed.line(error.field)
        raise SpecError(f"{source}{'' if line is None else f':{line}'}: {error}") from None
    warnings = [f"{source}: {text}" for text in parsed.unknown]
    if meant.ignored:
        warnings.append(f"{source}: asks for what is not done here: {', '.join(meant.ignored)}")
    return Read(meant.spec, tuple(warnings))


# Directories are read again and again, and their files hardly ever change.
READERS: Mapping[str, Reader] = {"config.pbtxt": lru_cache(maxsize=4096)(read)}
