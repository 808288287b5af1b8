"""Routes of the admin API with what they take and give, and the OpenAPI document made of them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

import mirror

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
TAR: Final = "application/x-tar"
BYTES: Final = "application/octet-stream"
SSE: Final = "text/event-stream"


class Problem(msgspec.Struct, frozen=True):
    """What is wrong, and what to do."""

    code: str
    message: str
    hint: str = ""


class ProblemBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not 2xx."""

    error: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A field of the query: texts, any number of them, or a switch that is 0 or 1."""

    name: str
    description: str
    is_flag: bool = False
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, checked."""

    texts: Mapping[str, tuple[str, ...]]
    flags: frozenset[str]
    body: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation."""

    method: str
    path: str
    summary: str
    handler: Callable[[web.Request, Asked], Awaitable[web.StreamResponse]]
    result: Any
    parameters: tuple[Parameter, ...] = ()
    body: type[msgspec.Struct] | None = None
    content_type: str = JSON
    upload: str | None = None
    """The type of a body that is read as it comes."""


def document(prefix: str, routes: Iterable[Route]) -> bytes:
    """Return the OpenAPI 3.1 document of the routes."""
    routes = list(routes)
    bodies = [route.body for route in routes if route.body is not None]
    kinds = [*(route.result for route in routes), *bodies, ProblemBody]
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    of_kind = {repr(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(prefix + route.path, {})
        operations[route.method.lower()] = _operation(route, of_kind)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Mirror admin API", "version": mirror.__version__},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"token": []}, {}],
        }
    )


def _operation(route: Route, of_kind: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "parameters": [_parameter(each) for each in route.parameters],
        "responses": {
            "200": {
                "description": "Done.",
                "content": {route.content_type: {"schema": of_kind[repr(route.result)]}},
            },
            "default": {
                "description": "What is wrong, and what to do.",
                "content": {JSON: {"schema": of_kind[repr(ProblemBody)]}},
            },
        },
    }
    if route.body is not None:
        content = {JSON: {"schema": of_kind[repr(route.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.upload is not None:
        operation["requestBody"] = {"content": {route.upload: {"schema": {}}}}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    text = {"type": "array", "items": {"type": "string"}}
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "required": parameter.is_required,
        "schema": {"type": "integer", "enum": [0, 1]} if parameter.is_flag else text,
    }
