"""What an archive may hold, and an image."""

from dataclasses import dataclass

from shared.settings import Settings
from worker.sources.protocol import EntryError, SourceEnded

_ALWAYS_BYTES = 2**30  # that an archive may unpack to, however small it is


@dataclass(frozen=True)
class Limits:
    """What an archive may hold; see the settings of these names."""

    max_image_bytes: int
    max_expanded_bytes: int
    max_expansion_ratio: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits that the operator has set."""
        return cls(
            settings.max_image_bytes, settings.max_expanded_bytes, settings.max_expansion_ratio
        )

    def most_bytes(self, packed: int) -> int:
        """How many bytes an archive of so many may unpack to in all."""
        by_ratio = max(_ALWAYS_BYTES, packed * self.max_expansion_ratio)
        return min(by_ratio, self.max_expanded_bytes)


def unpacks_too_far(most: int) -> SourceEnded:
    """The end of an archive that unpacks to too many bytes in all."""
    return SourceEnded("source_too_large", f"The archive unpacks to more than {most:,} bytes.")


def too_large(most: int) -> tuple[str, str]:
    """The refusal of an entry with too many bytes."""
    return "image_too_large", f"An image may have at most {most:,} bytes."


class TooLarge(EntryError):
    """An entry has more bytes than it was asked for with."""

    def __init__(self, most: int) -> None:
        super().__init__(*too_large(most))
        self.most = most
