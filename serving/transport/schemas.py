"""JSON schemas of request bodies, for the OpenAPI document."""

from typing import Any

from serving.core.traffic import Traffic


def _body(schema: dict[str, Any], required: bool = True, description: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"required": required, "content": {"application/json": {"schema": schema}}}
    return {**found, "description": description} if description else found


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_PARAMETERS = {"type": "object"}

INFER = _body(
    _object(
        ("inputs",),
        id=_TEXT,
        parameters=_PARAMETERS,
        inputs=_array(
            _object(
                ("name", "datatype", "shape"),
                name=_TEXT,
                datatype=_TEXT,
                shape=_array(_COUNT),
                parameters=_PARAMETERS,
                data=_array({}),
            )
        ),
        outputs=_array(_object(("name",), name=_TEXT, parameters=_PARAMETERS)),
    ),
    description=(
        "Inputs as JSON. With the header `Inference-Header-Content-Length`, raw tensors follow the JSON; "
        "`Content-Encoding` may be gzip or deflate."
    ),
)
GENERATE = _body(
    {**_object(id=_TEXT, parameters=_PARAMETERS), "additionalProperties": True},
    description="Each key that names an input becomes that tensor: a value, or a list of values.",
)
INDEX = _body(_object(ready={**_FLAG, "default": False}), required=False)
LOAD = _body(
    _object(parameters=_object(config=_TEXT)),
    required=False,
    description=(
        "`config`: a model configuration as JSON text, instead of the one on disk. `file:<path>`: the model's files "
        "in base64, where the server allows uploads."
    ),
)
UNLOAD = _body(_object(parameters=_object(unload_dependents=_FLAG)), required=False)
TRACE = _body(
    _object(trace_level=_array(_TEXT), trace_rate=_TEXT, trace_count=_TEXT, log_frequency=_TEXT),
    description="null takes a setting back to the server's.",
)
LOGGING = _body(_object(log_info=_FLAG, log_warning=_FLAG, log_error=_FLAG, log_verbose_level=_COUNT, log_format=_TEXT))
REGISTER = _body(
    _object(("key", "byte_size"), key=_TEXT, offset=_COUNT, byte_size=_COUNT),
    description="`key`: the POSIX name of the region, such as `/images`.",
)
PREDICT = _body(
    _object(signature_name=_TEXT, instances=_array({}), inputs={}),
    description="`instances` (one entry per row) or `inputs` (whole tensors, by name if there are several).",
)
EXAMPLES = _body(
    _object(
        ("examples",),
        signature_name=_TEXT,
        context=_PARAMETERS,
        examples={**_array({"type": "object"}), "minItems": 1},
    )
)

# Ours, below /serving. Keys that are not listed are refused there.

_VERSION = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}, {"type": "null"}]}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of pydantic's without references, which would have to be to the document's own place for them."""
    parts = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inline(parts[value["$ref"].rpartition("/")[2]])
            return {key: inline(inner) for key, inner in value.items() if key != "title"}
        return [inline(inner) for inner in value] if isinstance(value, list) else value

    found: dict[str, Any] = inline(schema)
    return found


def _closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {**_object(required, **properties), "additionalProperties": False}


OWN_LOAD = _body(
    _closed(force={**_FLAG, "default": False}),
    required=False,
    description="`force`: try again what is in quarantine, and take a version that is slower than allowed.",
)
OWN_UNLOAD = _body(_closed(), required=False)
PROMOTE = _body(
    _closed(version=_VERSION),
    required=False,
    description="`version`: a number or a label. Without it: the canary, or the highest version that is ready.",
)
ROLLBACK = _body(
    _closed(version=_VERSION),
    required=False,
    description=(
        "`version`: a number or a label. Without it, a canary or shadow ends; if there is none, the version that was "
        "stable before takes all."
    ),
)
LABEL = _body(
    _closed(
        ("label", "version"),
        label={"type": "string", "minLength": 1},
        version={"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
    ),
    description="`version`: null takes the label away.",
)
TRAFFIC = _body(
    {"anyOf": [_inlined(Traffic.model_json_schema()), {"type": "null"}]},
    description="Replaces all that was set before; null: back to what the model's settings say.",
)
EVENTS = {
    "after": {**_COUNT, "default": 0, "description": "the number of the last event that you have"},
    "model": {**_TEXT, "description": "only those of this model"},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100, "description": "the newest so many"},
    "wait_s": {
        "type": "number",
        "minimum": 0,
        "maximum": 30,
        "default": 0,
        "description": "how long to wait for the first one, if there is none",
    },
}
