"""What a model's owner wants of it: the contents of `model.yaml`."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from serving.core.declared import Declared, Sample
from serving.core.padding import Padding
from serving.core.traffic import Limits, Shadow, Traffic

SPEC_FILE = "model.yaml"
MAX_VERSION = 2**63 - 1  # what every protocol can say
_MAX_ROWS = 2**31 - 1

_shown = reprlib.Repr()  # what has references in it may be endless
_shown.maxlevel = 3
_shown.maxstring = _shown.maxother = _shown.maxlong = 200

_Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]


class Latest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    latest: int = Field(1, ge=1, description="how many of the highest versions are served")


def _form(value: Any) -> str | None:
    if isinstance(value, dict | Latest):
        return "latest"
    if isinstance(value, list | tuple):
        return "numbers"
    return "all" if value == "all" else None


Versions = Annotated[
    Annotated[Literal["all"], Tag("all")]
    | Annotated[Latest, Tag("latest")]
    | Annotated[tuple[_Version, ...], Tag("numbers")],
    Discriminator(
        _form,
        custom_error_type="versions",
        custom_error_message="expected {{latest: n}}, all, or a list of version numbers",
    ),
]


class ModelSpec(BaseModel):
    """Settings of one model; every key is optional."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Literal["onnx", "tensorflow", "identity"] | None = Field(
        None, description="the runtime; by default the one that the artifact's file name tells"
    )
    file: str | None = Field(
        None,
        pattern=r"^[^./\\\x00][^/\\\x00]*$",
        description="name of the model in a version's directory, a file or a SavedModel's directory",
    )
    versions: Versions = Field(
        Latest(latest=1), description="which versions are served: {latest: n}, all, or a list of numbers"
    )
    max_batch_size: int = Field(
        64, ge=0, le=_MAX_ROWS, description="rows that one run may hold; 0: axis 0 of this model is no batch axis"
    )
    max_request_rows: int | None = Field(
        None,
        ge=1,
        le=_MAX_ROWS,
        description="rows of one request; beyond max_batch_size it is cut into several runs [default: that]",
    )
    max_queue_delay_ms: float = Field(
        0, ge=0, le=60_000, description="how long a free instance may wait for a batch to fill"
    )
    max_queue_rows: int = Field(4096, ge=1, le=_MAX_ROWS, description="rows that may wait; more are refused at once")
    allowed_batch_sizes: tuple[Annotated[int, Field(ge=1, le=_MAX_ROWS)], ...] = Field(
        (), description="rows that a run may have, in ascending order; smaller batches are padded [default: any]"
    )
    padding: dict[str, Padding] = Field(
        default_factory=dict,
        description="inputs of variable length that share runs, such as {tokens: {sizes: [16, 32, 64]}}",
    )
    batching: str = Field("continuous", description="the policy: continuous, fixed_delay, adaptive or one of yours")
    slo_ms: float | None = Field(
        None, gt=0, le=1e9, description="how long requests may take: batches are kept small, others are refused"
    )
    priority_levels: int = Field(0, ge=0, le=1000, description="requests may ask for a priority of 1, first, to this")
    default_priority_level: int = Field(
        0, ge=0, le=1000, description="of requests that ask for none [default: the least urgent]"
    )
    share: float = Field(1, gt=0, le=1e6, description="weight of this model where --max-concurrent-runs is set")
    queue_timeout_ms: float | None = Field(
        None, gt=0, le=1e12, description="how long a request may wait; none by default"
    )
    instances: int | None = Field(
        None, ge=1, le=256, description="runs that may be under way at the same time [default: measured at load]"
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="threads that one run may use inside an operator [default: measured at load]"
    )
    providers: tuple[str, ...] = Field(
        ("CPUExecutionProvider",),
        min_length=1,
        description="ONNX Runtime execution providers, in order of preference",
    )
    cache_optimized: bool = Field(
        False, description="keep the graph as ONNX Runtime has optimized it: large graphs load faster the next time"
    )
    devices: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(
        (), description="numbers of the GPUs that the instances are spread over [default: the first]"
    )
    device_memory_mb: int | None = Field(
        None, ge=1, le=_MAX_ROWS, description="memory that this model may take on each GPU [default: any]"
    )
    cuda_graphs: bool = Field(
        False, description="run each of allowed_batch_sizes as a CUDA graph; for models that run on the GPU as a whole"
    )
    version_labels: dict[str, _Version] = Field(
        default_factory=dict, description="names of versions, such as {stable: 3}; valid while that version is ready"
    )
    class_labels: dict[str, str] = Field(
        default_factory=dict,
        description="by output: a file beside model.yaml that holds one label per line, for classification",
    )
    inputs: dict[str, Declared] = Field(
        default_factory=dict,
        description="inputs that the model must have, such as {x: FP32} or {x: {datatype: FP32, shape: [-1, 4]}}; one "
        "that differs fails",
    )
    outputs: dict[str, Declared] = Field(
        default_factory=dict, description="the same of outputs; those that are not among them are not given"
    )
    tags: tuple[str, ...] = Field(("serve",), description="which graph of a SavedModel is loaded")
    accelerate: Literal["onnx"] | None = Field(
        None, description="onnx: convert a SavedModel at load and serve the ONNX form if its answers agree"
    )
    accelerate_tolerance: float = Field(
        1e-4, ge=0, description="how far they may differ, absolutely and relative to TensorFlow's answer"
    )
    warmup: bool = Field(True, description="run every batch size that will be used before the first request")
    samples: tuple[Sample, ...] = Field((), description="inputs that the warm-up runs besides")
    traffic: Traffic | None = Field(
        None, description="how requests that name no version are shared out: weights, sticky, shadow, limits"
    )
    latency_limit: float | None = Field(
        None,
        gt=0,
        description="refuse a version whose golden sample takes this many times as long as on the one that serves",
    )

    @model_validator(mode="before")
    @classmethod
    def _largest(cls, values: Any) -> Any:
        """Sizes that are allowed say how large a batch may be."""
        sizes = values.get("allowed_batch_sizes") if isinstance(values, dict) else None
        if isinstance(sizes, list | tuple) and sizes and "max_batch_size" not in values:
            return {**values, "max_batch_size": sizes[-1]}
        return values

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        sizes = self.allowed_batch_sizes
        if any(low >= high for low, high in pairwise(sizes)):
            raise ValueError(f"'allowed_batch_sizes' must be ascending, got {list(sizes)}")
        if sizes and sizes[-1] != self.max_batch_size:
            raise ValueError(
                "the largest of 'allowed_batch_sizes' must be max_batch_size, "
                f"which is {self.max_batch_size}, got {sizes[-1]}"
            )
        if self.default_priority_level > self.priority_levels:
            raise ValueError(
                f"'default_priority_level' must be at most priority_levels, got {self.default_priority_level} "
                f"and {self.priority_levels}"
            )
        return self


