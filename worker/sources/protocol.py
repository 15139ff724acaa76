"""What every source can do: give its entries one by one, from any checkpoint on.

A source names no position: the expander counts. It holds one entry in memory at a time, whatever
its size, and reads on exactly behind the entry whose checkpoint it is given.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared.errors import ServiceError


@dataclass(frozen=True)
class Entry:
    """One entry of a source, which becomes one item.

    Attributes:
        name: As the source has it: a path in an archive, a key, an address. Text for people, never
            a path that anything is opened by.
        data: The bytes; None where they could not be had, and `error` says why.
        checkpoint: JSON: where the source is read on behind this entry.
        reference, metadata: The caller's own, of this entry alone.
        error: A code of `shared.errors.CODES` and a sentence, of an entry that cannot be taken.
    """

    name: str
    data: bytes | None
    checkpoint: Any
    reference: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    error: tuple[str, str] | None = None


class SourceEnded(ServiceError):
    """The source cannot be read any further, definitely; what came before is kept.

    Attributes:
        code: Of `shared.errors.CODES`: `source_damaged`, `source_too_large`, `source_missing`,
            `unsupported_source`, `source_refused`.
        detail: A sentence for people.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Source(Protocol):
    """A source of entries."""

    def entries(self, checkpoint: Any) -> Iterator[Entry]:
        """The entries behind this checkpoint, in an order that is always the same.

        Closing the iterator closes what the source has opened.

        Args:
            checkpoint: Of the last entry that was taken; None to begin.

        Raises:
            SourceEnded: It cannot be read any further, now or later.
            Unavailable: It cannot be read right now; the same checkpoint is tried again later.
        """


class Refetching(Protocol):
    """A source whose entries can be had again one by one, by their names (not an archive's)."""

    def fetch(self, name: str) -> bytes:
        """The bytes of one entry.

        Raises:
            EntryError: They cannot be had.
            Unavailable: Not right now, for reasons that are not the entry's.
        """


class EntryError(ServiceError):
    """One entry cannot be had; the others can. With a code of `CODES`, and a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
