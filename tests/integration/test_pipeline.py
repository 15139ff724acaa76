"""A batch on its way through a worker whose database goes away in the middle of it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import Connection

from shared.bell import Bell
from shared.database import Database, new_id
from shared.models import Version
from shared.settings import Settings
from tests.integration.helpers import LABELS, MODEL, SPEC, VERSION, MemoryStorage, Stage
from tests.services import wait_until
from worker.forward import ForwardLock
from worker.identity import Identity
from worker.pipeline import Pipeline
from worker.runtime import Runtime
from worker.serving import LoadedModel
from worker.watchdog import Activity


@contextmanager
def away(database: Database) -> Iterator[None]:
    """Meanwhile nobody else can write."""
    taken, over = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        taken.set()
        assert over.wait(60)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(database.transact, hold)
        assert taken.wait(60)
        try:
            yield
        finally:
            over.set()
        holding.result()


class Seen(Activity):
    """Remembers what it was."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.stages: list[str] = []

    def enter(self, stage: str) -> None:
        self.stages.append(stage)
        super().enter(stage)


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)  # the worker's part, not SQL's
def test_a_missing_image_ends_no_worker_while_the_database_is_away(
    stage: Stage, migrated_url: str, tmp_path: Path
) -> None:
    """It cannot be said then that the image is gone: the job is tried again."""
    job_id = stage.submit().job_id
    settings = Settings(_env_file=None, data_dir=tmp_path)
    impatient = Database(migrated_url, timeout_seconds=0.2)
    who = Identity(new_id(), "slot:1", lock=-1)
    runtime = Runtime(settings, impatient, MemoryStorage(), who, Bell(Celery()))
    pipeline = Pipeline(runtime, ForwardLock())
    version = Version(stage.version_id, MODEL, VERSION, SPEC, LABELS)
    model = LoadedModel(version, engine=None, batch_limit=8)  # type: ignore[arg-type]
    claim, activity = stage.must_claim(), Seen(settings)
    with ThreadPoolExecutor(1) as pool:
        with away(stage.database):
            working = pool.submit(pipeline.work, claim, model, activity, 0.0)
            wait_until(
                lambda: working.done() or "database away" in activity.stages,
                seconds=60,
                what="a write that fails",
            )
        working.result()
    assert stage.job(job_id).status == "queued"  # and parked
    stage.pause_over()
    pipeline.work(stage.must_claim(), model, activity, 0.0)
    assert stage.job(job_id).error_code == "image_missing"
    impatient.close()
