"""Small pictures, each another one, and archives of them."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image


def pictures(seed: int) -> Iterator[bytes]:
    """PNGs of 12 x 12 pixels, without end; another seed has others."""
    random = np.random.default_rng(seed)
    while True:
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8)).save(file, "PNG")
        yield file.getvalue()


def write_tar(path: Path, each: Iterable[bytes]) -> None:
    """An archive of these pictures."""
    with tarfile.open(path, "w") as archive:
        for number, data in enumerate(each):
            info = tarfile.TarInfo(f"pictures/{number:08}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
