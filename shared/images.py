"""The one place that knows image formats: web checks headers by it, workers decode by it."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pillow_heif
from PIL import AvifImagePlugin, ExifTags, Image, TiffImagePlugin

# What Pillow's openers are asked for, in this order: AVIF and HEIF share a container, and each
# leaves the other's files alone. Pillow knows many more formats; each parses a stranger's bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
# The same as people know them. HEIC is HEIF with HEVC inside, which is what phones write.
NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"

# By the format Pillow reports. MPO is what some cameras write into .jpg files: the JPEG opener
# reads it, the first picture of several.
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}

NO_WHITE = (
    "Its grey values are signed, of 32 bits or floating point, and no value is said to be white. "
    "Save it with 8 or 16 bits."
)

# Several images are decoded at a time already, one a core.
_THREADS_OF_ONE_DECODER = 4

# A TIFF's tile may be larger than a small image, but not for ever.
_MOST_TIMES = 8
_FREE_PIXELS = 2**20
_TILE_SIZE = (322, 323)  # TileWidth and TileLength, TIFF 6.0, section 15

# The limit of the settings is checked on the header, by web and worker alike. Pillow's own limit
# beside it, which belongs to the whole process, would be one too many.
Image.MAX_IMAGE_PIXELS = None
AvifImagePlugin.DEFAULT_MAX_THREADS = _THREADS_OF_ONE_DECODER
# Opening reads the header alone (0.4 ms), and libheif refuses to decode more pixels than that says.
pillow_heif.register_heif_opener(
    decode_threads=_THREADS_OF_ONE_DECODER, depth_images=False, aux_images=False
)


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """The image in `data`, of which the header was read; using its pixels decodes it.

    Its content decides what it is: a HEIC named `.jpg` is a HEIC.

    Raises:
        Exception: Nearly any, for bytes that are no image that is read, or a damaged one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels are fine
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_large_tiles(image)
            yield image


def _refuse_large_tiles(image: Image.Image) -> None:
    """Refuse a TIFF that says it is small, and is decoded in tiles of another size.

    Pillow's other decoders allocate what the header says; libheif refuses more than that, and
    libavif more than 268 million pixels.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, length = (int(image.tag_v2.get(tag, 0)) for tag in _TILE_SIZE)
        pixels = image.width * image.height
        if width * length > max(_MOST_TIMES * pixels, _FREE_PIXELS):
            raise ValueError(f"it says that it has {pixels} pixels, and holds {width * length}")


def has_white(image: Image.Image) -> bool:
    """Whether it is known what value is white, without which there are no colours to see."""
    return image.mode not in ("I", "F")


def is_animated(image: Image.Image) -> bool:
    """Whether the file holds more than one frame or page; the first is what is classified.

    An MPO does not count: its other pictures are a camera's previews and maps of the first.
    """
    if image.format == "MPO":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        # A GIF is asked for its second frame, and a damaged one matters to nobody.
        return False


def in_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of 16 (or 12) bits as 8, by their high bits; any other image as it is.

    That is how Pillow itself reads 16-bit colours. Its own `convert` clips 16-bit grey values, so
    that nearly all of such a picture is white.
    """
    if not image.mode.startswith("I;16"):
        return image
    bits, inverted = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2[ExifTags.Base.BitsPerSample][0]
        inverted = image.tag_v2[ExifTags.Base.PhotometricInterpretation] == 0  # white is zero
    grey = image.convert("I").point(lambda value: value / 2 ** (bits - 8)).convert("L")
    return grey.point(lambda value: 255 - value) if inverted else grey
