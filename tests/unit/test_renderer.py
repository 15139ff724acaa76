"""Renderings for pages: small, upright, safe to show, and never too many at a time."""

import io
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from shared.errors import ProblemError
from shared.images import opened
from tests.pictures import (
    LOSSLESS_HEIC,
    bare_tiff,
    encoded,
    grey16,
    high_bytes,
    oriented,
    several,
    turned,
)
from web import renderer
from web.renderer import Renderer

MAX_PIXELS = 1_000_000


@pytest.fixture
def render() -> Any:
    made = Renderer(max_pixels=MAX_PIXELS, most_threads=2)

    def call(data: bytes, longest: int = 100) -> Image.Image:
        rendered, media_type = made.render(data, longest)
        image = Image.open(io.BytesIO(rendered))
        assert media_type == f"image/{str(image.format).lower()}"
        return image

    return call


def corners(width: int = 400, height: int = 240) -> Image.Image:
    """A picture of four quarters, no turn of which is like another."""
    small = Image.new("RGB", (2, 2))
    small.putdata([(250, 30, 30), (30, 250, 30), (30, 30, 250), (240, 240, 30)])
    return small.resize((width, height), Image.Resampling.NEAREST)


def assert_alike(image: Image.Image, expected: Image.Image) -> None:
    """The same picture, but for what a lossy encoder changes."""
    small = expected.copy()
    small.thumbnail(image.size)
    assert image.size == small.size
    difference = np.asarray(image.convert("RGB"), int) - np.asarray(small.convert("RGB"), int)
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_each_format_becomes_a_small_jpeg(render: Any, format_: str) -> None:
    image = render(encoded(corners(), format_))
    assert (image.format, image.size) == ("JPEG", (100, 60))
    assert_alike(image, corners())


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rendering_is_upright(render: Any, format_: str, orientation: int) -> None:
    options = LOSSLESS_HEIC if format_ == "HEIF" else {}
    image = render(oriented(corners(), format_, orientation, **options))
    assert_alike(image, turned(corners(), orientation))
    assert not image.getexif()  # it would be turned once more


def test_a_heic_may_be_shown_by_the_thumbnail_in_it(render: Any) -> None:
    data = bytearray(oriented(corners(800, 480), "HEIF", 6, thumbnails=[160]))
    start = data.index(b"mdat") + 4
    data[start : start + 100] = bytes(100)  # of the large picture, which comes first
    with opened(bytes(data)) as image, pytest.raises((EOFError, OSError, ValueError, RuntimeError)):
        image.load()
    assert_alike(render(bytes(data)), turned(corners(), 6))


def test_16_bit_grey_is_seen(render: Any) -> None:
    values = grey16(120, 80)
    assert_alike(render(encoded(Image.fromarray(values), "PNG")), high_bytes(values))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_stays_so(render: Any, mode: str) -> None:
    picture = corners().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    image = render(encoded(picture.convert(mode), "PNG"))
    assert (image.format, image.mode) == ("WEBP", "RGBA")
    assert image.getchannel("A").getextrema()[0] < 20


def test_the_first_frame_is_shown_and_stands_still(render: Any) -> None:
    image = render(several(corners(), "GIF"))
    assert_alike(image, corners())


def test_nothing_is_enlarged(render: Any) -> None:
    assert render(encoded(corners(8, 8), "PNG")).size == (8, 8)


def test_a_line_is_a_picture_too(render: Any) -> None:
    assert render(encoded(corners(1, 4000), "JPEG")).size == (1, 100)


def test_the_colours_of_a_profile_are_kept_and_the_place_is_not(render: Any) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    image = render(encoded(corners(), "JPEG", icc_profile=profile, exif=exif))
    assert image.info["icc_profile"] == profile
    assert not image.getexif()
    cmyk = encoded(corners().convert("CMYK"), "JPEG", icc_profile=profile[:16] + b"CMYK" * 30)
    assert "icc_profile" not in render(cmyk).info


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"garbage", "image_unreadable"),
        (encoded(corners(), "PNG")[:300], "image_unreadable"),
        (encoded(corners(), "HEIF")[:-9], "image_unreadable"),
        (bare_tiff(np.zeros((9, 9), np.float32), sample_format=3), "image_unreadable"),
        (encoded(Image.new("1", (1001, 1000)), "PNG"), "image_too_large"),
    ],
    ids=["garbage", "short png", "short heic", "floats", "large"],
)
def test_what_cannot_be_shown_is_said_so(render: Any, data: bytes, code: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        render(data)
    assert refusal.value.code == code


def test_the_next_one_waits_and_the_one_after_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Renderer(max_pixels=MAX_PIXELS, most_threads=2)
    inside, go_on = threading.Event(), threading.Event()
    encode = renderer._encode

    def slowly(*arguments: Any) -> Any:
        inside.set()
        assert go_on.wait(30)
        return encode(*arguments)

    monkeypatch.setattr(renderer, "_encode", slowly)
    done: list[str] = []
    data = encoded(corners(), "PNG")
    threads = [
        threading.Thread(target=lambda: done.append(made.render(data, 10)[1])) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    while made._threads.acquire(blocking=False):  # until the second one waits
        made._threads.release()
    with pytest.raises(ProblemError) as refusal:
        made.render(data, 10)
    assert refusal.value.code == "service_unavailable"
    assert refusal.value.retry_after_seconds
    go_on.set()
    for thread in threads:
        thread.join()
    assert done == ["image/jpeg"] * 2
    assert made.render(data, 10)


def test_nobody_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "_LONGEST_WAIT_SECONDS", 0.01)
    made = Renderer(max_pixels=MAX_PIXELS, most_threads=2)
    with made._turn, pytest.raises(ProblemError, match="Too many"):
        made.render(encoded(corners(), "PNG"), 10)
