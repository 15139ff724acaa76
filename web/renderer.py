"""Smaller renderings of images, for pages: made on demand, and few at a time."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

from PIL import Image, ImageOps

from shared.errors import ProblemError
from shared.images import NO_WHITE, has_white, in_8_bits, opened

_LONGEST_WAIT_SECONDS = 5.0
_RETRY_SECONDS = 2
_QUALITY = 85
_ROOM = 1.5  # what is decoded at a fraction of its size keeps so much more than is shown


class Renderer:
    """Renders one image at a time, so that pictures never take a process's memory or all threads.

    One that has to wait holds a thread of the server. It is refused where too many wait already,
    and after some seconds.
    """

    def __init__(self, *, max_pixels: int, most_threads: int) -> None:
        self._max_pixels = max_pixels
        self._threads = threading.BoundedSemaphore(most_threads)
        self._turn = threading.Lock()

    def render(self, data: bytes, longest: int) -> tuple[bytes, str]:
        """An image upright, no side longer than `longest` pixels, and never enlarged.

        Args:
            data: The image file.
            longest: In pixels.

        Returns:
            The file and its media type: JPEG, or WebP where there is transparency.

        Raises:
            ProblemError: `image_unreadable`, `image_too_large`, or `service_unavailable` where too
                many others are being rendered.
        """
        with self._turns():
            try:
                return self._render(data, longest)
            except (ProblemError, MemoryError):
                raise
            except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
                raise ProblemError("image_unreadable", "The image cannot be decoded.") from error

    def _render(self, data: bytes, longest: int) -> tuple[bytes, str]:
        with opened(data) as image:
            if image.width * image.height > self._max_pixels:
                raise ProblemError("image_too_large", "The image has too many pixels to be shown.")
            if not has_white(image):
                raise ProblemError("image_unreadable", f"The image cannot be seen. {NO_WHITE}")
            # A JPEG is decoded at a fraction of its size, of a HEIC the thumbnail that is in it.
            scale = longest * _ROOM / max(image.size)
            image.draft("RGB", (ceil(image.width * scale), ceil(image.height * scale)))
            picture = in_8_bits(image)
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            picture = picture.convert(mode)
            profile = image.info.get("icc_profile")
        picture.thumbnail((longest, longest))
        picture = ImageOps.exif_transpose(picture)
        return _encode(picture, profile)

    @contextmanager
    def _turns(self) -> Iterator[None]:
        if not self._threads.acquire(blocking=False):
            raise _busy()
        try:
            if not self._turn.acquire(timeout=_LONGEST_WAIT_SECONDS):
                raise _busy()
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._threads.release()


def _encode(picture: Image.Image, profile: bytes | None) -> tuple[bytes, str]:
    """The file, without what else the original said: where it was taken, for one."""
    # The colours are still the original's, unless it was grey or CMYK.
    kept = profile if profile is not None and profile[16:20] == b"RGB " else None
    format_ = "WEBP" if picture.mode == "RGBA" else "JPEG"
    file = io.BytesIO()
    picture.save(file, format_, quality=_QUALITY, icc_profile=kept)
    return file.getvalue(), f"image/{format_.lower()}"


def _busy() -> ProblemError:
    return ProblemError(
        "service_unavailable",
        "Too many pictures are being rendered just now.",
        retry_after_seconds=_RETRY_SECONDS,
    )
