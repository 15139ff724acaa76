"""Every refusal and failure as `application/problem+json` (RFC 9457), or as a page for people.

Each code of the registry is a kind of problem; its `type` is the address that explains it.
"""

from http import HTTPStatus
from typing import Any

import structlog
from flask import Blueprint, Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from shared.errors import CODES, ProblemError, Unavailable

_MEDIA_TYPE = "application/problem+json"
_UNAVAILABLE_SECONDS = 5  # Retry-After where nobody knows better
_MACHINE_PATHS = ("/v1/", "/healthz", "/readyz", "/openapi.json", "/problems/")
_CODES_OF_STATUSES: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type",
}

log = structlog.get_logger(__name__)
blueprint = Blueprint("problems", __name__)


def problem(
    code: str,
    detail: str | None = None,
    *,
    errors: list[dict[str, Any]] | None = None,
    retry_after_seconds: int | None = None,
    **extensions: Any,
) -> Response:
    """The response for a code of `CODES`; `extensions` are members of its own."""
    known = CODES[code]
    body: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": known.title,
        "status": known.status,
        "detail": detail or f"{known.title}.",
        "code": code,
        "retryable": known.retryable,
    }
    if errors:
        body["errors"] = errors
    body |= extensions
    response = _page(body) if _wants_page() else jsonify(body)
    if response.mimetype != "text/html":
        response.mimetype = _MEDIA_TYPE
    response.status_code = known.status
    response.headers["Cache-Control"] = "no-store"
    response.vary.add("Accept")
    if retry_after_seconds is None and known.status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after_seconds = _UNAVAILABLE_SECONDS
    if retry_after_seconds is not None:
        response.headers["Retry-After"] = str(retry_after_seconds)
    return response


def register(app: Flask) -> None:
    """Have every exception that leaves a view, or the router, answered as a problem."""
    app.register_error_handler(ProblemError, _refused)
    app.register_error_handler(Unavailable, _unavailable)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _failed)
    app.register_blueprint(blueprint)


@blueprint.get("/problems/<code>")
def explain(code: str) -> Response:
    """What a code means: the address that is a problem's `type`."""
    known = CODES.get(code)
    if known is None:
        raise ProblemError("not_found", f"There is no code {code!r}.")
    return jsonify(code=code, title=known.title, status=known.status, retryable=known.retryable)


def _refused(error: ProblemError) -> Response:
    return problem(
        error.code,
        error.detail,
        errors=error.errors,
        retry_after_seconds=error.retry_after_seconds,
    )


def _unavailable(error: Unavailable) -> Response:
    # What exactly is away, and where, is for the operator.
    log.warning("request_unavailable", error=str(error))
    return problem(
        "service_unavailable",
        # Of a commit whose answer never came nobody knows, until it is asked for again.
        "The database or the storage cannot be used right now. Try again; with an Idempotency-Key "
        "nothing is made twice.",
    )


def _http_error(error: HTTPException) -> BaseResponse:
    """Flask's and Werkzeug's own: 404, 405, 413, …; a redirect stays what it is."""
    if error.response is not None or error.code is None or error.code < HTTPStatus.BAD_REQUEST:
        return error.get_response(request.environ)
    if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _failed(error)
    response = problem(_CODES_OF_STATUSES.get(error.code, "bad_request"))
    for name, value in error.get_headers(request.environ):
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value  # Allow, of a 405
    return response


def _failed(error: Exception) -> Response:
    log.error("request_failed", method=request.method, path=request.path, exc_info=error)
    return problem("internal_error", "Something went wrong on our side. The log says what.")


def _wants_page() -> bool:
    """Whether people are to read it: never where programs go."""
    if f"{request.path}/".startswith(_MACHINE_PATHS) or request.path in _MACHINE_PATHS:
        return False
    accepted = request.accept_mimetypes
    return accepted["text/html"] > accepted["application/json"]


def _page(body: dict[str, Any]) -> Response:
    return Response(render_template("error.html", problem=body), mimetype="text/html")
