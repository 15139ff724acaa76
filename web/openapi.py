"""`/openapi.json`: the interface, call by call.

Written by hand from the schemas and the registry of codes, since one call takes an image in three
forms, and another a source in as many, which generators do not know. Tests hold it to the routes
and to real answers.
"""

from functools import cache
from typing import Any

from flask import Blueprint, Response, jsonify

from web.filters import IngestionFilters
from web.openapi_parts import (
    body,
    call,
    filter_parameters,
    ingestion_submissions,
    lines,
    option_parameters,
    parameters,
    query_parameters,
    ref,
    schemas,
    some_object,
    submissions,
)
from web.results import ResultOptions
from web.schemas import BulkOptions, Options

_ANYWHERE = ("bad_request", "internal_error")
_CHANGING = (*_ANYWHERE, "cross_site", "service_unavailable")
_ASKING = (*_ANYWHERE, "service_unavailable")
_HANDING_IN = (
    *_CHANGING,
    "idempotency_gone",
    "idempotency_mismatch",
    "invalid_value",
    "model_unavailable",
    "model_unknown",
    "request_too_large",
    "unsupported_media_type",
)

blueprint = Blueprint("openapi", __name__)


@blueprint.get("/openapi.json")
def show() -> Response:
    """The description of this interface."""
    return jsonify(document())


