"""What a search tries: the settings of a trainer that it changes, and between which limits.

A file in YAML, one entry for each setting:

    parameters:
      learning_rate: {type: real, min: 0.0001, max: 1, scale: log}
      batch: {type: integer, min: 16, max: 256, scale: log}
      optimizer: {type: categorical, values: [sgd, adam]}

Pure, but for reading the file. Knows neither TensorFlow nor how a sampler chooses.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin, get_type_hints

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator, model_validator

from trainers.contract import TrainingError
from trainers.settings import Value, changed, described

Scale = Literal["linear", "log"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Range(_Entry):
    """Numbers from min to max, both included. `scale: log` gives each decade the same share."""

    scale: Scale = "linear"
    points: int = Field(5, ge=2, description="how many of them a grid has")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.limits
        if low >= high:
            raise ValueError(f"min {low} is not less than max {high}")
        if self.scale == "log" and low <= 0:
            raise ValueError(f"min {low}: a log scale needs a min greater than 0")
        return self

    @property
    def limits(self) -> tuple[float, float]:
        raise NotImplementedError

    def _between(self, low: float, high: float, share: float) -> float:
        if self.scale == "log":
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        return low + share * (high - low)

    def _share(self, low: float, high: float, value: float) -> float:
        if self.scale == "log":
            return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return (value - low) / (high - low)

    def _spread(self) -> list[float]:
        return [self._between(*self.limits, index / (self.points - 1)) for index in range(self.points)]


class Real(_Range):
    type: Literal["real"]
    min: FiniteFloat
    max: FiniteFloat

    @property
    def limits(self) -> tuple[float, float]:
        return self.min, self.max

    def distribution(self) -> BaseDistribution:
        return FloatDistribution(self.min, self.max, log=self.scale == "log")

    def at(self, share: float) -> Value:
        """The value at a share, 0 to 1, of the range; equal shares are equally likely."""
        return min(max(self._between(self.min, self.max, share), self.min), self.max)

    def where(self, value: Any) -> float:
        """The share at which a value is."""
        return self._share(self.min, self.max, value)

    def grid(self) -> list[Value]:
        return [min(max(float(f"{value:.6g}"), self.min), self.max) for value in self._spread()]


class Integer(_Range):
    type: Literal["integer"]
    min: int
    max: int

    @property
    def limits(self) -> tuple[float, float]:
        return self.min, self.max

    @property
    def _edges(self) -> tuple[float, float]:
        """Half a step beyond the limits, so that the first and the last number get a whole share."""
        return self.min - 0.5, self.max + 0.5

    def distribution(self) -> BaseDistribution:
        return IntDistribution(self.min, self.max, log=self.scale == "log")

    def at(self, share: float) -> Value:
        return min(max(round(self._between(*self._edges, share)), self.min), self.max)

    def where(self, value: Any) -> float:
        return self._share(*self._edges, value)

    def grid(self) -> list[Value]:
        return sorted({round(value) for value in self._spread()})


class Categorical(_Entry):
    type: Literal["categorical"]
    values: tuple[bool | int | float | str, ...] = Field(min_length=2)

    @field_validator("values")
    @classmethod
    def _different(cls, values: tuple[Value, ...]) -> tuple[Value, ...]:
        if len({str(value) for value in values}) < len(values):
            raise ValueError("a value is there twice")
        return values

    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(self.values)

    def at(self, share: float) -> Value:
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def grid(self) -> list[Value]:
        return list(self.values)


Parameter = Annotated[Real | Integer | Categorical, Field(discriminator="type")]


class Space(_Entry):
    parameters: dict[str, Parameter] = Field(min_length=1)

    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: parameter.distribution() for name, parameter in self.parameters.items()}

    def at(self, shares: Sequence[float]) -> dict[str, Value]:
        """The point of the space that belongs to a point of the unit cube."""
        return {
            name: parameter.at(float(share))
            for (name, parameter), share in zip(self.parameters.items(), shares, strict=True)
        }

    def coordinates(self, values: Mapping[str, Any]) -> list[float]:
        """A point as numbers from 0 to 1, near ones for near points: one for each range, and for each value of a
        categorical parameter one that says whether it is that."""
        found: list[float] = []
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Categorical):
                found += [float(value == values[name]) for value in parameter.values]
            else:
                found.append(parameter.where(values[name]))
        return found

    def grid(self) -> list[dict[str, Value]]:
        """All combinations of `points` numbers of each range and of all values of a categorical parameter."""
        columns = [parameter.grid() for parameter in self.parameters.values()]
        return [dict(zip(self.parameters, row, strict=True)) for row in product(*columns)]


def read(path: Path, defaults: Any) -> Space:
    """The space in a file.

    Args:
        defaults: a trainer's settings, which the entries have to fit.

    Raises:
        TrainingError: one line that names the file, the entry and what is wrong with it.
        OSError: the file cannot be read.
    """
    try:
        space = Space.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        fit(space, defaults)
    except ValidationError as error:
        raise TrainingError(f"{path}: {_first(error)}") from None
    except UnicodeDecodeError:
        raise TrainingError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise TrainingError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from None
    return space


def fit(space: Space, defaults: Any) -> None:
    """Raises TrainingError unless each entry is a setting and each of its values one that the setting can have."""
    hints = get_type_hints(type(defaults))
    for name, parameter in space.parameters.items():
        changed(defaults, {name: described(defaults)[name]} if name in hints else {name: ""})
        hint = hints[name]
        if isinstance(parameter, Categorical):
            for value in parameter.values:
                changed(defaults, {name: value})
        elif hint not in (int, float) or (hint is int and isinstance(parameter, Real)):
            kind = "categorical" if hint in (bool, str) or get_origin(hint) is Literal else "integer"
            raise TrainingError(f"parameters.{name}.type: '{parameter.type}', but this setting needs '{kind}'")


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    place = [str(part) for part in problem["loc"]]
    if len(place) > 2:
        del place[2]  # pydantic's word for the kind of entry
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("model_type", "model_attributes_type") and not place:
        message = "expected 'parameters:' and entries below it"
    return f"{'.'.join(place) + ': ' if place else ''}{message}"