class SpecError(ValueError):
    """A `model.yaml` that cannot be used; the message is one line that names file, key and remedy."""


def parse_spec(text: str, source: str) -> ModelSpec:
    """Reads the text of a `model.yaml`.

    Raises:
        SpecError: names `source`, the key, and the nearest valid key or the values that are allowed.
    """
    try:
        return ModelSpec.model_validate(read_yaml(text))
    except ValidationError as error:
        raise SpecError(f"{source}: {explain(error, tuple(ModelSpec.model_fields))}") from None
    except ValueError as error:
        raise SpecError(f"{source}: {error}") from None


def read_yaml(text: str) -> dict[str, Any]:
    """Keys and values; none for an empty text.

    Raises:
        ValueError: one line that says what is wrong.
    """
    try:
        values = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that Python cannot hold
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"expected keys and values, got {type(values).__name__}")
    return values


def explain(error: ValidationError, keys: Sequence[str]) -> str:
    """A pydantic error in one line; an unknown key comes with the nearest of `keys`, or of the part that it is in."""
    parts = {}  # by key: a union reports each of its branches, one of them is enough
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        where = path[0] if path else "(all)"
        if where in parts:
            continue
        if problem["type"] == "extra_forbidden":
            inside = next((name for name in reversed(path[:-1]) if name in _PARTS), "")
            valid = tuple(_PARTS[inside].model_fields) if inside else keys
            near = difflib.get_close_matches(path[-1], valid, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid keys are {', '.join(valid)}"
            place = f" in '{inside}'" if inside else ""
            parts[where] = f"unknown key '{path[-1]}'{place}; {hint}"
        elif problem["type"] == "value_error":  # our own words, which say what came
            parts[where] = f"{'.'.join(path) + ': ' if path else ''}{problem['ctx']['error']}"
        else:
            inner = f" ({path[-1]})" if len(path) > 1 else ""
            came = _shown.repr(problem["input"])
            parts[where] = f"'{where}'{inner}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {came}"
    return "; ".join(parts.values())


_PARTS: Mapping[str, type[BaseModel]] = {
    "model_defaults": ModelSpec,
    "inputs": Declared,
    "outputs": Declared,
    "padding": Padding,
    "samples": Sample,
    "versions": Latest,
    "traffic": Traffic,
    "shadow": Shadow,
    "limits": Limits,
}
