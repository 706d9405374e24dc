"""The OpenAPI document and the page at /docs: every route, with examples that work for the models loaded now."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serving import __version__
from serving.protocols import jsonio
from serving.protocols.examples import Example
from serving.protocols.http import HttpReply, json_reply

Examples = Callable[[], Mapping[str, Example]]  # by model

_ERROR_SCHEMA = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_READY_SCHEMA = {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}}
_NAMES = {"label": "stable", "region": "region0"}  # examples for parameters that no model gives
_BODIES = {"infer": "infer", "predict": "predict", "generate": "generate", "generate_stream": "generate"}
_ABOUT = (
    "The Open Inference Protocol (KServe v2, with Triton's extensions) under `/v2`, TensorFlow Serving's API under "
    "`/v1`, operation of this server under `/serving`. The same models answer over gRPC as "
    "`inference.GRPCInferenceService` and `tensorflow.serving.PredictionService`. "
    "The examples are made from the models that are loaded now, so they work as they stand."
)


def error(status: int, path: str) -> dict[str, Any]:
    """The description of an answer that is no success."""
    if path == "/v2/health/ready":
        return {"description": "Not ready", "content": {"application/json": {"schema": _READY_SCHEMA}}}
    return {
        "description": HTTPStatus(status).phrase.capitalize() + ", and why in words",
        "content": {"application/json": {"schema": _ERROR_SCHEMA}},
    }


def extra(
    path: str, body: dict[str, Any] | None = None, query: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """What FastAPI cannot know of a route: its body, and the parameters in its path and behind it."""
    parameters = [_path_parameter(name) for name in re.findall(r"{(\w+)}", path)]
    parameters += [_query_parameter(name, schema) for name, schema in (query or {}).items()]
    found: dict[str, Any] = {"parameters": parameters} if parameters else {}
    return {**found, "requestBody": body} if body else found


def _path_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": "^[0-9]+$"} if name == "version" else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameter(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in schema.items() if key != "description"}
    return {"name": name, "in": "query", "description": schema["description"], "schema": plain}


class Document:
    """The OpenAPI document of an application, as it is now. Made anew when the models have changed only: it takes some
    ten milliseconds, which a client that asks again and again would take from all others."""

    def __init__(self, app: FastAPI, examples: Examples) -> None:
        self._app = app
        self._examples = examples
        self._of: Mapping[str, Example] | None = None
        self._text = b""

    def text(self) -> bytes:
        """As JSON."""
        now = self._examples()
        if now != self._of:
            self._of, self._text = now, jsonio.dump(document(self._app, now))
        return self._text


def document(app: FastAPI, examples: Mapping[str, Example]) -> dict[str, Any]:
    """The OpenAPI document with these examples."""
    made = get_openapi(title="serving", version=__version__, description=_ABOUT, routes=app.routes)
    for path, operations in made["paths"].items():
        for operation in operations.values():
            operation["parameters"] = [{**parameter} for parameter in operation.get("parameters", [])]
            for parameter in operation["parameters"]:
                if parameter["in"] == "query":
                    continue
                if parameter["name"] == "model" and examples:
                    parameter["example"] = next(iter(examples))
                elif parameter["name"] == "version" and examples:
                    parameter["example"] = str(next(iter(examples.values())).version)
                elif parameter["name"] in _NAMES:
                    parameter["example"] = _NAMES[parameter["name"]]
            field = _BODIES.get(re.split("[/:]", path)[-1])
            if field and examples:
                content = operation["requestBody"] = {**operation["requestBody"]}
                media = {**content["content"]["application/json"]}
                media["examples"] = {
                    name: {"summary": name, "value": getattr(example, field)} for name, example in examples.items()
                }
                content["content"] = {"application/json": media}
    return made


def plain_error(status: int) -> HttpReply:
    """An error of the router itself, in the shape of all others."""
    return json_reply({"error": HTTPStatus(status).phrase.title()}, status)


@cache
def docs_page() -> str:
    """A page that needs nothing from outside: it reads /openapi.json and can send the examples."""
    return files("serving.transport").joinpath("docs.html").read_text(encoding="utf-8")
