"""Decoding: Keras's own pixels for every kind of image, and a code for what cannot be read."""

import io
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.images import MEDIA_TYPES, is_animated, opened
from shared.jobs.recording import Failure
from shared.models import ModelSpec
from tests.pictures import (
    LOSSLESS_HEIC,
    bare_tiff,
    encoded,
    grey16,
    high_bytes,
    oriented,
    packed12,
    several,
    turned,
)
from worker.preprocessing import decode

MAX_PIXELS = 64_000_000
SPEC = ModelSpec("VGG16", "vgg16.h5", 224, 224, "vgg16", "0" * 64, 1)


def make_spec(height: int, width: int, resize: str = "nearest") -> ModelSpec:
    return ModelSpec("VGG16", "vgg16.h5", height, width, "vgg16", "0" * 64, 1, resize=resize)


def colours(width: int, height: int) -> Image.Image:
    """Every pixel says where it is, so that a wrong turn, order or resampling shows."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x * 7 + y, y * 5 + 40, x * 3 + y * 11], axis=-1) % 256
    return Image.fromarray(pixels.astype(np.uint8), "RGB")


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    alpha = image.convert("L").point(lambda value: (value * 3) % 256)
    image = image.convert("RGB" if mode == "RGBA" else "L")
    image.putalpha(alpha)
    return image


BASE = colours(90, 60)
IMAGES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(BASE, "JPEG"),
    "jpeg, progressive": lambda: encoded(BASE, "JPEG", progressive=True),
    "jpeg, grayscale": lambda: encoded(BASE.convert("L"), "JPEG"),
    "jpeg, CMYK": lambda: encoded(BASE.convert("CMYK"), "JPEG"),
    "png": lambda: encoded(BASE, "PNG"),
    "png, RGBA": lambda: encoded(with_alpha(BASE, "RGBA"), "PNG"),
    "png, LA": lambda: encoded(with_alpha(BASE, "LA"), "PNG"),
    "png, palette": lambda: encoded(BASE.convert("P"), "PNG"),
    "png, palette, one transparent": lambda: encoded(BASE.convert("P"), "PNG", transparency=3),
    "png, palette, many transparent": lambda: encoded(
        BASE.convert("P"), "PNG", transparency=bytes(range(256))
    ),
    "png, RGB, one transparent": lambda: encoded(BASE, "PNG", transparency=(0, 40, 0)),
    "png, 1 bit": lambda: encoded(BASE.convert("1"), "PNG"),
    "png, animated": lambda: several(BASE, "PNG"),
    "webp": lambda: encoded(BASE, "WEBP"),
    "webp, RGBA": lambda: encoded(with_alpha(BASE, "RGBA"), "WEBP", lossless=True),
    "webp, animated": lambda: several(BASE, "WEBP"),
    "gif": lambda: encoded(BASE, "GIF"),
    "gif, animated": lambda: several(BASE, "GIF"),
    "bmp": lambda: encoded(BASE, "BMP"),
    "bmp, palette": lambda: encoded(BASE.convert("P"), "BMP"),
    "bmp, 1 bit": lambda: encoded(BASE.convert("1"), "BMP"),
    "tiff": lambda: encoded(BASE, "TIFF"),
    "tiff, LZW": lambda: encoded(BASE, "TIFF", compression="tiff_lzw"),
    "tiff, deflate": lambda: encoded(BASE, "TIFF", compression="tiff_deflate"),
    "tiff, JPEG inside": lambda: encoded(BASE, "TIFF", compression="jpeg"),
    "tiff, fax": lambda: encoded(BASE.convert("1"), "TIFF", compression="group4"),
    "tiff, CMYK": lambda: encoded(BASE.convert("CMYK"), "TIFF"),
    "tiff, RGBA": lambda: encoded(with_alpha(BASE, "RGBA"), "TIFF"),
    "tiff, big-endian, white is zero": lambda: bare_tiff(
        np.asarray(BASE.convert("L")), order=">", photometric=0
    ),
    "tiff, pages": lambda: several(BASE, "TIFF"),
    "mpo": lambda: several(BASE, "MPO"),
    "avif": lambda: encoded(BASE, "AVIF"),
    "avif, alpha": lambda: encoded(with_alpha(BASE, "RGBA"), "AVIF"),
    "avif, animated": lambda: several(BASE, "AVIF"),
    "heic": lambda: encoded(BASE, "HEIF"),
    "heic, alpha": lambda: encoded(with_alpha(BASE, "RGBA"), "HEIF"),
    "heic, several": lambda: several(BASE, "HEIF"),
    "1 x 1": lambda: encoded(colours(1, 1), "PNG"),
    "1 x 4000": lambda: encoded(colours(1, 4000), "PNG"),
    "4000 x 1": lambda: encoded(colours(4000, 1), "PNG"),
    "as large as the input": lambda: encoded(colours(224, 224), "PNG"),
    "6000 x 4000": lambda: encoded(Image.new("RGB", (6000, 4000), (200, 30, 90)), "JPEG"),
}


def keras_pixels(data: bytes, height: int, width: int, interpolation: str = "nearest") -> Any:
    """The tutorial's own chain, up to the preprocessing."""
    import keras

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a palette with transparency
        loaded = keras.utils.load_img(
            io.BytesIO(data), target_size=(height, width), interpolation=interpolation
        )
    return keras.utils.img_to_array(loaded)


