"""A model as its settings declare it: with narrower shapes, other shapes, or fewer outputs than it has itself.

A session around a session, so that nothing above this rank knows of it. Concerns the signature that a request means if
it names none. Pure, but for the session's own runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat

import numpy as np

from serving.backends.base import Session
from serving.core.declared import Declared, Shape
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors, TensorSpec


def declared(session: Session, spec: ModelSpec) -> Session:
    """`session`, as `spec` says that clients see it; itself if it says nothing.

    Raises:
        LoadError: the settings contradict the model, which names the tensor, what they say, and what it is.
    """
    if not spec.inputs and not spec.outputs:
        return session
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in session.signatures else next(iter(session.signatures))
    own = session.signatures[name]
    single = spec.max_batch_size == 1
    inputs = {**own.inputs, **_narrowed("inputs", spec.inputs, own.inputs, single)}
    outputs = _narrowed("outputs", spec.outputs, own.outputs, single) or own.outputs
    return DeclaredSession(session, name, replace(own, inputs=inputs, outputs=outputs), spec)


class DeclaredSession:
    """See `backends.base.Session`.

    Args:
        name: of the signature that is as `signature` says, instead of as the session has it.
    """

    def __init__(self, session: Session, name: str, signature: Signature, spec: ModelSpec) -> None:
        self._session = session
        self._name = name
        self.signatures: Mapping[str, Signature] = {**session.signatures, name: signature}
        self.platform = session.platform
        self.notes = session.notes
        self._inputs = {name: d for name, d in spec.inputs.items() if d.reshape is not None}
        self._outputs = {name: d for name, d in spec.outputs.items() if d.reshape is not None}

    def run(self, inputs: Tensors, outputs: Sequence[str], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        """See `Session.run`. Reshaped arrays share memory with those that came in or out, where they can."""
        if signature == self._name and self._inputs:
            inputs = {
                name: _reshaped(array, d.shape, d.reshape) if (d := self._inputs.get(name)) else array
                for name, array in inputs.items()
            }
        results = self._session.run(inputs, outputs, signature)
        if signature == self._name and self._outputs:
            for name in self._outputs.keys() & results.keys():
                d = self._outputs[name]
                results[name] = _reshaped(results[name], d.reshape, d.shape)
        return results

    def close(self) -> None:
        self._session.close()


def _narrowed(
    which: str, tensors: Mapping[str, Declared], own: Mapping[str, TensorSpec], single: bool
) -> dict[str, TensorSpec]:
    """The declared ones of a signature's tensors, in the model's order."""
    for name in tensors:
        if name not in own:
            raise LoadError(f"{which}: '{name}' is not among those of the model, which are {', '.join(own)}")
    return {name: _narrow(which, tensors[name], spec, single) for name, spec in own.items() if name in tensors}


def _narrow(which: str, said: Declared, own: TensorSpec, single: bool) -> TensorSpec:
    """
    Args:
        single: batches hold one row, so an axis 0 that the model fixes to 1 is a batch axis.
    """
    if own.dtype.name != said.datatype:
        raise LoadError(
            f"{which}: '{own.name}' is declared as {said.datatype}, but the model has it as {own.dtype.name}"
        )
    if said.shape is None or (own.shape is None and said.reshape is None):
        return own
    expected = said.shape if said.reshape is None else said.reshape
    if own.shape is not None and not _agree(expected, own.shape):
        form = "declared as" if said.reshape is None else "reshaped to"
        raise LoadError(f"{which}: '{own.name}' is {form} {list(expected)}, but the model has it as {list(own.shape)}")
    sizes: Iterator[int] = repeat(-1) if own.shape is None else _at_open(expected, own.shape)
    shape = tuple(next(sizes) if size == -1 else size for size in said.shape)
    if single and shape[:1] == (1,) and said.shape[0] == -1:
        shape = (-1, *shape[1:])
    return replace(own, shape=shape)


def _agree(one: Shape, other: Shape) -> bool:
    return len(one) == len(other) and all(-1 in (a, b) or a == b for a, b in zip(one, other, strict=True))


def _at_open(pattern: Shape, shape: Shape) -> Iterator[int]:
    """The sizes of `shape` where `pattern` leaves them open."""
    return (size for size, said in zip(shape, pattern, strict=True) if said == -1)


def _reshaped(array: np.ndarray, came: Shape | None, wanted: Shape | None) -> np.ndarray:
    """
    Raises:
        ValueError: `array` is not of the shape `came`: a model's output is not what its settings say.
    """
    if came is None or wanted is None:
        return array
    if not _agree(came, array.shape):
        raise ValueError(f"a tensor that is declared as {list(came)} came as {list(array.shape)}")
    sizes = _at_open(came, array.shape)
    return array.reshape([next(sizes) if size == -1 else size for size in wanted])
