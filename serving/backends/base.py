"""The interface that everything above this rank sees of a runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors


class Session(Protocol):
    """One loaded version of one model. `run` may be called from several threads at once."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """By name; an artifact without named signatures has one, `serving_default`. Never empty."""

    @property
    def platform(self) -> str:
        """What metadata calls this kind of model, such as `onnxruntime_onnx`."""

    @property
    def notes(self) -> Mapping[str, str]:
        """What else operators should know, by a short name: shown by `check`, in the log and in metadata."""

    def run(self, inputs: Tensors, outputs: Sequence[str], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        """Runs the model once.

        Args:
            inputs: every input of the signature that is not optional, with its dtype and a shape that the signature
                accepts. Not written to.
            outputs: names of the outputs that are wanted, in the order of the answer.

        Raises:
            ServingError: the values cannot be taken (text that is not UTF-8, for instance).
            Exception: whatever the runtime raises when the model fails.
        """

    def close(self) -> None:
        """Releases the model's memory. Nothing runs any more when this is called."""


class Backend(Protocol):
    """A module with this function."""

    def load(self, artifact: Path, spec: ModelSpec, scratch: Path | None = None) -> Session:
        """Loads `artifact` (the file or directory that `registry.find_artifact` named). May block for long.

        Args:
            scratch: see `registry.load`.

        Raises:
            LoadError: it cannot be served; the message says why.
        """
