"""Whole lives of jobs by `shared/` alone; also as a program, by the code of an earlier release.

As a program it runs in the tree of that release, with its `shared/` and its helpers: it upgrades
the database to what that release knows, then lives until it is told to sweep.
"""

import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import shared
from shared import migrations, models
from shared.database import Database, utc_now
from shared.jobs import recovery
from shared.settings import Settings
from shared.sweep import Sweep
from shared.tables import images
from tests.integration.helpers import LABELS, MODEL, SEVEN, SPEC, VERSION, Stage

_PATIENCE_SECONDS = 60


def live(stage: Stage, name: str) -> UUID:
    """One job from submit to its answer; what others have submitted is worked off on the way."""
    job_id = stage.submit(name, owner=name).job_id
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while stage.job(job_id).status != "succeeded":
        assert time.monotonic() < give_up, f"{name} is {stage.job(job_id).status}"
        for step in (recovery.requeue_lapsed, recovery.unpark, recovery.move_to_current):
            step(stage.database)
        claim = stage.claim(10)
        if claim is not None:
            stage.record(claim)
    found = stage.result(name)
    assert found is not None
    assert [tuple(prediction) for prediction in found] == SEVEN
    return job_id


def main(url: str) -> None:
    """Live, a line for each life, until a line comes in; then sweep once."""
    assert Path(shared.__file__).parent.parent == Path.cwd(), shared.__file__
    database = Database(url)
    migrations.upgrade(database)
    version = database.transact(lambda c: models.install(c, MODEL, VERSION, SPEC, LABELS))
    stage = Stage(database, version)
    told = threading.Event()
    threading.Thread(target=lambda: sys.stdin.readline() and told.set(), daemon=True).start()
    number = 0
    while not told.is_set():
        live(stage, f"earlier-{number}")
        number += 1
        print(number, flush=True)  # noqa: T201
    # None of them is young any more.
    stage.change(images, created_at=utc_now() - timedelta(hours=1), where=images.c.width > 0)
    Sweep(database, stage.storage, Settings()).step()


if __name__ == "__main__":
    main(*sys.argv[1:])
