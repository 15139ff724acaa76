"""Loading the versions that are wanted, each once a process, warm before its loops may claim."""

import threading
import time
import weakref
from collections.abc import Callable

import structlog
from sqlalchemy import or_, select

from shared.errors import Unavailable
from shared.jobs.flows import has_queued
from shared.models import Version, files_prefix, load_version
from shared.tables import model_versions, models
from worker.engines.protocol import make_engine
from worker.forward import warm_up
from worker.room import Room
from worker.runtime import Runtime
from worker.serving import LoadedModel
from worker.watchdog import end_process

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
        self._room = Room(runtime.settings)
        # Taken out of service; while a batch under way holds it, its memory is not free yet.
        self._leaving: weakref.ref[LoadedModel] | None = None
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
        has_jobs = self._wanted()
        for version_id in set(self._serving.ids()) - set(has_jobs):
            self._unload(version_id)
        trouble = None
        for version_id in has_jobs:
            if not has_jobs[version_id]:
                self._room.waits_no_longer(version_id)
            if version_id not in self._serving.ids():
                trouble = self._load_if_possible(version_id, has_jobs) or trouble
        if trouble != self.trouble:
            self.trouble = trouble
            self._on_change(None)
            if trouble is not None:
                log.error("model_waits", reason=trouble)

    def _wanted(self) -> dict[int, bool]:
        """The current versions, and older ones with queued jobs: by id, whether jobs wait.

        Those with jobs come first.
        """
        current = models.c.current_version == model_versions.c.id
        waiting = or_(*(has_queued(model_versions.c.id, pinned=pinned) for pinned in (True, False)))
        query = (
            select(model_versions.c.id, waiting.label("has_jobs"))
            .join_from(model_versions, models, models.c.name == model_versions.c.model)
            .where(
                model_versions.c.version.is_not(None),
                model_versions.c.removed_at.is_(None),
                or_(current, waiting),
            )
            .order_by(current.desc(), model_versions.c.id)
        )
        if self._settings.models:
            query = query.where(model_versions.c.model.in_(self._settings.models))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return {
            row.id: bool(row.has_jobs) for row in sorted(rows, key=lambda row: not row.has_jobs)
        }

    def _load_if_possible(self, version_id: int, has_jobs: dict[int, bool]) -> str | None:
        """Load one version, in place of another where need be; or say why it has to wait."""
        with self._database.read() as connection:
            version = load_version(connection, version_id)
        lack = self._room.lack(version, self._serving.all())
        if lack is not None and has_jobs[version_id] and not self._is_one_leaving():
            other = self._room.gives_way(version, self._serving.all(), has_jobs)
            if other is not None:
                self._unload(other)
                lack = (
                    "" if self._is_one_leaving() else self._room.lack(version, self._serving.all())
                )
        if lack is None:
            self._load(version)
            self._room.waits_no_longer(version_id)
        return lack

    def _unload(self, version_id: int) -> None:
        """Take a version out of service; a batch under way keeps its model until it is recorded."""
        model = self._serving.remove(version_id)
        if model is None:
            return
        self._leaving = weakref.ref(model)
        log.info("model_unloaded", model=model.version.name)
        self._on_change(None)

    def _is_one_leaving(self) -> bool:
        return self._leaving is not None and self._leaving() is not None

    def _load(self, version: Version) -> None:
        """Load and warm up one version; from then on the loops may claim its jobs."""
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
