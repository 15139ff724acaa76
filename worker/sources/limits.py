"""What an archive may hold."""

from dataclasses import dataclass

from shared.settings import Settings


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
