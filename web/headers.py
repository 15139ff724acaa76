"""What every request is checked for, and what every response carries."""

import time
from urllib.parse import urlsplit

import structlog
from flask import Flask, Response, g, request

from shared.database import new_id
from shared.errors import ProblemError

_REQUEST_ID_CHARACTERS = 200
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

# Of what is its owner's, and changes: kept by no proxy, and asked for anew each time.
PRIVATE = "private, no-cache"
POLL_SECONDS = 1  # `Retry-After` of a job that has not ended

# Nothing inline and nothing from elsewhere: a name or a label that slipped through as markup
# could neither run nor load anything.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_SECURITY = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

log = structlog.get_logger(__name__)


def register(app: Flask) -> None:
    """Put the checks before, and the headers behind, every view."""
    app.before_request(_name_request)
    app.before_request(_refuse_cross_site)
    app.after_request(_finish)


def _name_request() -> None:
    """Give the request an id that logs, the job and the response share."""
    given = request.headers.get("X-Request-ID", "")
    sane = given.isascii() and given.isprintable() and 0 < len(given) <= _REQUEST_ID_CHARACTERS
    g.request_id = given if sane else str(new_id())
    g.began_at = time.monotonic()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _refuse_cross_site() -> None:
    """Refuse a change that a page of another site makes a visitor's browser ask for.

    There is no login, so whoever reaches the service may use it; but a page elsewhere must not
    use it through a browser that happens to reach it, on a laptop or behind a firewall. Browsers
    say where a request comes from, and no page can change that: `Sec-Fetch-Site` where the
    address is trustworthy to them (https or localhost), `Origin` with every unsafe method. What
    sends neither is no browser: curl and scripts need no token, and there is no session to keep
    one in.
    """
    if request.method in _SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        allowed = site in ("same-origin", "none")
    else:
        allowed = origin is None or _host(origin) == request.host.lower()
    if not allowed:
        raise ProblemError("cross_site", "This request was made by a page of another site.")


def _host(origin: str) -> str | None:
    """Host and port of an origin; None where it has none (`null`) or is malformed."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _finish(response: Response) -> Response:
    for name, value in _SECURITY.items():
        response.headers.setdefault(name, value)
    if request.path.startswith("/v1/"):
        response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Request-ID"] = g.request_id
    log.debug(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        duration_ms=round((time.monotonic() - g.began_at) * 1000, 1),
    )
    return response
