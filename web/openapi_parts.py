"""The pieces of `/openapi.json`: schemas, parameters, request bodies, responses."""

from itertools import groupby
from typing import Any

from pydantic import BaseModel, TypeAdapter

from shared.errors import CODES
from web.filters import Filters
from web.schemas import (
    BulkOptions,
    FieldError,
    Ingestion,
    Ingestions,
    Job,
    Jobs,
    Model,
    Models,
    ModelVersion,
    Options,
    Problem,
    ResultLine,
)
from web.sources import FILE_TYPES

_JSON = "application/json"
_FORM = "multipart/form-data"
_TEXT = {"type": "string"}
_BYTES = {"type": "string", "contentMediaType": "application/octet-stream"}
_DATA_URL = {
    "type": "string",
    "description": "A data: URL with base64.",
    "examples": ["data:image/png;base64,iVBORw0KGgo…"],
}
_ADDRESS = {
    "type": "string",
    "description": "Of a directory of the server, a bucket's prefix, an archive or a list.",
    "examples": ["s3://bucket/prefix", "file:///srv/pictures", "https://example.org/list.txt"],
}
_SHAPES = (
    Job,
    Jobs,
    Ingestion,
    Ingestions,
    ResultLine,
    Model,
    Models,
    ModelVersion,
    FieldError,
    Problem,
)
_SCHEMA_REF = "#/components/schemas/{model}"


def schemas() -> dict[str, Any]:
    """Every body that is answered, by name."""
    _, made = TypeAdapter.json_schemas(
        [(shape, "serialization", TypeAdapter(shape)) for shape in _SHAPES],
        ref_template=_SCHEMA_REF,
    )
    found: dict[str, Any] = made["$defs"]
    # Of a stable registry: whoever writes a client can list them.
    found["Problem"]["properties"]["code"]["enum"] = sorted(CODES)
    return found


def parameters() -> dict[str, Any]:
    """The parameters that several calls share, by the names that `ref` takes."""

    def in_path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "in": "path", "required": True, "schema": schema}

    def in_header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "in": "header", "description": description, "schema": schema}

    return {
        "job_id": in_path("job_id", {"type": "string", "format": "uuid"}),
        "ingestion_id": in_path("ingestion_id", {"type": "string", "format": "uuid"}),
        "name": in_path("name", _TEXT),
        "version": in_path("version", _TEXT),
        "code": in_path("code", {"enum": sorted(CODES)}),
        "wait": in_header(
            "Prefer",
            "`wait=n`: answer when the job has ended, after n ≤ 60 s at the latest.",
            _TEXT,
        ),
        "wait_all": in_header(
            "Prefer",
            "With `id`. `wait=n`: answer when all these jobs have ended, after n ≤ 60 s at the "
            "latest.",
            _TEXT,
        ),
        "wait_ingestion": in_header(
            "Prefer",
            "`wait=n`: answer when the ingestion has ended, after n ≤ 60 s at the latest.",
            _TEXT,
        ),
        "if_none_match": in_header("If-None-Match", "The ETag of what the client has.", _TEXT),
        "idempotency_key": in_header(
            "Idempotency-Key",
            "The same image and options with the same key, within 24 h, are the same job; the same "
            "source and options the same ingestion.",
            {"type": "string", "minLength": 1, "maxLength": 200},
        ),
    }


def ref(name: str) -> dict[str, str]:
    """A shared parameter."""
    return {"$ref": f"#/components/parameters/{name}"}


def option_parameters(shape: type[BaseModel], bare: str) -> list[dict[str, Any]]:
    """Options as they go with a body that is the image or the file itself: in the address.

    Args:
        shape: The options.
        bare: What the body is.
    """
    return [
        _option_parameter(name, schema, bare) for name, schema in _option_schemas(shape).items()
    ]


