"""Decoding: Keras's own pixels for every kind of image, and a code for what cannot be read."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from shared.jobs.recording import Failure
from shared.models import ModelSpec
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


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    alpha = image.convert("L").point(lambda value: (value * 3) % 256)
    image = image.convert("RGB" if mode == "RGBA" else "L")
    image.putalpha(alpha)
    return image


def animated_gif() -> bytes:
    first = colours(90, 60)
    return encoded(first, "GIF", save_all=True, append_images=[ImageOps.invert(first)] * 2)


def sixteen_bit() -> bytes:
    values = (np.arange(90 * 60, dtype=np.uint32).reshape(60, 90) * 12) % 65536
    return encoded(Image.fromarray(values.astype(np.uint16)), "PNG")


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
    "png, 16 bit": sixteen_bit,
    "webp": lambda: encoded(BASE, "WEBP"),
    "webp, RGBA": lambda: encoded(with_alpha(BASE, "RGBA"), "WEBP", lossless=True),
    "gif": lambda: encoded(BASE, "GIF"),
    "gif, animated": animated_gif,
    "bmp": lambda: encoded(BASE, "BMP"),
    "tiff": lambda: encoded(BASE, "TIFF"),
    "tiff, compressed": lambda: encoded(BASE, "TIFF", compression="tiff_lzw"),
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


def turned(format_: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(BASE, format_, exif=exif)


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_turned_as_exif_says(format_: str, orientation: int) -> None:
    data = turned(format_, orientation)
    with Image.open(io.BytesIO(data)) as image:
        upright = image.convert("RGB")
    # https://www.cipa.jp/std/documents/e/DC-X008-Translation-2019-E.pdf, 4.6.4 A, Orientation.
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    if turn is not None:
        upright = upright.transpose(turn)
    assert_same(data, keras_pixels(encoded(upright, "PNG"), 224, 224))


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


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
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


_SEEDS = [
    IMAGES[kind]()
    for kind in ("jpeg", "jpeg, CMYK", "png, palette, one transparent", "webp", "bmp", "tiff")
] + [animated_gif(), turned("JPEG", 6), turned("PNG", 5)]


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
