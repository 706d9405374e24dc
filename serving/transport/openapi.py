"""The OpenAPI document and the page at /docs: every route, with examples that work for the models loaded now."""

from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serving import __version__
from serving.protocols.examples import Example
from serving.protocols.oip_rest import HttpReply, json_reply

Examples = Callable[[], Mapping[str, Example]]  # by model

_ERROR_SCHEMA = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
ERROR: dict[str, Any] = {
    "description": "What was wrong, in words",
    "content": {"application/json": {"schema": _ERROR_SCHEMA}},
}
NOT_READY: dict[str, Any] = {
    "description": "Not ready",
    "content": {"application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}},
}
INDEX_BODY: dict[str, Any] = {
    "required": False,
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"ready": {"type": "boolean", "default": False}}}
        }
    },
}
INFER_BODY: dict[str, Any] = {
    "required": True,
    "description": "Inputs as JSON. With the header `Inference-Header-Content-Length`, raw tensors follow the JSON.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string"},
                    "parameters": {"type": "object"},
                    "inputs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name", "datatype", "shape"],
                            "properties": {
                                "name": {"type": "string"},
                                "datatype": {"type": "string"},
                                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                                "parameters": {"type": "object"},
                                "data": {"type": "array", "items": {}},
                            },
                        },
                    },
                    "outputs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                        },
                    },
                },
            }
        }
    },
}
_ABOUT = (
    "The Open Inference Protocol (KServe v2). The same models answer over gRPC as `inference.GRPCInferenceService`. "
    "The examples are made from the models that are loaded now, so they work as they stand."
)


def document(app: FastAPI, examples: Mapping[str, Example]) -> dict[str, Any]:
    """The OpenAPI document; made anew each time, because the models change."""
    made = get_openapi(title="serving", version=__version__, description=_ABOUT, routes=app.routes)
    for path, operations in made["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # path parameters are plain text, so nothing is refused there
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "model" and examples:
                    parameter["example"] = next(iter(examples))
                elif parameter["name"] == "version":
                    parameter["schema"] = {"type": "string", "pattern": "^[0-9]+$"}
                    if examples:
                        parameter["example"] = str(next(iter(examples.values())).version)
            if path.endswith("/infer") and examples:
                content = operation["requestBody"] = {**operation["requestBody"]}
                media = {**content["content"]["application/json"]}
                media["examples"] = {
                    name: {"summary": name, "value": example.body} for name, example in examples.items()
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