def filter_parameters() -> list[dict[str, Any]]:
    """What a list of jobs is asked for."""
    ids = {
        "description": "Poll these jobs, in this order; no filter goes with it. A job that is not "
        "there, or is another owner's, is left out.",
        "schema": {"type": "array", "items": {"type": "string", "format": "uuid"}, "maxItems": 100},
    }
    return [*query_parameters(Filters), {"name": "id", "in": "query", **ids}]


def query_parameters(shape: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of a shape, as an address has them."""
    found: dict[str, Any] = shape.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "description": schema["description"],
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in found.items()
    ]


def lines(schema: str, description: str) -> dict[str, Any]:
    """A stream of JSON lines of one of the schemas, or CSV."""
    return {
        "description": description,
        "content": {
            "application/jsonl": {"schema": {"$ref": _SCHEMA_REF.format(model=schema)}},
            "text/csv": {"schema": _TEXT},
        },
    }


def submissions() -> dict[str, Any]:
    """The three forms in which an image is taken."""
    return {
        _FORM: {"schema": _with_options(Options, image=_BYTES)},
        "image/*": {"schema": _BYTES},
        _JSON: {"schema": _with_options(Options, image=_DATA_URL)},
    }


def ingestion_submissions() -> dict[str, Any]:
    """The forms in which a source is taken."""
    images = {"type": "array", "items": _BYTES}
    uploads = [
        _with_options(BulkOptions, archive=_BYTES),
        _with_options(BulkOptions, image=images),
    ]
    return {
        _FORM: {"schema": {"oneOf": uploads}},
        **{type_: {"schema": _BYTES} for type_ in FILE_TYPES},
        _JSON: {"schema": _with_options(BulkOptions, source=_ADDRESS)},
    }


def _with_options(shape: type[BaseModel], **content: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(content),
        "properties": content | _option_schemas(shape),
        "additionalProperties": False,
    }


def call(
    operation: str,
    summary: str,
    responses: dict[str, Any],
    codes: tuple[str, ...],
    **more: Any,
) -> dict[str, Any]:
    """One operation; `codes` are those of the problems it may answer."""
    return {
        "operationId": operation,
        "summary": summary,
        **more,
        "responses": responses | _problems(codes),
    }


def body(schema: str, description: str, *headers: str) -> dict[str, Any]:
    """A response with one of the schemas."""
    response: dict[str, Any] = {
        "description": description,
        "content": {_JSON: {"schema": {"$ref": _SCHEMA_REF.format(model=schema)}}},
    }
    if headers:
        response["headers"] = {name: {"schema": _TEXT} for name in headers}
    return response


def some_object(description: str) -> dict[str, Any]:
    """A response with a JSON object that programs need not take apart."""
    return {"description": description, "content": {_JSON: {"schema": {"type": "object"}}}}


def _option_schemas(shape: type[BaseModel]) -> dict[str, Any]:
    found: dict[str, Any] = shape.model_json_schema()["properties"]
    return found


def _option_parameter(name: str, schema: dict[str, Any], bare: str) -> dict[str, Any]:
    # An object goes into an address as the text of its JSON.
    value = {"content": {_JSON: {"schema": schema}}} if name == "metadata" else {"schema": schema}
    description = f"With an {bare} body only. {schema.get('description', '')}".strip()
    return {"name": name, "in": "query", "description": description, **value}


def _problems(codes: tuple[str, ...]) -> dict[str, Any]:
    """The responses for some codes: one for each status, which several may share."""

    def status(code: str) -> int:
        return CODES[code].status

    return {
        str(number): _problem(list(group))
        for number, group in groupby(sorted(codes, key=status), key=status)
    }


def _problem(codes: list[str]) -> dict[str, Any]:
    schema = {
        "allOf": [
            {"$ref": _SCHEMA_REF.format(model="Problem")},
            {"properties": {"code": {"enum": codes}}},
        ]
    }
    return {
        "description": "\n".join(f"- `{code}`: {CODES[code].title}." for code in codes),
        "content": {"application/problem+json": {"schema": schema}},
    }
