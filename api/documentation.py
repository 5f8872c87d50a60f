"""The OpenAPI document: what FastAPI cannot see for itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel
from starlette.responses import FileResponse, HTMLResponse

from api import idempotency, openai_errors, submission
from api.dependencies import Needs, single_values
from api.errors import MEDIA_TYPE
from api.multipart import FILE_FIELD
from api.openai_errors import Envelope
from api.schemas import Problem
from api.webhook_schemas import Message
from config import VERSION
from models import WebhookEvent

SUMMARY: Final = "Turns recordings into text."
DESCRIPTION: Final = """\
Send a file, get a job; ask for the job until it is completed, and read its text.

Every call but `/health` and `/ready` carries an API key, as `X-API-Key: KEY` or
`Authorization: Bearer KEY`; beside each operation stands the scope that it needs. Every error is
`application/problem+json` with a stable `code`; those of `/v1/` are told as OpenAI does.
"""
TAGS: Final = [
    {"name": "jobs", "description": "Submit recordings, follow them, read what was said."},
    {"name": "openai", "description": "The same, for clients of OpenAI."},
    {"name": "whisper-asr", "description": "The same, for clients of whisper-asr-webservice."},
    {"name": "uploads", "description": "Send a recording in pieces, by tus 1.0.0."},
    {"name": "batches", "description": "Many files with one profile."},
    {"name": "webhooks", "description": "Be called when a job has ended."},
    {"name": "page", "description": "What our own page in the browser needs beside the rest."},
    {"name": "admin", "description": "For operators: needs a key with the scope `admin`."},
    {"name": "limits", "description": "What may be used, and what has been."},
    {"name": "keys", "description": "For operators: who may do what."},
    {"name": "health", "description": "For load balancers: needs no key and tells no details."},
]

DOCS: Final = "/docs"
OPENAPI: Final = "/openapi.json"
#: The page's script and style: what each is called in Swagger UI, and its media type.
ASSETS: Final = {
    "/docs/swagger-ui.js": ("swagger-ui-bundle.js", "text/javascript"),
    "/docs/swagger-ui.css": ("swagger-ui.css", "text/css"),
}

#: Where the package that holds them keeps them.
_SWAGGER_UI: Final = Path(str(resources.files("fastapi_offline"))) / "static"

Responses = dict[int | str, dict[str, Any]]

_EXPLANATIONS: Final = {
    400: "The request cannot be read.",
    401: "No key, or not a good one.",
    403: "The key lacks the scope.",
    404: "There is no such thing, or it is not yours.",
    406: "No format that the client accepts.",
    408: "The body stopped arriving.",
    409: "The state of the job or key, or a request that is under way, does not allow it.",
    410: "The upload, or the job, is no longer kept.",
    412: "The request is not of tus 1.0.0.",
    413: "The body is too large.",
    415: "The body is of another media type.",
    416: "The range lies outside of the upload.",
    422: "A field has a value that is not allowed.",
    423: "Another request is sending this upload.",
    429: "The key has used up its requests or a quota, or waits too often at once; or there were"
    " too many refusals.",
    460: "What came is not what its checksum says.",
    503: "PostgreSQL or the store of uploads is away; try again later.",
    504: "The job is not done yet; the same request finds it.",
    507: "Not enough free disk space; try again later.",
}


page = APIRouter()


@page.get(DOCS, include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Show the document with Swagger UI; of all scripts only its own may run."""
    root = request.scope.get("root_path", "")
    script_url, style_url = (root + path for path in ASSETS)
    html = get_swagger_ui_html(
        openapi_url=root + OPENAPI,
        title=request.app.title,
        swagger_js_url=script_url,
        swagger_css_url=style_url,
        swagger_favicon_url="data:,",
    )
    (script,) = re.findall(rb"<script>(.*?)</script>", html.body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    html.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}';"
        " style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html


def asset(request: Request) -> FileResponse:
    """Give the page its script or its style; nothing is loaded from anywhere else."""
    name, media_type = ASSETS[request.scope["route"].path]
    return FileResponse(_SWAGGER_UI / name, media_type=media_type)


for _path in ASSETS:
    page.add_api_route(_path, asset, include_in_schema=False)


def problems(*statuses: int) -> Responses:
    """Describe the errors of a route; whoever needs a key may also come too often.

    Those of parameters and of JSON bodies are added by themselves.
    """
    more = {HTTPStatus.TOO_MANY_REQUESTS} if HTTPStatus.UNAUTHORIZED in statuses else set()
    return {int(status): _problem(status) for status in sorted({*statuses, *more})}


def refusals(*statuses: int) -> Responses:
    """Describe the errors of a route of OpenAI's."""
    wanted = {*statuses, HTTPStatus.TOO_MANY_REQUESTS}
    return {int(status): _refusal(status) for status in sorted(wanted)}


def _refusal(status: int) -> dict[str, Any]:
    explanation = _EXPLANATIONS.get(status, HTTPStatus(status).phrase)
    schema = {"$ref": f"#/components/schemas/{Envelope.__name__}"}
    return {"description": explanation, "content": {"application/json": {"schema": schema}}}


