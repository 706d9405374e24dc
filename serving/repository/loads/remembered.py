"""What calibrations came to, kept on disk, so that a restart does not measure again. Blocking; any process.

An entry is found by what the model consists of, its settings, the processor and the runtime. One that cannot be read or
written is as good as none.
"""

import hashlib
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.core.artifact import MANIFEST
from serving.core.spec import Latest, ModelSpec
from serving.repository.disk.layout import FoundVersion
from serving.repository.loads import cores
from serving.repository.loads.calibration import Execution, Setting

_MOST = 1000  # entries; the oldest go
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    instances: int = Field(ge=1)
    threads: int = Field(ge=1)
    reason: str


class Remembered:
    """
    Args:
        directory: where entries are; made when the first one comes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, found: FoundVersion, spec: ModelSpec) -> Execution | None:
        try:
            entry = _Entry.model_validate_json(self._path(found, spec).read_bytes())
        except (OSError, ValidationError):
            return None
        return Execution(Setting(entry.instances, entry.threads), entry.reason)

    def keep(self, found: FoundVersion, spec: ModelSpec, execution: Execution) -> None:
        entry = _Entry(
            instances=execution.setting.instances, threads=execution.setting.threads, reason=execution.reason
        )
        with suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._path(found, spec)
            made = path.with_suffix(f".{os.getpid()}")
            made.write_text(entry.model_dump_json())
            made.replace(path)
            self._forget()

    def _forget(self) -> None:
        entries = sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in entries[:-_MOST]:
            path.unlink(missing_ok=True)

    def _path(self, found: FoundVersion, spec: ModelSpec) -> Path:
        """Raises: OSError: the manifest cannot be read."""
        unimportant = {"versions": Latest(), "version_labels": {}, "traffic": None, "latency_limit": None}
        settings = spec.model_copy(update=unimportant).model_dump_json(exclude_defaults=True)
        # A manifest tells the content, wherever it is; without one, it is the content as long as nobody touches it.
        content = (found.path / MANIFEST).read_text() if found.has_manifest else repr(found.fingerprint)
        parts = (content, settings, cores.model(), str(cores.usable()), *map(_version, _RUNTIMES))
        return self._directory / f"{hashlib.sha256(repr(parts).encode()).hexdigest()}.json"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
