"""Images as the pages show them: a preview of what no browser can show, and thumbnails of all."""

from uuid import UUID

from flask import Blueprint, Response, request

from web.owners import own_job
from web.services import services
from web.stored_images import image_response, stored_bytes

_PREVIEW_PIXELS = 1600
_THUMBNAIL_PIXELS = 240
# An image never changes, and neither does its rendering until the code does.
_CACHING = "private, max-age=86400"

previews = Blueprint("previews", __name__, url_prefix="/jobs")


@previews.get("/<uuid:job_id>/preview")
def preview(job_id: UUID) -> Response:
    """The image at up to 1600 pixels a side, as JPEG or WebP."""
    return _rendering(job_id, _PREVIEW_PIXELS)


@previews.get("/<uuid:job_id>/thumbnail")
def thumbnail(job_id: UUID) -> Response:
    """The image at up to 240 pixels a side, as JPEG or WebP."""
    return _rendering(job_id, _THUMBNAIL_PIXELS)


def _rendering(job_id: UUID, longest: int) -> Response:
    own = services()
    with own.database.read() as connection:
        row = own_job(connection, job_id)
    etag = f"{row.image}-{longest}"
    if request.if_none_match.contains(etag):
        data, media_type = b"", "image/jpeg"  # what the browser has is not rendered again
    else:
        data, media_type = own.renderer.render(stored_bytes(row), longest)
    return image_response(data, media_type, etag=etag, caching=_CACHING)
