"""The forms in which a source arrives: an archive, a list, many images, or an address."""

from collections.abc import Iterator
from contextlib import contextmanager

from flask import request

from shared.errors import ProblemError
from shared.settings import Settings
from web.bodies import read_object, refuse_query
from web.ingesting import Given, kind_of, source_at, source_of
from web.schemas import BulkOptions
from web.spooling import spooled_body, spooled_form
from web.values import invalid, parse, parse_texts

# They say that a file comes; which one, its content says.
FILE_TYPES = (
    "application/zip",
    "application/x-tar",
    "application/gzip",
    "application/zstd",
    "text/plain",
    "text/csv",
    "application/jsonl",
    "application/x-ndjson",
)
_OBJECT_BYTES = 64 * 1024
_SOURCE = "source"


@contextmanager
def read_source(settings: Settings) -> Iterator[tuple[Given, BulkOptions]]:
    """The source and the options of the current request; what was uploaded lies there meanwhile.

    Raises:
        ProblemError: `unsupported_media_type`, `bad_request`, `request_too_large`,
            `invalid_value`, `unsupported_source` or `source_refused`.
        Unavailable: The disk takes no more.
    """
    if request.mimetype == "multipart/form-data":
        refuse_query()
        with spooled_form(settings) as form:
            options = parse_texts(BulkOptions, form.fields)
            yield source_of(form), options
    elif request.mimetype in FILE_TYPES:
        options = parse_texts(BulkOptions, request.args)
        with spooled_body(settings) as path:
            yield Given(kind_of(path), None, path), options
    elif request.mimetype == "application/json":
        request.max_content_length = _OBJECT_BYTES
        values = read_object()
        url = values.pop(_SOURCE, None)
        if not isinstance(url, str):
            raise invalid(_SOURCE, "the address of a source is needed")
        options = parse(BulkOptions, values, strict=True)
        yield source_at(settings, url), options
    else:
        raise ProblemError(
            "unsupported_media_type",
            "Send multipart/form-data with a field 'archive' or fields 'image', or the archive or "
            f"list itself as {', '.join(FILE_TYPES)}, or application/json with a 'source'.",
        )
