"""When failures in a row are no longer the entries' own, but of the place they lie at."""

from collections.abc import Iterable, Iterator

from shared.errors import Unavailable
from worker.sources.protocol import Entry, EntryError, SourceEnded

IN_A_ROW = 20


class NotGiven(EntryError):
    """A place did not give an entry; if it gives none, that is not the entries' fault.

    Attributes:
        place: The host or bucket.
    """

    def __init__(self, code: str, detail: str, place: str) -> None:
        super().__init__(code, detail)
        self.place = place


def held_back(outcomes: Iterable[tuple[Entry, str | None]]) -> Iterator[Entry]:
    """The entries; those that failed are held back until one is had, or lies elsewhere.

    So a host that is away makes an ingestion wait, with its checkpoint before the first of them,
    and does not fail a million items.

    Args:
        outcomes: each with the place that could not be reached, else None.

    Raises:
        Unavailable: So many in a row failed at the same place.
    """
    held: list[Entry] = []
    place: str | None = None
    try:
        for entry, away in outcomes:
            if away is None or away != place:
                yield from held
                held, place = [], away
            if away is None:
                yield entry
                continue
            held.append(entry)
            if len(held) >= IN_A_ROW:
                detail = entry.error[1] if entry.error is not None else ""
                raise Unavailable(f"{away} gave none of {IN_A_ROW} in a row. {detail}")
    except SourceEnded:
        yield from held
        raise
    yield from held
