"""What ingestions are made from: lists of entries, some of which are no images."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tests.simulation.pictures import Picture


class Kind(Enum):
    """What becomes of an entry that is read."""

    IMAGE = "image"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"  # until the chaos ends
    DEADLY = "deadly"  # it ends the process that reads it


@dataclass(frozen=True)
class Entry:
    """One entry of a source."""

    name: str
    kind: Kind
    picture: Picture


def draw_source(
    rng: random.Random, pictures: Sequence[Picture], *, odd: float, deadly: float
) -> list[Entry]:
    """A source of a few entries; `odd` is the share of those that are no images."""
    entries = []
    for number in range(rng.choice((0, 1, 2, 5, 9))):
        kind = Kind.IMAGE
        if rng.random() < odd:
            kind = rng.choice((Kind.REFUSED, Kind.UNREACHABLE))
        elif rng.random() < deadly:
            kind = Kind.DEADLY
        entries.append(Entry(f"entry-{number}", kind, rng.choice(pictures)))
    return entries
