"""Gives inputs back as outputs, of any data type, BYTES with arbitrary bytes included.

For trying out clients and measuring what the server itself costs. The artifact says which tensors there are:

    tensors:
      - {input: INPUT0, output: OUTPUT0, datatype: BYTES, shape: [-1, 16]}

Without an artifact, the model's settings do: the first of their inputs comes back as the first of their outputs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from serving.core import dtypes
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec, explain, read_yaml
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors, TensorSpec


class _Tensor(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str = Field(min_length=1)
    output: str = Field(min_length=1)
    datatype: str
    shape: tuple[Annotated[int, Field(ge=-1)], ...] | None = Field(
        None, description="axis 0 included, -1 where it is open; missing: any shape"
    )

    @field_validator("datatype")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in dtypes.BY_NAME:
            raise ValueError(f"expected one of {', '.join(dtypes.BY_NAME)}")
        return name


class _Artifact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tensors: tuple[_Tensor, ...] = Field(min_length=1)


def load(artifact: Path, spec: ModelSpec, scratch: Path | None = None) -> "IdentitySession":
    """Loads one `identity.yaml`, or, where there is none, what the settings say."""
    if artifact.is_dir():
        return IdentitySession(_declared(spec))
    try:
        tensors = _Artifact.model_validate(read_yaml(artifact.read_text(encoding="utf-8"))).tensors
    except ValidationError as error:
        raise LoadError(f"{artifact.name}: {explain(error, tuple(_Artifact.model_fields))}") from None
    except (OSError, ValueError) as error:
        raise LoadError(f"{artifact.name}: {error}") from None
    for side in ("input", "output"):
        names = [getattr(tensor, side) for tensor in tensors]
        if len(set(names)) < len(names):
            raise LoadError(f"{artifact.name}: two tensors have the same {side}")
    return IdentitySession(tensors)


def _declared(spec: ModelSpec) -> list[_Tensor]:
    """Raises: LoadError: inputs and outputs do not go together."""
    if len(spec.inputs) != len(spec.outputs):
        raise LoadError(f"{len(spec.inputs)} inputs cannot come back as {len(spec.outputs)} outputs")
    tensors = []
    for (name, given), (output, gives) in zip(spec.inputs.items(), spec.outputs.items(), strict=True):
        if given.datatype != gives.datatype:
            raise LoadError(f"input '{name}' is {given.datatype}, so it cannot come back as {gives.datatype}")
        shape = given.shape if given.reshape is None else given.reshape
        try:
            tensors.append(_Tensor(input=name, output=output, datatype=given.datatype, shape=shape))
        except ValidationError as error:
            raise LoadError(explain(error, tuple(_Tensor.model_fields))) from None
    return tensors


class IdentitySession:
    """See `backends.base.Session`. Outputs are the arrays that came in."""

    platform = "identity"

    def __init__(self, tensors: Sequence[_Tensor]) -> None:
        self._source = {tensor.output: tensor.input for tensor in tensors}
        self.signatures: Mapping[str, Signature] = {
            DEFAULT_SIGNATURE: Signature(
                {t.input: TensorSpec(t.input, dtypes.BY_NAME[t.datatype], t.shape) for t in tensors},
                {t.output: TensorSpec(t.output, dtypes.BY_NAME[t.datatype], t.shape) for t in tensors},
            )
        }
        self.notes: Mapping[str, str] = {}

    def run(self, inputs: Tensors, outputs: Sequence[str], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        return {name: inputs[self._source[name]] for name in outputs}

    def close(self) -> None:
        """There is nothing to release."""
