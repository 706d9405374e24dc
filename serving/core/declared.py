"""What a model's owner says of its tensors: how clients see them, and inputs to run before the first request.

Parts of `model.yaml`; what they come to with a loaded model is worked out in `backends/shapes.py`.
"""

from math import prod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.core import dtypes

Shape = tuple[Annotated[int, Field(ge=-1, le=2**63 - 1)], ...]


class Declared(BaseModel):
    """One input or output as clients see it. Written as a data type alone, it is nothing but that."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    datatype: str
    shape: Shape | None = Field(
        None, description="axis 0 included, -1 where any size is taken; missing: as the model has it"
    )
    reshape: Shape | None = Field(
        None, description="shape of the model's own tensor where it is another one; axes of -1 are the same, in order"
    )
    format: Literal["NCHW", "NHWC"] | None = Field(None, description="what the axes of a picture are, for clients")

    @model_validator(mode="before")
    @classmethod
    def _datatype_alone(cls, value: Any) -> Any:
        return {"datatype": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _same_elements(self) -> "Declared":
        if self.reshape is not None:
            if self.shape is None:
                raise ValueError("'reshape' needs a 'shape', which is the one that clients see")
            if _elements(self.shape) != _elements(self.reshape):
                raise ValueError(
                    f"{list(self.shape)} and {list(self.reshape)} have not the same number of elements and open axes"
                )
        return self


def _elements(shape: Shape) -> tuple[int, int]:
    return prod(size for size in shape if size >= 0), shape.count(-1)


class SampleInput(BaseModel):
    """Values of one input: generated, or read from a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    datatype: str
    shape: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...] = Field(description="axis 0 included")
    values: Literal["zero", "random"] = "random"
    file: str | None = Field(
        None,
        description="path from the model's directory: elements as the wire has them, repeated until the shape is full",
    )

    @model_validator(mode="after")
    def _known(self) -> "SampleInput":
        if self.datatype not in dtypes.BY_NAME:
            raise ValueError(f"unknown datatype {self.datatype[:100]!r}; there are {', '.join(dtypes.BY_NAME)}")
        return self


class Sample(BaseModel):
    """Inputs that are run before the first request, `runs` times."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    inputs: dict[str, SampleInput]
    runs: int = Field(1, ge=1, le=10_000)
