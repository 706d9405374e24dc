"""How a model's owner lets inputs of different lengths share a run. Pure."""

from bisect import bisect_left
from itertools import pairwise
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Padding(BaseModel):
    """Of one input: lengths along `axis` are padded to the next of `sizes`; longer ones are left as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    axis: int = Field(1, ge=1, description="the axis of variable length; 0 is the batch")
    sizes: tuple[int, ...] = Field(min_length=1, description="lengths that are run, in ascending order")
    value: bool | int | float | str = Field(0, description="what is put behind")
    outputs: dict[str, int] = Field(
        default_factory=dict, description="outputs with an axis of the same length, which is cut back: {name: axis}"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.sizes[0] < 1 or any(low >= high for low, high in pairwise(self.sizes)):
            raise ValueError(f"sizes must be positive and ascending, got {list(self.sizes)}")
        if wrong := [axis for axis in self.outputs.values() if axis < 1]:
            raise ValueError(f"an output is cut along axis 1 or a later one, got {wrong[0]}")
        return self

    def length(self, own: int) -> int:
        """The length at which one of `own` elements is run."""
        at = bisect_left(self.sizes, own)
        return self.sizes[at] if at < len(self.sizes) else own

    def shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a row, without the batch axis, at which it is run."""
        at = self.axis - 1
        if at >= len(row_shape):
            return row_shape
        return (*row_shape[:at], self.length(row_shape[at]), *row_shape[at + 1 :])
