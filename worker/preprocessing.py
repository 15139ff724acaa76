"""From stored bytes to the pixels of the model's input, as Keras's `load_img` makes them."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.images import NO_WHITE, has_white, in_8_bits, opened
from shared.jobs.recording import Failure
from shared.models import ModelSpec

_RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


def decode(data: bytes, spec: ModelSpec, max_pixels: int) -> NDArray[np.uint8] | Failure:
    """Decode, turn as EXIF says, convert to RGB and resize.

    The steps and their order are those of `keras.utils.load_img(target_size=…)`, after the turn
    and the scaling of 16-bit grey values.

    Args:
        data: The image file.
        spec: Says the input size in pixels and the kind of resampling.
        max_pixels: Largest width times height that is decoded.

    Returns:
        RGB of shape (height, width, 3), 0-255; or why the image cannot be read.
    """
    try:
        with opened(data) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width} x {image.height}"
                return Failure("image_too_large", f"The image has {size} pixels.")
            if not has_white(image):
                return Failure("image_unreadable", NO_WHITE)
            upright = ImageOps.exif_transpose(in_8_bits(image)).convert("RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError:  # its text holds an address of this process
        return Failure("image_unreadable", "The file is not an image of a type that is read.")
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        return Failure("image_unreadable", f"The image cannot be decoded: {error}.")
    target = (spec.width, spec.height)
    if upright.size != target:
        upright = upright.resize(target, _RESAMPLING[spec.resize])
    return np.asarray(upright, dtype=np.uint8)
