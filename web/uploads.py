"""The header of an upload: what type its content is, and how many pixels it claims to have."""

from io import BytesIO

from PIL import Image

from shared.errors import ProblemError
from shared.images import FORMATS, MEDIA_TYPES
from shared.jobs.intake import NewImage
from shared.settings import Settings


def read_image(data: bytes, settings: Settings) -> NewImage:
    """Check an image by its content. Only the header is read; decoding is the worker's.

    Raises:
        ProblemError: `image_too_large` (bytes or pixels) or `unsupported_image`.
    """
    if len(data) > settings.max_image_bytes:
        raise too_many_bytes(settings)
    if not data:
        raise ProblemError("unsupported_image", "The image is empty: it has no bytes.")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            format_, (width, height) = image.format, image.size
    except Exception as error:
        # Whatever a parser of foreign bytes trips over (struct.error, ValueError, SyntaxError,
        # OverflowError, …) means the same: this is no image that we can read.
        raise _unsupported() from error
    if width * height > settings.max_image_pixels:
        raise _too_many_pixels(settings)
    if format_ not in MEDIA_TYPES:
        raise _unsupported()
    return NewImage(data, MEDIA_TYPES[format_], width, height)


def too_many_bytes(settings: Settings) -> ProblemError:
    """The refusal of an image with too many bytes."""
    return ProblemError(
        "image_too_large", f"An image may have at most {settings.max_image_bytes:,} bytes."
    )


def _too_many_pixels(settings: Settings) -> ProblemError:
    return ProblemError(
        "image_too_large",
        f"An image may have at most {settings.max_image_pixels:,} pixels (width x height).",
    )


def _unsupported() -> ProblemError:
    return ProblemError(
        "unsupported_image",
        "The content is not an image that the service reads: JPEG, PNG, WebP, GIF, BMP or TIFF.",
    )