def _problem(status: int) -> dict[str, Any]:
    explanation = _EXPLANATIONS.get(status) or HTTPStatus(status).phrase
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": explanation, "content": {MEDIA_TYPE: {"schema": schema}}}


_IDEMPOTENCY_KEY: Final[Mapping[str, Any]] = {
    "name": idempotency.HEADER,
    "in": "header",
    "required": False,
    "description": "A name for this submission, new for each: sent again with the same one, it"
    " makes no second job.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": idempotency.MAX_CHARS,
        "pattern": f"^{idempotency.KEY.pattern}$",
    },
}


def upload_body() -> dict[str, Any]:
    """Describe the form of a submission, which is read by hand."""
    properties = {
        FILE_FIELD: {
            "type": "string",
            "format": "binary",
            "description": "Audio, or video with sound.",
        },
        **{
            name: {**field.schema, "description": field.description}
            for name, field in submission.FIELDS.items()
        },
    }
    either = [{"required": [FILE_FIELD]}, {"required": ["source_url"]}]
    schema = {"type": "object", "anyOf": either, "properties": properties}
    return {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": schema}},
        },
        "parameters": [
            dict(_IDEMPOTENCY_KEY),
            *(
                {
                    "name": name,
                    "in": "query",
                    "required": False,
                    "description": f"The same as the form's `{name}`.",
                    "schema": dict(field.schema),
                }
                for name, field in submission.FIELDS.items()
            ),
        ],
    }


def openai_body(fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Describe a form of OpenAI's, which is read by hand."""
    file = {"type": "string", "format": "binary", "description": "Audio, or video with sound."}
    schema = {
        "type": "object",
        "required": [FILE_FIELD],
        "properties": {FILE_FIELD: file, **fields},
    }
    body = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return {"requestBody": body}


def asr_body(file_field: str, fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Describe a form of whisper-asr-webservice's, which is read by hand, and its query."""
    file = {"type": "string", "format": "binary", "description": "Audio, or video with sound."}
    schema = {"type": "object", "required": [file_field], "properties": {file_field: file}}
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": dict(field)}
        for name, field in fields.items()
    ]
    body = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return {"requestBody": body, "parameters": parameters}


def json_request(model_name: str, *, required: bool, idempotent: bool = False) -> dict[str, Any]:
    """Describe a JSON body that a dependency of ours reads.

    Args:
        idempotent: Whether it may come with an ``Idempotency-Key``.
    """
    schema = {"$ref": f"#/components/schemas/{model_name}"}
    body = {"required": required, "content": {"application/json": {"schema": schema}}}
    more = {"parameters": [dict(_IDEMPOTENCY_KEY)]} if idempotent else {}
    return {"requestBody": body, **more}


def install(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Let the app describe itself with our own error, and with the bodies that are read by hand."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, bodies)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _document(app: FastAPI, bodies: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=VERSION,
        summary=SUMMARY,
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
    )
    schemas = document["components"]["schemas"]
    models: tuple[type[BaseModel], ...] = (Problem, Envelope, Message, *bodies)
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    document["webhooks"] = {str(event): {"post": _message(event)} for event in WebhookEvent}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    scopes, strict = dict(_scopes(app)), set(_strict(app))
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path.startswith(openai_errors.PREFIX):
                operation["responses"].pop("422", None)  # they have none
            else:
                for status in _implied(operation, strict=operation["operationId"] in strict):
                    operation["responses"][str(status)] = _problem(status)
            if scope := scopes.get(operation["operationId"]):
                # OpenAPI 3.1: for what is not OAuth these are the roles that are needed
                operation["security"] = [
                    {key: [scope] for key in scheme} for scheme in operation["security"]
                ]
    return document


def _message(event: WebhookEvent) -> dict[str, Any]:
    """Describe what a receiver is sent, and what is expected of it."""
    schema = {"$ref": f"#/components/schemas/{Message.__name__}"}
    return {
        "operationId": f"receive_{event.replace('.', '_')}",
        "tags": ["webhooks"],
        "summary": f"An event of type {event}",
        "description": "Signed by `webhook-id`, `webhook-timestamp` and `webhook-signature`, as"
        " Standard Webhooks has it.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "2XX": {"description": "It is not sent again."},
            "410": {"description": "Nothing is sent to this webhook any more."},
            "default": {"description": "It is sent again."},
        },
    }


def _implied(operation: dict[str, Any], *, strict: bool) -> Iterator[int]:
    """The errors of whatever comes with a request."""
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        yield from (400, 408, 413, 415, 422)
    elif strict or "422" in operation["responses"]:
        yield 422


def _scopes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """The scope that each operation needs. Told to FastAPI, it would ask for the caller twice."""
    for name, asked in _dependencies(app):
        if isinstance(asked, Needs):
            yield name, str(asked.scope)


def _strict(app: FastAPI) -> Iterator[str]:
    """The operations that refuse a parameter which is given twice."""
    return (name for name, asked in _dependencies(app) if asked is single_values)


def _dependencies(app: FastAPI) -> Iterator[tuple[str, object]]:
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute) and route.operation_id:
            for dependency in route.dependant.dependencies:
                yield route.operation_id, dependency.call
