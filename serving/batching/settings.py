"""How one version's requests are batched."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from serving.core import dtypes
from serving.core.padding import Padding
from serving.core.spec import ModelSpec
from serving.core.validate import Contract


@dataclass(frozen=True)
class BatchSettings:
    """
    Attributes:
        max_batch_size: rows of one run; 0: there are none that may share a run.
        max_request_rows: rows of one request. One of more than `max_batch_size` is cut into several, or runs alone
            where it may not be.
        allowed_sizes: rows that a run may have, in ascending order; none: any number.
        slo_s: what a request's time is held below, by keeping batches small.
        policy: a name in `policies`.
        priority_levels: 1 is the most urgent; 0: there are none.
        default_level: of requests that name none, or one that does not exist.
        share: the weight of this version where a device is shared.
        padding: by input.
        even: rows of one number always take about as long, whatever is in them, as far as signatures can tell.
    """

    max_batch_size: int = 64
    max_queue_rows: int = 4096
    max_queue_delay_s: float = 0.0
    instances: int = 1
    max_request_rows: int = 0
    allowed_sizes: tuple[int, ...] = ()
    slo_s: float | None = None
    policy: str = "continuous"
    priority_levels: int = 0
    default_level: int = 0
    share: float = 1.0
    padding: Mapping[str, Padding] = field(default_factory=dict)
    even: bool = False

    @classmethod
    def of(cls, spec: ModelSpec, contracts: Iterable[Contract], instances: int) -> Self:
        """What a model's settings come to for a version that has these signatures."""
        contracts = list(contracts)
        return cls(
            max(contract.max_batch_size for contract in contracts),
            spec.max_queue_rows,
            spec.max_queue_delay_ms / 1000,
            instances,
            max(contract.max_request_rows for contract in contracts),
            spec.allowed_batch_sizes,
            spec.slo_ms / 1000 if spec.slo_ms is not None else None,
            spec.batching,
            spec.priority_levels,
            spec.default_priority_level or spec.priority_levels,
            spec.share,
            spec.padding,
            even=all(_even(contract) for contract in contracts),
        )

    def level(self, priority: int) -> int:
        """The level of a request that asks for this priority."""
        return priority if 1 <= priority <= self.priority_levels else self.default_level


def _even(contract: Contract) -> bool:
    batched = contract.max_batch_size > 0
    return batched and contract.fixed and all(spec.dtype is not dtypes.BYTES for spec in contract.inputs)
