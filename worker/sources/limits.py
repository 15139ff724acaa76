"""What an archive may hold, and an image."""

from dataclasses import dataclass

from shared.settings import Settings
from worker.sources.protocol import EntryError


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


def too_large(most: int) -> tuple[str, str]:
    """The refusal of an entry with too many bytes."""
    return "image_too_large", f"An image may have at most {most:,} bytes."


class TooLarge(EntryError):
    """An entry has more bytes than it was asked for with."""

    def __init__(self, most: int) -> None:
        super().__init__(*too_large(most))
        self.most = most