def assert_same(data: bytes, expected: Any, spec: ModelSpec = SPEC) -> None:
    ours = decode(data, spec, MAX_PIXELS)
    assert isinstance(ours, np.ndarray), ours
    assert ours.dtype == np.uint8
    assert ours.shape == (spec.height, spec.width, 3)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", IMAGES)
def test_the_pixels_are_those_of_keras(kind: str) -> None:
    data = IMAGES[kind]()
    assert_same(data, keras_pixels(data, 224, 224))


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["nearest", "bilinear"])
def test_height_and_width_are_not_confused(resize: str) -> None:
    data = encoded(BASE, "PNG")
    assert_same(data, keras_pixels(data, 32, 24, resize), make_spec(32, 24, resize))


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_an_image_is_turned_as_exif_says(format_: str, orientation: int) -> None:
    data = oriented(BASE, format_, orientation)
    with Image.open(io.BytesIO(data)) as image:
        upright = turned(image.convert("RGB"), orientation)
    assert_same(data, keras_pixels(encoded(upright, "PNG"), 224, 224))


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["TIFF", "HEIF"])
def test_what_the_decoder_turns_by_itself_is_not_turned_twice(
    format_: str, orientation: int
) -> None:
    data = oriented(BASE, format_, orientation, **(LOSSLESS_HEIC if format_ == "HEIF" else {}))
    assert_same(data, keras_pixels(encoded(turned(BASE, orientation), "PNG"), 224, 224))


GREY = grey16(90, 60)


def heic_of_10_bits() -> bytes:
    file = io.BytesIO()
    pillow_heif.from_bytes("I;16", (90, 60), GREY.tobytes()).save(file, quality=-1)
    return file.getvalue()


SIXTEEN_BITS: dict[str, Callable[[], bytes]] = {
    "png": lambda: encoded(Image.fromarray(GREY), "PNG"),
    "tiff": lambda: bare_tiff(GREY),
    "tiff, big-endian": lambda: bare_tiff(GREY, order=">"),
    "tiff, white is zero": lambda: bare_tiff(65535 - GREY, photometric=0),
    "tiff, 12 bit": lambda: bare_tiff(GREY, packed=packed12(GREY)),
    "heic, 10 bit": heic_of_10_bits,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SIXTEEN_BITS)
def test_16_bit_grey_is_scaled_where_keras_would_clip_it(kind: str) -> None:
    assert_same(SIXTEEN_BITS[kind](), keras_pixels(encoded(high_bytes(GREY), "PNG"), 224, 224))
    clipped = keras_pixels(SIXTEEN_BITS["png"](), 224, 224)
    assert clipped.mean() > 250  # else Keras has mended it, and this is no longer an exception


@pytest.mark.slow
def test_16_bit_grey_is_turned_too() -> None:
    data = oriented(Image.fromarray(GREY), "PNG", 6)
    assert_same(data, keras_pixels(encoded(turned(high_bytes(GREY), 6), "PNG"), 224, 224))


@pytest.mark.parametrize(
    ("type_", "sample_format"), [(np.int16, 2), (np.uint32, 1), (np.int32, 2), (np.float32, 3)]
)
def test_grey_values_without_a_white_are_not_guessed_at(type_: Any, sample_format: int) -> None:
    outcome = failure(bare_tiff(GREY.astype(type_), sample_format=sample_format))
    assert outcome.code == "image_unreadable"
    assert "no value is said to be white" in outcome.detail


@pytest.mark.parametrize(
    ("kind", "animated"),
    [("gif", False), ("jpeg", False), ("heic", False), ("mpo", False)]
    + [(f"{kind}, animated", True) for kind in ("png", "webp", "gif", "avif")]
    + [("tiff, pages", True), ("heic, several", True)],
)
def test_more_frames_than_the_first_are_noticed(kind: str, animated: bool) -> None:
    with opened(IMAGES[kind]()) as image:
        assert is_animated(image) is animated


