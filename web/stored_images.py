"""Stored images on their way out: their bytes, with headers that make a stranger's bytes safe."""

from typing import Any

from flask import Response, request
from sqlalchemy import Row

from shared.errors import ObjectMissing, ProblemError
from shared.jobs import recording
from web.services import services


def stored_bytes(row: Row[Any]) -> bytes:
    """The image of a job, as it was stored.

    Args:
        row: Of `queries.job_rows`.

    Raises:
        ProblemError: `image_missing`.
        Unavailable: The storage is away.
    """
    own = services()
    if row.object is not None:
        try:
            return own.storage.read(row.object)
        except ObjectMissing:
            # The next submit of this image writes it anew.
            recording.forget_object(own.database, row.image, row.object)
    raise ProblemError("image_missing", "The stored image is gone.")


def image_response(data: bytes, media_type: str, *, etag: str, caching: str) -> Response:
    """The answer with an image, or 304 for a browser that has it already."""
    response = Response(data, mimetype=media_type)
    response.headers["Cache-Control"] = caching
    # These bytes are a stranger's: even opened by itself, nothing in them may run or load.
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.set_etag(etag)
    response.make_conditional(request)
    return response
