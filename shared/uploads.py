"""The header of an upload: what type its content is, and how many pixels it claims to have."""

from shared.errors import ProblemError
from shared.images import MEDIA_TYPES, NAMES, NO_WHITE, has_white, is_animated, opened
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
        with opened(data) as image:
            media_type, (width, height) = MEDIA_TYPES[str(image.format)], image.size
            shows, animated = has_white(image), is_animated(image)
    except Exception as error:
        # Whatever a parser of foreign bytes trips over (struct.error, ValueError, SyntaxError,
        # OverflowError, …) means the same: this is no image that we can read.
        raise _unsupported() from error
    if width * height > settings.max_image_pixels:
        raise _too_many_pixels(settings)
    if not shows:
        raise ProblemError("unsupported_image", f"The image cannot be seen. {NO_WHITE}")
    return NewImage(data, media_type, width, height, animated)


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
        f"The content is not an image that the service reads: {NAMES}.",
    )
