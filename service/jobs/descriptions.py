"""Describe the requests and answers of batch jobs for the OpenAPI page."""

from types import MappingProxyType
from typing import Any

from service.jobs.config import JobConfig

Described = dict[int | str, dict[str, Any]]

_TEXT = MappingProxyType({"type": "string"})
_ERROR = {
    "type": "object",
    "required": ["code", "error"],
    "properties": {"code": {"type": "integer"}, "error": {"type": "string"}, "detail": {"type": "string"}},
}
_JOB = {
    "type": "object",
    "required": ["id", "status", "created_at", "data_name", "duration"],
    "properties": {
        "id": {"type": "string"},
        "status": {"enum": ["running", "done", "rejected", "deleted"]},
        "created_at": {"type": "string", "format": "date-time"},
        "data_name": {"type": "string"},
        "duration": {"type": "number", "description": "Seconds of audio; 0 until they are known."},
        "progress": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "The share of the recording that is transcribed, while that is known.",
        },
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["timestamp", "message"],
                "properties": {"timestamp": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "config": {"type": "object"},
    },
}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: schema}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with its definitions in the places of their references."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items() if key != "$defs"}


def _config_schema() -> dict[str, Any]:
    schema = JobConfig.model_json_schema()
    inlined: dict[str, Any] = _inlined(schema, schema.get("$defs", {}))
    return inlined


_FORM = {
    "type": "object",
    "required": ["config"],
    "properties": {
        "config": _config_schema(),
        "data_file": {"type": "string", "format": "binary", "description": "The recording, unless it is fetched."},
    },
}
SUBMISSION = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM, "encoding": {"config": {"contentType": "application/json"}}}
        },
    }
}
ERRORS: Described = {
    code: _json(text, _ERROR)
    for code, text in {
        400: "The request is malformed; `detail` names the field",
        401: "The API key is absent or unknown",
        403: "The page that sent the request is not allowed",
        404: "There is no such job or transcript",
        410: "The job expired",
        422: "Not used; wrong parameters are answered with 400",
        503: "The service, its database or its storage is not ready",
    }.items()
}
UPLOAD_ERRORS: Described = {
    code: _json(text, _ERROR)
    for code, text in {
        408: "The upload stalled",
        413: "The recording is too large",
        415: "The body is no form",
        429: "Too many jobs of this client are not done",
        501: "This service transcribes streams only",
        507: "The disk of the service is full",
    }.items()
}
LOCKED: Described = {423: _json("The job is running", _ERROR)}
CREATED: Described = {201: _json("The job was stored", _object("id", dict(_TEXT)))}
JOB: Described = {200: _json("The job", _object("job", _JOB))}
LIST: Described = {200: _json("The jobs", _object("jobs", {"type": "array", "items": _JOB}))}
TRANSCRIPT: Described = {
    200: {
        "description": "The transcript",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/plain": {"schema": dict(_TEXT)},
            "text/vtt": {"schema": dict(_TEXT)},
        },
    }
}
DATA: Described = {
    200: {"description": "The recording", "content": {"application/octet-stream": {"schema": dict(_TEXT)}}}
}
