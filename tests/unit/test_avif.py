"""The pixels that an AVIF holds, read from its structure: what it says of itself may be a lie."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.avif import coded_pixels
from tests.pictures import encoded, oriented, several

PICTURE = Image.linear_gradient("L").resize((60, 40)).convert("RGB")
STILL = encoded(PICTURE, "AVIF")
ANIMATED = several(PICTURE, "AVIF")


def transparent() -> Image.Image:
    picture = PICTURE.convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def test_a_still_image_holds_what_it_says() -> None:
    assert coded_pixels(STILL) == 60 * 40
    assert coded_pixels(encoded(PICTURE.convert("L"), "AVIF")) == 60 * 40
    assert coded_pixels(oriented(PICTURE, "AVIF", 6)) == 60 * 40
    xmp = b'{"\x0a": "what is no picture is no matter"}' * 9
    assert coded_pixels(encoded(PICTURE, "AVIF", xmp=xmp)) == 60 * 40
    assert coded_pixels(encoded(Image.new("RGB", (1, 1)), "AVIF")) == 1
    assert coded_pixels(encoded(Image.new("RGB", (1234, 321)), "AVIF")) == 1234 * 321


def test_transparency_is_a_second_picture() -> None:
    assert coded_pixels(encoded(transparent(), "AVIF")) == 2 * 60 * 40


def test_frames_of_animations_may_be_as_large_as_their_bits_allow() -> None:
    assert coded_pixels(ANIMATED) == 64 * 64
    both = [transparent()] * 2
    assert coded_pixels(encoded(both[0], "AVIF", save_all=True, append_images=both)) in (
        2 * 60 * 40,  # alike frames may be written as one
        2 * 64 * 64,
    )


def test_what_it_says_is_not_looked_at() -> None:
    lying = bytearray(STILL)
    size = lying.index(b"ispe") + 8
    lying[size : size + 8] = struct.pack(">II", 1, 1)
    assert coded_pixels(bytes(lying)) == 60 * 40


def test_what_is_no_avif_holds_nothing() -> None:
    assert coded_pixels(b"") == coded_pixels(b"garbage") == coded_pixels(bytes(100)) == 0


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


ENDLESS = {
    "OBUs": ANIMATED[: ANIMATED.index(b"mdat") + 4] + b"\x12\x00" * 200_000,
    "boxes": box(b"free") * 200_000,
    # Extents of no bytes, 65,535 of each item.
    "extents": box(b"meta", bytes(4), box(b"iloc", bytes(6), b"\xff\xff", b"\xff" * 70_000)),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_looking_ends_whatever_the_file_is_made_of(kind: str) -> None:
    with pytest.raises(ValueError, match="too many parts"):
        coded_pixels(ENDLESS[kind])


@settings(max_examples=150, deadline=None, database=None)
@given(st.data())
def test_damage_is_a_value_error_at_most(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from([STILL, ANIMATED])))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        assert coded_pixels(bytes(damaged)) >= 0
    except ValueError as error:
        assert str(error)
