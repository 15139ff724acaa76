"""Whether there is room for one more model version, and which one gives way where there is none."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from shared.models import Version
from shared.settings import Settings
from worker.serving import LoadedModel

# VGG16 in float32: 0.55 GB of weights; while it is loaded it takes 2.1 GB above TensorFlow's own
# memory, and 1.4 GB afterwards.
_PEAK_PER_WEIGHT_BYTE = 4
_HELD_PER_WEIGHT_BYTE = 2


@dataclass
class Room:
    """What one process can hold.

    Versions without jobs give way to one that has jobs, the one served longest ago first. Of two
    that both have jobs, one waits `exchange_seconds` for the other, then takes its place.
    """

    settings: Settings
    _waits_since: dict[int, float] = field(default_factory=dict, init=False)

    def lack(self, version: Version, loaded: Sequence[LoadedModel]) -> str | None:
        """Why there is no room for one more version, as a sentence; or None."""
        most = self.settings.max_loaded_versions
        if most and len(loaded) >= most:
            return f"{version.name} waits: this worker holds at most {most} model versions at once."
        needed, available = _peak_bytes(version), psutil.virtual_memory().available
        if needed > available:
            return (
                f"{version.name} needs about {needed / 1e9:.1f} GB of memory to be loaded, "
                f"and {available / 1e9:.1f} GB are free."
            )
        return None

    def gives_way(
        self, version: Version, loaded: Sequence[LoadedModel], has_jobs: Mapping[int, bool]
    ) -> int | None:
        """Id of the loaded version that makes room for one that has jobs; None: it has to wait.

        Args:
            version: There is no room for it, and it has jobs.
            loaded: The versions that are held now.
            has_jobs: Whether jobs wait, by id of every wanted version.
        """
        since = self._waits_since.setdefault(version.id, time.monotonic())
        if not self._would_do(version, loaded):
            return None
        idle = [model for model in loaded if not has_jobs.get(model.version.id)]
        if idle:
            return min(idle, key=_last_served).version.id
        if time.monotonic() - since < self.settings.exchange_seconds:
            return None
        return min(loaded, key=lambda model: model.loaded_at).version.id

    def waits_no_longer(self, version_id: int) -> None:
        """It was loaded, or has no jobs any more."""
        self._waits_since.pop(version_id, None)

    def _would_do(self, version: Version, loaded: Sequence[LoadedModel]) -> bool:
        """Whether there would be room if all others were gone: else they would go in vain."""
        freed = sum(model.version.spec.size_bytes for model in loaded) * _HELD_PER_WEIGHT_BYTE
        return bool(loaded) and _peak_bytes(version) <= psutil.virtual_memory().available + freed


def _peak_bytes(version: Version) -> int:
    return version.spec.size_bytes * _PEAK_PER_WEIGHT_BYTE


def _last_served(model: LoadedModel) -> float:
    return max(model.served_at.values(), default=model.loaded_at)
