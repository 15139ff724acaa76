"""The model versions this process has loaded, and whose turn it is among them."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from shared.jobs.recording import Result
from shared.models import Version
from worker.engines.protocol import Engine

_RECENT_RESULTS = 1000


class RecentResults:
    """Results of this process's last passes, by image; read and filled under the forward lock."""

    def __init__(self) -> None:
        self._by_image: OrderedDict[str, Result] = OrderedDict()

    def known(self, images: list[str]) -> dict[str, Result]:
        """Those of `images` that were passed lately."""
        return {image: self._by_image[image] for image in images if image in self._by_image}

    def add(self, image: str, result: Result) -> None:
        """Remember one result, and forget the oldest."""
        self._by_image[image] = result
        if len(self._by_image) > _RECENT_RESULTS:
            self._by_image.popitem(last=False)


@dataclass(eq=False)
class LoadedModel:
    """A version that is loaded and warm.

    Attributes:
        batch_limit: Largest batch; halved when the device runs out of memory.
        loaded_at, served_at: By the monotonic clock; `served_at` by lane.
    """

    version: Version
    engine: Engine
    batch_limit: int
    recent: RecentResults = field(default_factory=RecentResults)
    loaded_at: float = field(default_factory=time.monotonic)
    served_at: dict[str, float] = field(default_factory=dict)


class Serving:
    """The registry of loaded versions, shared by the loader thread and the loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[int, LoadedModel] = {}
        self._began_at: float | None = None

    def add(self, model: LoadedModel) -> None:
        """From now on loops may claim this version."""
        with self._lock:
            self._models[model.version.id] = model
            self._began_at = self._began_at or time.monotonic()

    def seconds(self) -> float:
        """How long ago this process began to serve."""
        return time.monotonic() - self._began_at if self._began_at is not None else 0.0

    def remove(self, version_id: int) -> LoadedModel | None:
        """No loop claims this version any more; a batch under way keeps its model."""
        with self._lock:
            return self._models.pop(version_id, None)

    def all(self) -> list[LoadedModel]:
        """The loaded versions."""
        with self._lock:
            return list(self._models.values())

    def ids(self) -> list[int]:
        """Ids of the loaded versions."""
        with self._lock:
            return list(self._models)

    def by_turn(self, lane: str) -> list[LoadedModel]:
        """Loaded versions, the one served longest ago in this lane first."""
        with self._lock:
            return sorted(self._models.values(), key=lambda m: m.served_at.get(lane, 0.0))

    @staticmethod
    def note_served(model: LoadedModel, lane: str) -> None:
        """The lane has just claimed a batch of this version."""
        model.served_at[lane] = time.monotonic()
