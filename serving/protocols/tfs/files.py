"""The files that TensorFlow Serving's flags name: the list of models, batching parameters, monitoring.

Reading is blocking. `ModelConfigFile.changes` looks at its file from the event loop, in a thread, for as long as it is
asked; what becomes of a change is not known here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.core.errors import ServingError
from serving.engine import Wanted
from serving.protocols.messages import tfs as m
from serving.protocols.text import Parsed, TextError, parse
from serving.protocols.tfs import reload

log = logging.getLogger(__name__)

_DEFAULT_MAX_BATCH = 1000  # of TensorFlow Serving's batching
_DEFAULT_ENQUEUED = 10
_MOST = 2**31 - 1


class FileError(ValueError):
    """A file that cannot be used; the message is one line that names it, the place in it, and what is wrong."""


@dataclass(frozen=True)
class Said:
    """What a file says, and a line for each thing that its author should know."""

    value: Any
    warnings: tuple[str, ...] = ()


class ModelConfigFile:
    """The file of `--model_config_file`.

    Args:
        poll_s: how often it is looked at; 0: once.
    """

    def __init__(self, path: Path, poll_s: float = 0.0) -> None:
        self.path = path
        self._poll_s = poll_s
        self._text = ""  # as it was when it was last read

    def read(self) -> list[Wanted]:
        """The models that it lists now. Blocking.

        Raises:
            FileError: it cannot be read, or is no list of models.
        """
        self._text = _text(self.path)
        parsed = _parsed(self.path, self._text, m.ModelServerConfig())
        try:
            models = reload.checked(reload.wanted(parsed.message))
        except ServingError as error:
            raise FileError(f"{self.path}: {error.message}") from None
        for text in _unknown(self.path, parsed):
            log.warning("%s", text)
        for said in parsed.message.model_config_list.config:
            if said.HasField("logging_config"):
                log.warning("%s: model '%s': logging_config: requests are not logged", self.path, said.name)
            if said.model_platform not in ("", "tensorflow"):
                text = f"model_platform '{said.model_platform}': what a model is, its files say"
                log.warning("%s: model '%s': %s", self.path, said.name, text)
        return models

    async def changes(self) -> AsyncIterator[list[Wanted]]:
        """The list each time that the file has become another one. One that cannot be used changes nothing, and is told
        once. Ends at once if the file is to be read once."""
        problem = ""
        while self._poll_s > 0:
            await asyncio.sleep(self._poll_s)
            try:
                models = await asyncio.to_thread(self._read_if_new)
            except FileError as error:
                if str(error) != problem:
                    log.error("%s; the models stay as they are", error)
                problem = str(error)
                continue
            problem = ""
            if models is not None:
                yield models

    def _read_if_new(self) -> list[Wanted] | None:
        return self.read() if _text(self.path) != self._text else None


def batching(path: Path | None) -> Said:
    """Settings of a model by name, as `--batching_parameters_file` means them, or as the server's defaults do.

    Blocking.

    Raises:
        FileError: it cannot be used.
    """
    given: Any = m.BatchingParameters()
    warnings: list[str] = []
    if path is not None:
        parsed = _parsed(path, _text(path), given)
        warnings = _unknown(path, parsed)
    settings: dict[str, Any] = {}
    largest = _value(path, given, "max_batch_size", least=1)
    splits = given.enable_large_batch_splitting.value
    execution = _value(path, given, "max_execution_batch_size", least=1) if splits else None
    if execution is not None or largest is not None:
        settings["max_batch_size"] = execution or largest
    settings["max_request_rows"] = largest or _DEFAULT_MAX_BATCH
    if (micros := _value(path, given, "batch_timeout_micros", least=0, most=60_000_000)) is not None:
        settings["max_queue_delay_ms"] = micros / 1000
    enqueued = _value(path, given, "max_enqueued_batches", least=1) or _DEFAULT_ENQUEUED
    settings["max_queue_rows"] = min(enqueued * settings["max_request_rows"], _MOST)
    if (threads := _value(path, given, "num_batch_threads", least=1)) is not None:
        settings["instances"] = min(threads, 256)
    sizes = list(given.allowed_batch_sizes)
    if sizes and (sizes != sorted(set(sizes)) or sizes[-1] != settings.get("max_batch_size", _DEFAULT_MAX_BATCH)):
        raise FileError(f"{path}: allowed_batch_sizes {sizes} have to grow, and to end with the largest batch")
    if sizes:
        warnings.append(f"{path}: allowed_batch_sizes: batches are not padded, so they have any size")
    if given.pad_variable_length_inputs:
        warnings.append(f"{path}: pad_variable_length_inputs: inputs of different shapes are not batched together")
    return Said(settings, tuple(warnings))


def _value(path: Path | None, given: Any, field: str, least: int, most: int = _MOST) -> int | None:
    if not given.HasField(field):
        return None
    value: int = getattr(given, field).value
    if not least <= value <= most:
        raise FileError(f"{path}: {field} has to be from {least} to {most}, got {value}")
    return value


def monitoring(path: Path) -> Said:
    """The path at which `--monitoring_config_file` wants metrics; empty: nowhere. Blocking.

    Raises:
        FileError: it cannot be used.
    """
    parsed = _parsed(path, _text(path), m.MonitoringConfig())
    prometheus = parsed.message.prometheus_config
    where = (prometheus.path or "/monitoring/prometheus/metrics") if prometheus.enable else ""
    if where and not where.startswith("/"):
        raise FileError(f"{path}: prometheus_config.path has to begin with '/', got '{where}'")
    return Said(where, tuple(_unknown(path, parsed)))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not text: {error}") from None


def _parsed(path: Path, text: str, message: Any) -> Parsed:
    try:
        return parse(text, message)
    except TextError as error:
        raise FileError(f"{path}:{error}") from None


def _unknown(path: Path, parsed: Parsed) -> list[str]:
    return [f"{path}: {text}" for text in parsed.unknown]
