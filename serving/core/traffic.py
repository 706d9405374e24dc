"""How requests that name no version are shared out among a model's versions, as its owner or an operator wrote it.

Only what was asked for; `repository/routing/route.py` works out what it comes to with the versions that are ready.
"""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
_CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True)


def _named(value: Any) -> Any:
    """YAML has a number where people write `3: 95`."""
    return str(value) if type(value) is int else value


VersionName = Annotated[str, BeforeValidator(_named), Field(min_length=1, description="a version's number or a label")]


class Shadow(BaseModel):
    """Copies of requests go to another version too; its answers are compared, and nobody waits for them."""

    model_config = _CONFIG

    to: VersionName
    percent: float = Field(100, gt=0, le=100, description="of the requests that are copied")
    atol: float = Field(1e-5, ge=0, description="absolute difference of outputs that still counts as the same")
    rtol: float = Field(1e-3, ge=0, description="the same, relative to the primary's output")


class Limits(BaseModel):
    """When a version on trial (canary or shadow) is rolled back by itself; a limit that is left out does not count."""

    model_config = _CONFIG

    requests: int = Field(100, ge=1, description="how many requests on trial a judgement is about")
    error_rate: float | None = Field(None, ge=0, lt=1, description="share of requests on which the model failed")
    latency_ratio: float | None = Field(
        None, gt=0, description="median time of a run against that of the version that takes most requests"
    )
    different_rate: float | None = Field(None, ge=0, lt=1, description="share of shadowed answers that differ")


class Traffic(BaseModel):
    """Of one model. Without weights the highest ready version takes all."""

    model_config = _CONFIG

    weights: dict[VersionName, Annotated[FiniteFloat, Field(ge=0)]] = Field(
        default_factory=dict, description="by version or label, such as {stable: 95, canary: 5}; any sum will do"
    )
    sticky: str | None = Field(
        None, description="a request header; requests with the same value of it go to the same version"
    )
    shadow: Shadow | None = None
    limits: Limits | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The labels and version numbers that it is about."""
        return *self.weights, *([self.shadow.to] if self.shadow else [])

    @model_validator(mode="after")
    def _check(self) -> "Traffic":
        if self.weights and not any(self.weights.values()):
            raise ValueError("weights are all 0, so no version would take requests")
        if self.sticky is not None and not _HEADER.fullmatch(self.sticky):
            raise ValueError(f"sticky: expected the name of a header in lower case, got {self.sticky[:100]!r}")
        return self
