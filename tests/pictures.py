"""Pictures that say where each pixel belongs, in kinds of files that Pillow doesn't write."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

ORIENTATION = 0x0112
# A HEIC that keeps each pixel as it is.
LOSSLESS_HEIC = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
# https://www.cipa.jp/std/documents/e/DC-X008-Translation-2019-E.pdf, 4.6.4 A, Orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def oriented(image: Image.Image, format_: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, format_, exif=exif.tobytes(), **options)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """As it is to be seen."""
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def several(image: Image.Image, format_: str, **options: Any) -> bytes:
    """A file of three frames or pages, of which the first is the image."""
    others = [ImageOps.invert(image)] * 2
    return encoded(image, format_, save_all=True, append_images=others, **options)


def grey16(width: int, height: int) -> NDArray[np.uint16]:
    """Values over all of 16 bits."""
    y, x = np.mgrid[0:height, 0:width]
    return ((x * 65535 // max(width - 1, 1) + y * 331) % 65536).astype(np.uint16)


def high_bytes(values: NDArray[np.uint16]) -> Image.Image:
    """The same in 8 bits."""
    return Image.fromarray((values >> 8).astype(np.uint8))


def packed12(values: NDArray[np.uint16]) -> bytes:
    """The high 12 bits of an even number of values, two in three bytes."""
    first, second = (values >> 4).reshape(-1, 2).T
    parts = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return np.stack(parts, -1).astype(np.uint8).tobytes()


def bare_tiff(
    pixels: NDArray[Any],
    *,
    order: str = "<",
    photometric: int = 1,
    sample_format: int = 1,
    packed: bytes | None = None,
    tile: int | None = None,
) -> bytes:
    """An uncompressed grey TIFF (TIFF 6.0, section 4).

    Args:
        pixels: Shape (height, width), of the type that is written.
        order: `<` or `>`.
        photometric: 0 where zero is white, 1 where it is black.
        sample_format: 1 unsigned, 2 signed, 3 floating point.
        packed: The pixels in 12 bits each.
        tile: The pixels are those of one square tile of this side, and the image is 10 x 10.
    """
    height, width = pixels.shape
    strip = packed or pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: width,
        257: height,
        258: 12 if packed else pixels.itemsize * 8,
        259: 1,
        262: photometric,
        273: 0,
        277: 1,
        278: height,
        279: len(strip),
        339: sample_format,
    }
    if tile is not None:
        for strips in (273, 278, 279):
            del tags[strips]
        strip = zlib.compress(strip)
        tags |= {256: 10, 257: 10, 259: 8, 322: tile, 323: tile, 324: 0, 325: len(strip)}
    tags[273 if tile is None else 324] = 8 + 2 + len(tags) * 12 + 4
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, v) for tag, v in sorted(tags.items()))
    return head + entries + bytes(4) + strip