@cache
def document() -> dict[str, Any]:
    """The interface as an OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Image classifier",
            "version": "1",
            "description": "Hand in an image, get a job, poll it for its predictions. Clients "
            "ignore fields and states that they do not know.",
        },
        "paths": _paths(),
        "components": {"schemas": schemas(), "parameters": parameters()},
    }


def _paths() -> dict[str, Any]:
    job_id, wait, wait_all = ref("job_id"), ref("wait"), ref("wait_all")
    ingestion_id = ref("ingestion_id")
    model, model_version = ref("name"), ref("version")
    unchanged = {"304": {"description": "Unchanged since that ETag."}}
    gone = (*_ASKING, "not_found")
    return {
        "/v1/jobs": {
            "get": call(
                "listJobs",
                "One's own jobs, newest first; or, with `id`, the state of up to 100 jobs",
                {"200": body("Jobs", "A page of jobs.", "Retry-After")},
                (*_ASKING, "invalid_value", "model_unknown"),
                parameters=[wait_all, *filter_parameters()],
            ),
            "post": call(
                "submitJob",
                "Classify one image",
                {"202": body("Job", "Accepted.", "Location", "Retry-After")}
                | {"200": body("Job", "Accepted, and finished already.", "Location")},
                (
                    *_HANDING_IN,
                    *("backlog_full", "image_too_large", "too_many_jobs", "unsupported_image"),
                ),
                parameters=[wait, ref("idempotency_key"), *option_parameters(Options, "image/*")],
                requestBody={"required": True, "content": submissions()},
            ),
        },
        "/v1/jobs/{job_id}": {
            "parameters": [job_id],
            "get": call(
                "getJob",
                "Poll a job",
                {"200": body("Job", "The job.", "ETag", "Retry-After")} | unchanged,
                gone,
                parameters=[wait, ref("if_none_match")],
            ),
            "delete": call(
                "deleteJob",
                "Delete a job, with its image and result unless something else uses them",
                {"204": {"description": "Deleted."}},
                (*_CHANGING, "not_found", "part_of_ingestion"),
            ),
        },
        "/v1/jobs/{job_id}/cancel": {
            "parameters": [job_id],
            "post": call(
                "cancelJob",
                "Cancel a job",
                {"200": body("Job", "Cancelled, now or before.")},
                (*_CHANGING, "not_found", "already_finished"),
            ),
        },
        "/v1/jobs/{job_id}/image": {
            "parameters": [job_id],
            "get": call(
                "getJobImage",
                "The image, as it was stored",
                {"200": {"description": "The image.", "content": {"image/*": {"schema": {}}}}}
                | unchanged,
                (*gone, "image_missing"),
                parameters=[ref("if_none_match")],
            ),
        },
        "/v1/ingestions": {
            "get": call(
                "listIngestions",
                "One's own ingestions, newest first",
                {"200": body("Ingestions", "A page of ingestions.")},
                (*_ASKING, "invalid_value"),
                parameters=query_parameters(IngestionFilters),
            ),
            "post": call(
                "submitIngestion",
                "Classify all images of an archive, a folder, a bucket or a list",
                {"202": body("Ingestion", "Accepted.", "Location", "Retry-After")}
                | {"200": body("Ingestion", "Accepted before, and finished.", "Location")},
                (*_HANDING_IN, "source_refused", "too_many_ingestions", "unsupported_source"),
                parameters=[
                    ref("idempotency_key"),
                    *option_parameters(BulkOptions, "archive or list as the"),
                ],
                requestBody={"required": True, "content": ingestion_submissions()},
            ),
        },
        "/v1/ingestions/{ingestion_id}": {
            "parameters": [ingestion_id],
            "get": call(
                "getIngestion",
                "Poll an ingestion",
                {"200": body("Ingestion", "The ingestion.", "ETag", "Retry-After")} | unchanged,
                gone,
                parameters=[ref("wait_ingestion"), ref("if_none_match")],
            ),
            "delete": call(
                "deleteIngestion",
                "Delete an ingestion, with its jobs and results",
                {"202": {"description": "Hidden; it is removed in the background."}},
                (*_CHANGING, "not_found"),
            ),
        },
        "/v1/ingestions/{ingestion_id}/cancel": {
            "parameters": [ingestion_id],
            "post": call(
                "cancelIngestion",
                "Cancel an ingestion",
                {"200": body("Ingestion", "Cancelled, now or before.")},
                (*_CHANGING, "not_found", "already_finished"),
            ),
        },
        "/v1/ingestions/{ingestion_id}/retry": {
            "parameters": [ingestion_id],
            "post": call(
                "retryIngestion",
                "Classify what failed or expired again",
                {"202": body("Ingestion", "It runs again.", "Retry-After")}
                | {"200": body("Ingestion", "There was nothing to retry.")},
                (
                    *(*_CHANGING, "not_found", "not_finished"),
                    *("already_finished", "model_unavailable"),
                ),
            ),
        },
        "/v1/ingestions/{ingestion_id}/results": {
            "parameters": [ingestion_id],
            "get": call(
                "listResults",
                "What became of an ingestion's items, one a line, while it runs and afterwards",
                {"200": lines("ResultLine", "The items that have ended.")},
                (*_ASKING, "not_found", "invalid_value"),
                parameters=query_parameters(ResultOptions),
            ),
        },
        "/v1/models": {
            "get": call("listModels", "Every model", {"200": body("Models", "All.")}, _ASKING)
        },
        "/v1/models/{name}": {
            "parameters": [model],
            "get": call("getModel", "One model", {"200": body("Model", "The model.")}, gone),
        },
        "/v1/models/{name}/versions/{version}": {
            "parameters": [model, model_version],
            "get": call(
                "getModelVersion",
                "One version of a model, with its labels",
                {"200": body("ModelVersion", "The version.")},
                gone,
            ),
        },
        "/healthz": {"get": call("getHealth", "Liveness", {"200": some_object("Alive.")}, ())},
        "/readyz": {
            "get": call(
                "getReadiness",
                "Readiness: database, storage and schema, each with a word in `checks`",
                {"200": some_object("Ready.")},
                ("service_unavailable",),
            )
        },
        "/openapi.json": {"get": call("getOpenAPI", "This", {"200": some_object("This.")}, ())},
        "/problems/{code}": {
            "parameters": [ref("code")],
            "get": call(
                "getProblem",
                "What a code means; the address that is the `type` of a problem",
                {"200": some_object("Its title, its status, and whether a retry may help.")},
                ("not_found",),
            ),
        },
    }
