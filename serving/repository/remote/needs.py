"""Which of a model's versions are worth having here, of those that a store has. Pure."""

from collections.abc import Collection

from serving.core.spec import Latest, ModelSpec
from serving.repository.policy import wanted


def needed(
    there: Collection[int],
    spec: ModelSpec,
    *,
    pinned: Collection[int] = (),
    failed: Collection[int] = (),
    live: Collection[int] = (),
) -> set[int]:
    """The versions to fetch, or to keep.

    Args:
        there: in the store.
        pinned: wanted whatever the settings say.
        failed: those that could not be loaded. They stay, with their reasons, and others come in their place.
        live: those that serve; they are given up when others do.
    """
    able = set(there) - set(failed)
    needed = wanted(able, spec)
    if isinstance(spec.versions, Latest) and needed:  # the one before: what to fall back on, or to go back to
        needed |= set(sorted(n for n in able if n < min(needed))[-1:])
    return needed | ({*pinned, *failed, *live} & set(there))
