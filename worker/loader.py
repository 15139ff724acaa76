"""Loading the versions that are wanted, each once a process, warm before its loops may claim."""

import threading
import time
from collections.abc import Callable

import psutil
import structlog
from sqlalchemy import or_, select

from shared.errors import Unavailable
from shared.jobs.flows import has_queued
from shared.models import Version, files_prefix, load_version
from shared.tables import model_versions, models
from worker.engines.protocol import make_engine
from worker.forward import warm_up
from worker.runtime import Runtime
from worker.serving import LoadedModel
from worker.watchdog import end_process

# VGG16 in float32 takes 0.55 GB of weights and peaks 2.1 GB above TensorFlow's own memory.
_PEAK_PER_WEIGHT_BYTE = 4

log = structlog.get_logger(__name__)


class Loader(threading.Thread):
    """Looks for what is wanted whenever it is woken, and loads or unloads it."""

    def __init__(self, runtime: Runtime, on_change: Callable[[Version | None], None]) -> None:
        super().__init__(name="loader", daemon=True)
        self._database = runtime.database
        self._storage = runtime.storage
        self._settings = runtime.settings
        self._serving = runtime.serving
        self._on_change = on_change
        self.wake = threading.Event()
        self.trouble: str | None = None

    def run(self) -> None:
        """Load what is wanted; an installed version that cannot be loaded ends the process."""
        while True:
            try:
                self._look()
            except Unavailable as error:
                log.warning("cannot_look_for_models", error=str(error))
            except Exception as error:  # loudly: whoever installed it must learn of it
                log.exception("model_not_loaded")
                end_process(f"an installed model cannot be loaded: {error}")
            self.wake.wait()
            self.wake.clear()

    def _look(self) -> None:
        wanted = self._wanted()
        for version_id in set(self._serving.ids()) - set(wanted):
            self._serving.remove(version_id)
            log.info("model_unloaded", version_id=version_id)
            self._on_change(None)
        trouble = None
        for version_id in wanted:
            if version_id not in self._serving.ids():
                trouble = self._load(version_id) or trouble
        if trouble != self.trouble:
            self.trouble = trouble
            self._on_change(None)
            if trouble is not None:
                log.error("model_waits", reason=trouble)

    def _wanted(self) -> list[int]:
        """Ids of the current versions, and of older ones that still have queued jobs."""
        current = models.c.current_version == model_versions.c.id
        query = (
            select(model_versions.c.id)
            .join_from(model_versions, models, models.c.name == model_versions.c.model)
            .where(
                model_versions.c.version.is_not(None),
                model_versions.c.removed_at.is_(None),
                or_(
                    current,
                    *(has_queued(model_versions.c.id, pinned=pinned) for pinned in (True, False)),
                ),
            )
            .order_by(current.desc(), model_versions.c.id)
        )
        if self._settings.models:
            query = query.where(model_versions.c.model.in_(self._settings.models))
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def _load(self, version_id: int) -> str | None:
        """Load and warm up one version; or say why it has to wait."""
        with self._database.read() as connection:
            version = load_version(connection, version_id)
        needed = version.spec.size_bytes * _PEAK_PER_WEIGHT_BYTE
        available = psutil.virtual_memory().available
        if needed > available:
            return (
                f"{version.name} needs about {needed / 1e9:.1f} GB of memory to be loaded, "
                f"and {available / 1e9:.1f} GB are free."
            )
        began = time.monotonic()
        cache = self._settings.data_dir / "model-cache" / version.version
        directory = self._storage.fetch_directory(files_prefix(version.version), cache)
        engine = make_engine(version.spec.engine)
        engine.load(version.spec, directory)
        loaded = time.monotonic()
        model = LoadedModel(version, engine, self._settings.max_batch_size)
        warm_up(model)
        self._serving.add(model)
        log.info(
            "model_loaded",
            model=version.name,
            load_ms=round((loaded - began) * 1000),
            warm_up_ms=round((time.monotonic() - loaded) * 1000),
            max_batch_size=model.batch_limit,
        )
        self._on_change(version)
        return None
