"""Serialized `tf.Example`s, which classify and regress feed to a model: from JSON and from gRPC. Pure."""

from typing import Any

import numpy as np

from serving.core.errors import invalid
from serving.protocols import messages as m
from serving.protocols.tfs.json_faults import kind
from serving.protocols.tfs.json_tensors import from_base64, is_base64

# By the JSON type of a value: the field of tf.Feature that holds it.
_LISTS = {bool: "int64_list", int: "int64_list", float: "float_list", str: "bytes_list", dict: "bytes_list"}


def vector(examples: list[bytes]) -> np.ndarray:
    """The input of a signature that takes examples."""
    array = np.empty(len(examples), object)
    array[:] = examples
    return array


def from_input(message: Any) -> np.ndarray:
    """The examples of an Input.

    A context goes in front of each: two messages in a row are read as one, in which the features of the second win.

    Raises:
        ServingError: INVALID: there are none.
    """
    which = message.WhichOneof("kind")
    found = getattr(message, which).examples if which else ()
    if not found:
        raise invalid("Input is empty.")
    context = b"" if which == "example_list" else message.example_list_with_context.context.SerializeToString()
    return vector([context + example.SerializeToString() for example in found])


def from_json(features: Any) -> bytes:
    """The example that an object of features stands for.

    Raises:
        ServingError: INVALID, naming the feature.
    """
    if type(features) is not dict:
        raise invalid(f"Example must be JSON object but got JSON {kind(features)}")
    example = m.tf.Example()
    for name, content in features.items():
        values = content if type(content) is list else [content]
        _fill(example.features.feature[name], name, values)
    data: bytes = example.SerializeToString()
    return data


def _fill(feature: Any, name: str, values: list[Any]) -> None:
    kinds = set(map(type, values))
    lists = {_LISTS.get(found) for found in kinds}
    if len(lists) > 1 or None in lists or dict in kinds or str in kinds:
        values = _checked(name, values)
    elif bool in kinds:
        values = list(map(int, values))
    for field in lists:  # one, or none for a feature without values
        try:
            getattr(feature, str(field)).value.extend(values)
        except ValueError:  # what int64 cannot hold
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.") from None


def _checked(name: str, values: list[Any]) -> list[Any]:
    """The same values, strings as bytes.

    Raises:
        ServingError: INVALID for the first value that does not belong to those before it.
    """
    first = _LISTS.get(type(values[0]))
    checked = []
    for value in values:
        found = _LISTS.get(type(value))
        if found is None or (type(value) is dict and not is_base64(value)):
            raise invalid(f"Feature: {name} has element with unexpected JSON type: {kind(value)}")
        if found != first:
            expected = str(first).removesuffix("_list")
            raise invalid(f"Unexpected element type in feature: {name} expecting type: {expected}")
        if type(value) is dict:
            value = from_base64(value)
            if value is None:
                raise invalid("Unable to base64 decode")
        checked.append(value.encode() if type(value) is str else value)
    return checked