def test_a_second_frame_that_is_damaged_matters_to_nobody() -> None:
    whole = IMAGES["gif, animated"]()
    for data in (whole[: len(whole) * 3 // 4], whole[: len(whole) * 3 // 4] + bytes(range(256))):
        with opened(data) as image:
            assert is_animated(image) in {True, False}
        assert not isinstance(decode(data, SPEC, MAX_PIXELS), Failure)


def failure(data: bytes, max_pixels: int = MAX_PIXELS) -> Failure:
    outcome = decode(data, SPEC, max_pixels)
    assert isinstance(outcome, Failure)
    return outcome


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"\x00" * 1000,
        b"\x89PNG\r\n\x1a\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_what_is_no_image_is_unreadable(data: bytes) -> None:
    assert failure(data).code == "image_unreadable"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic"])
def test_an_image_cut_off_is_unreadable(kind: str) -> None:
    data = IMAGES[kind]()
    for length in (len(data) // 3, len(data) * 2 // 3):
        assert failure(data[:length]).code == "image_unreadable"


def test_what_is_told_of_an_unreadable_image_is_the_same_each_time() -> None:
    assert failure(b"garbage") == failure(b"garbage")
    assert "0x" not in failure(b"garbage").detail  # no address of this process


def test_a_format_that_is_not_read_is_not_opened() -> None:
    assert failure(encoded(BASE, "PPM")).code == "image_unreadable"
    assert failure(encoded(BASE, "ICO")).code == "image_unreadable"


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    data = encoded(BASE, "PNG")
    assert failure(data, max_pixels=90 * 60 - 1).code == "image_too_large"
    assert not isinstance(decode(data, SPEC, 90 * 60), Failure)
    # Cut off behind its header: had it been decoded, it would be unreadable.
    assert failure(data[:60], max_pixels=100).code == "image_too_large"


def test_a_frame_larger_than_its_screen_is_counted_too() -> None:
    data = bytearray(encoded(Image.new("P", (8, 8), 3), "GIF"))
    start = data.index(b"\x2c", 13)
    data[start + 5 : start + 9] = (3000).to_bytes(2, "little") * 2
    assert failure(bytes(data), max_pixels=1000).code == "image_too_large"


def test_a_heic_with_more_pixels_than_it_says_is_not_decoded() -> None:
    data = bytearray(encoded(Image.new("RGB", (1200, 1200)), "HEIF"))
    size = data.index(b"ispe") + 8
    data[size : size + 8] = struct.pack(">II", 10, 10)
    assert "limit" in failure(bytes(data), max_pixels=100).detail


def test_a_tile_may_be_larger_than_its_image_but_not_for_ever() -> None:
    def tiled(side: int) -> bytes:
        return bare_tiff(np.zeros((side, side), np.uint8), tile=side)

    assert not isinstance(decode(tiled(1024), SPEC, MAX_PIXELS), Failure)
    assert "holds 1081600" in failure(tiled(1040)).detail


def test_each_format_that_is_read_has_a_media_type() -> None:
    for kind in ("jpeg", "mpo", "png", "webp", "gif", "bmp", "tiff", "avif", "heic"):
        with opened(IMAGES[kind]()) as image:
            assert MEDIA_TYPES[str(image.format)].endswith(kind if kind != "mpo" else "jpeg")


_SEEDS = [IMAGES[kind]() for kind in IMAGES if "000" not in kind] + [
    oriented(BASE, "JPEG", 6),
    oriented(BASE, "PNG", 5),
    bare_tiff(GREY),
]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(st.data())
def test_damaged_bytes_never_raise(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(_SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        # The header is where the parsers' decisions are.
        reach = data.draw(st.sampled_from([64, 700, len(damaged)]))
        position = data.draw(st.integers(0, min(reach, len(damaged)) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    outcome = decode(bytes(damaged), SPEC, 1_000_000)
    if isinstance(outcome, Failure):
        assert outcome.code in {"image_unreadable", "image_too_large"}
        assert "\x00" not in outcome.detail  # PostgreSQL keeps no such text
        outcome.detail.encode()
    else:
        assert outcome.shape == (224, 224, 3)


@settings(max_examples=50, deadline=None, database=None)
@given(st.binary(max_size=300))
def test_any_bytes_never_raise(data: bytes) -> None:
    assert failure(data, max_pixels=1_000_000).code in {"image_unreadable", "image_too_large"}
