"""Versions on disk and in memory, as the repository's modules see them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from serving.core import dtypes
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors, TensorSpec
from serving.repository.disk.layout import FoundVersion
from serving.repository.version import Version
from tests import models

LONG_AGO = 1_000_000_000.0  # seconds since the epoch


def found(number: int, content: str = "a") -> FoundVersion:
    """A version on disk; `content` stands for what its files hold."""
    return FoundVersion(number, Path(f"m/{number}"), ((content, 0, 0, 0),), LONG_AGO, has_manifest=False)


def version(number: int = 1, model: str = "m", spec: ModelSpec | None = None) -> Version:
    return Version(model, found(number), spec or ModelSpec())


def add_version(repo: Path, number: int, model: str = "m", factor: float | None = None) -> Path:
    """Publishes y = factor * x (by default its number) in one step, as a careful operator does."""
    hidden = repo / model / f".{number}.tmp"
    models.save(models.scale(number if factor is None else factor), hidden / "model.onnx")
    return hidden.rename(repo / model / str(number))


def corrupt_version(repo: Path, number: int, model: str = "m") -> Path:
    hidden = repo / model / f".{number}.tmp"
    hidden.mkdir(parents=True)
    (hidden / "model.onnx").write_bytes(b"no graph")
    return hidden.rename(repo / model / str(number))


def replace_model(version_dir: Path, factor: float) -> None:
    """Changes a version in place, in one step."""
    new = version_dir.parent / f".new-{version_dir.name}"
    models.save(models.scale(factor), new)
    new.rename(version_dir / "model.onnx")


class FakeSession:
    """A loaded model without a runtime."""

    platform = "fake"
    notes: Mapping[str, str] = MappingProxyType({})
    signatures: Mapping[str, Signature] = MappingProxyType(
        {
            DEFAULT_SIGNATURE: Signature(
                {"x": TensorSpec("x", dtypes.FP32, (-1, 4))},
                {"y": TensorSpec("y", dtypes.FP32, (-1, 4))},
            )
        }
    )

    def __init__(self) -> None:
        self.closed = False

    def run(self, inputs: Tensors, outputs: Sequence[str], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        return dict.fromkeys(outputs, inputs["x"] * 10)

    def close(self) -> None:
        self.closed = True
