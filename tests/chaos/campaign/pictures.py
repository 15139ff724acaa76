"""The images of the campaign by their numbers, and the answers that an undisturbed model gives."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from tests.functional.service import ROOT, distinct_image
from tests.services import OWN_KERAS

DIGITS = ROOT / "models" / "digits"
SCALES = (1 / 255, 0.7 / 255)  # of the two versions: they answer differently
_SIDE = 32

_ORACLE = """
import json, sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1], compile=False)
for line in sys.stdin:
    rows = np.array(json.loads(line), np.float32)
    found = [model.predict(rows * scale, verbose=0).tolist() for scale in map(float, sys.argv[2:])]
    print(json.dumps(found), flush=True)
"""


def picture(number: int) -> bytes:
    """The image of a number; below zero it is one that ends in the middle, or is none at all."""
    if number >= 0:
        return distinct_image(number)
    whole = distinct_image(-1 - number)
    return whole[: len(whole) // 2] if is_cut(number) else b"no picture %d" % number


def is_cut(number: int) -> bool:
    """Whether a broken image looks like one until it is decoded."""
    return number < 0 and number % 2 == 0


def archive(entries: Sequence[int]) -> bytes:
    """A zip of these images; `entry_name` says how they are called."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for position, number in enumerate(entries):
            # Without the time of day: handed in again, it is the same bytes.
            packed.writestr(zipfile.ZipInfo(entry_name(position)), picture(number))
    return file.getvalue()


def entry_name(position: int) -> str:
    return f"{position:04}.png"


class Oracle:
    """Keras itself, in a process of its own that nobody disturbs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _ORACLE, str(DIGITS / "model.keras")]
            + [repr(scale) for scale in SCALES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=OWN_KERAS,
        )

    def scores(self, numbers: Iterable[int]) -> dict[int, tuple[Any, Any]]:
        """For each image the scores of the ten digits by either version."""
        wanted = sorted(set(numbers))
        if not wanted:
            return {}
        rows = []
        for number in wanted:
            image = Image.open(io.BytesIO(picture(number))).convert("RGB")
            resized = image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            rows.append(np.asarray(resized).tolist())
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(rows) + "\n")
        self._process.stdin.flush()
        first, second = json.loads(self._process.stdout.readline())
        return dict(zip(wanted, zip(first, second, strict=True), strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
