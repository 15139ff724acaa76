"""The three forms in which an image arrives: multipart, raw, or JSON with a data: URL."""

import binascii
import re
from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from shared.errors import ProblemError
from shared.settings import Settings
from shared.uploads import too_many_bytes
from web.schemas import Options
from web.values import invalid, parse, parse_texts

_IMAGE = "image"
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Body:
    """An image as it arrived, not looked at yet, and what is asked of its job."""

    data: bytes
    filename: str | None
    options: Options


def read_body(settings: Settings) -> Body:
    """The image and the options of the current request.

    Raises:
        ProblemError: `unsupported_media_type`, `bad_request`, `image_too_large`,
            `request_too_large` or `invalid_value`.
    """
    try:
        if request.mimetype == "multipart/form-data":
            return _read_multipart()
        if request.mimetype.startswith("image/"):
            return Body(request.get_data(cache=False), None, parse_texts(Options, request.args))
        if request.mimetype == "application/json":
            return _read_json()
    except RequestEntityTooLarge as error:
        # Too many fields of a form are refused by the same exception.
        limit = request.max_content_length
        if request.mimetype.startswith("image/") or (
            limit is not None and (request.content_length or 0) > limit
        ):
            raise too_many_bytes(settings) from error
        raise
    raise ProblemError(
        "unsupported_media_type",
        "Send multipart/form-data with a field 'image', or the image itself with its image/* "
        "type, or application/json.",
    )


def _read_multipart() -> Body:
    refuse_query()
    files, extra = request.files.getlist(_IMAGE), sorted(set(request.files) - {_IMAGE})
    if extra:
        raise invalid(extra[0], "there is no such file field; the image is in 'image'")
    if len(files) != 1:
        raise invalid(_IMAGE, f"exactly one file is taken, not {len(files)}")
    [file] = files
    return Body(file.read(), file.filename, parse_texts(Options, request.form))


def _read_json() -> Body:
    values = read_object()
    image = values.pop(_IMAGE, None)
    if not isinstance(image, str):
        raise invalid(_IMAGE, "an image is needed, as a data: URL")
    return Body(_decode(image), None, parse(Options, values, strict=True))


def _decode(url: str) -> bytes:
    """The bytes of a `data:…;base64,…` URL (RFC 2397)."""
    if url[:8].lower().startswith(("https://", "http://")):
        raise invalid(_IMAGE, "addresses are not taken; send the image as a data: URL")
    head = _DATA_URL.match(url)
    if head is None:
        raise invalid(_IMAGE, "this is not a data: URL with base64")
    try:
        return b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(_IMAGE, "the base64 of the data: URL is malformed") from error


def read_object() -> dict[str, Any]:
    """The JSON object that is the body of the current request.

    What a client leaves open may also be said: null is the same as absent.

    Raises:
        ProblemError: `bad_request` or `invalid_value`.
    """
    refuse_query()
    try:
        values = request.get_json()
    except BadRequest as error:
        raise ProblemError("bad_request", "The body is not JSON.") from error
    except RecursionError as error:
        raise ProblemError("bad_request", "The JSON nests too deep.") from error
    if not isinstance(values, dict):
        raise ProblemError("invalid_value", "The body has to be a JSON object.")
    return {name: value for name, value in values.items() if value is not None}


def refuse_query() -> None:
    """An option in the wrong place would otherwise be ignored, and another model answer."""
    if request.args:
        raise invalid(next(iter(request.args)), "with this content type, options are in the body")
