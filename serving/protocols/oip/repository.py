"""The parameters of the model repository extension: what a load or unload asks for, the same over REST and gRPC."""

import binascii
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.engine import Control
from serving.protocols import jsonio
from serving.protocols.jsonio import describe
from serving.protocols.oip import config_meaning

log = logging.getLogger(__name__)

_FILE = "file:"
_T = TypeVar("_T")


async def load(control: Control, model: str, parameters: Mapping[str, Any]) -> None:
    """Loads a model as `parameters` say: `config`, the text of a ModelConfig as JSON, and files as `file:<path>`.

    Raises:
        ServingError: INVALID: parameters that are not understood, or see `Control.load`.
    """
    config, files = None, {}
    for key, value in parameters.items():
        if key == "config":
            config = _checked(key, value, str, "string_param")
        elif key.startswith(_FILE):
            files[key.removeprefix(_FILE)] = _checked(key, value, bytes, "bytes_param")
        else:
            raise invalid(f"unrecognized load parameter '{key[:100]}'.")
    if config is None:
        if files:
            raise _cannot(model, "files come with the parameter 'config', which may be '{}'")
        await control.load(model)
        return
    try:
        meaning = config_meaning.read(model, jsonio.parse(config.encode()))
    except ServingError as error:
        raise _cannot(model, f"config: {error.message}") from None
    if meaning.ignored:
        log.warning("load of '%s': its config asks for what is not done here: %s", model, ", ".join(meaning.ignored))
    await control.load(model, meaning.spec, files or None)


def check_unload(parameters: Mapping[str, Any]) -> None:
    """Models do not depend on each other here, so either value of `unload_dependents` means the same.

    Raises:
        ServingError: INVALID: any other parameter, or no boolean.
    """
    for key, value in parameters.items():
        if key != "unload_dependents":
            raise invalid(f"unrecognized unload parameter '{key[:100]}'.")
        _checked(key, value, bool, "bool_param", "unload")


def check_repository(name: str | None) -> None:
    """Raises: ServingError: UNSUPPORTED: all paths of a server are one repository, which has no name."""
    if name:
        raise ServingError(ErrorKind.UNSUPPORTED, "'repository_name' specification is not supported")


def of_json(model: str, body: bytes) -> dict[str, Any]:
    """The parameters in the body of a REST request, which may be empty; files, which are base64 there, as bytes.

    Raises:
        ServingError: INVALID: no object, its `parameters` are none, or a file is not base64.
    """
    value = jsonio.parse(body) if body.strip() else {}
    parameters = value.get("parameters") if type(value) is dict else value
    if parameters is None and type(value) is dict:
        return {}
    if type(parameters) is not dict:
        raise invalid(f"Unable to parse 'parameters': expected an object in an object, got {describe(parameters)}")
    for key, text in parameters.items():
        if key.startswith(_FILE) and type(text) is str:
            try:
                parameters[key] = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
            except ValueError as error:  # binascii.Error and UnicodeEncodeError are such
                raise _cannot(model, f"'{key[:200]}' is not base64: {error}") from None
    return parameters


def of_message(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a gRPC request; a parameter without a value is None."""
    return {
        key: getattr(parameter, choice) if (choice := parameter.WhichOneof("parameter_choice")) else None
        for key, parameter in parameters.items()
    }


def _cannot(model: str, why: str) -> ServingError:
    return invalid(f"failed to load '{model}', failed to poll from model repository: {why}")


def _checked(key: str, value: Any, kind: type[_T], name: str, what: str = "load") -> _T:
    if type(value) is not kind:
        got = "bytes" if isinstance(value, bytes) else describe(value)
        raise invalid(f"invalid value type for {what} parameter '{key[:100]}', expected {name}, got {got}.")
    return value
