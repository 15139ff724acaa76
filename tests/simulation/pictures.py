"""The images of the simulation, and what a model says of each: a pure function of both."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from shared.jobs.intake import NewImage
from shared.jobs.recording import Predictions


@dataclass(frozen=True)
class Picture:
    """One image, and what is the matter with it."""

    number: int
    broken: bool = False  # it cannot be decoded
    poisonous: bool = False  # it ends the process that decodes it

    @cached_property
    def data(self) -> bytes:
        """Its bytes."""
        words = {"number": self.number, "broken": self.broken, "poisonous": self.poisonous}
        return json.dumps(words).encode()

    @cached_property
    def sha256(self) -> str:
        """Its name."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def new(self) -> NewImage:
        """As web hands it in."""
        return NewImage(self.data, "image/png", 8, 8)


def decoded(data: bytes) -> Picture:
    """What a worker finds in the bytes."""
    return Picture(**json.loads(data))


def predict(sha256: str, version_id: int) -> Predictions:
    """The one answer that a version has for an image."""
    value = int(sha256[:6], 16) ^ version_id
    return [(str(value % 10), f"label {value % 10}", 0.5 + value % 400 / 1000), ("x", "x", 0.25)]
