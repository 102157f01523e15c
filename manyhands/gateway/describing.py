"""/openapi.json: what each path takes and answers, as a generator or a tester needs to know it.

In: what FastAPI finds out from the code. Out: the same with what it cannot see there: every error
has one shape and a status that is listed, a body that is no JSON object is 400, and some paths
answer with events, text or a page.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from manyhands.gateway.faults import FAULTS

Json = dict[str, Any]
ALWAYS = (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503)
ASKING = (*ALWAYS, 502, 504)  # of what asks the swarm for an answer
EVENTS = "text/event-stream"
STREAMED = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}
PLAIN = {  # what is no JSON
    "/api/v1/events": EVENTS,
    "/metrics": "text/plain",
    "/": "text/html",
    "/favicon.ico": "image/svg+xml",
    "/page/{name}": "*/*",
}
UNREADY = {"/health/ready"}  # its 503 says the same as its 200
EVENT: Json = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string", "enum": sorted(FAULTS)},
                "hint": {"type": "string"},
                "missing": {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "integer"}},
                },
            },
        }
    },
}


def describe(app: FastAPI) -> None:
    """Have the app's own document say all of it."""

    def made() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = described(app)
        return app.openapi_schema

    app.openapi = made  # type: ignore[method-assign]  # as FastAPI's documentation extends it


def described(app: FastAPI) -> Json:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = ERROR
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            asks = method == "post" and path.startswith(("/v1/", "/api/v1/"))
            operation["responses"] = _responses(path, asks)
    return document


def _responses(path: str, asks: bool) -> Json:
    content: Json = {PLAIN.get(path, "application/json"): {}}
    if path in STREAMED:
        content[EVENTS] = {"schema": EVENT}
    told: Json = {"200": {"description": "the answer", "content": content}}
    for status in ASKING if asks else ALWAYS:
        shape = {} if path in UNREADY else {"schema": {"$ref": "#/components/schemas/Error"}}
        told[str(status)] = {"description": _when(status), "content": {"application/json": shape}}
    return told


def _when(status: int) -> str:
    return "; ".join(f"{c}: {f.when}" for c, f in FAULTS.items() if f.status == status)
