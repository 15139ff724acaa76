"""The sweep deletes what nothing needs, and nothing else, on both databases and storages."""

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, update

from shared import models
from shared.database import Database, new_id, utc_now
from shared.errors import Unavailable
from shared.jobs import queries
from shared.jobs.intake import Caller, JobOptions, NewImage, submit
from shared.models import ModelSpec, Target
from shared.settings import Settings
from shared.storage.opening import open_storage
from shared.storage.protocol import StoredObject
from shared.sweep import Sweep
from shared.tables import idempotency_keys, images, jobs, model_versions, results, workers
from tests.services import S3Server

SPEC = ModelSpec("directory", "model.keras", 32, 32, "scale", "0" * 64, 1000)


class World:
    """A migrated database, a storage and a model, with what the sweep is about."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.database = Database(url)
        self.storage = open_storage(settings)
        self.storage.begin(is_new=True)
        self.version = self.database.transact(
            lambda connection: models.install(
                connection, "digits", "0123456789ab", SPEC, [("0", "0")]
            )
        )
        self.settings = settings
        self.sweep = Sweep(self.database, self.storage, settings)

    def submit(self, data: bytes, key: str | None = None) -> NewImage:
        self.submit_job(data, key)
        return NewImage(data, "image/png", 1, 1)

    def submit_job(self, data: bytes, key: str | None = None) -> UUID:
        image = NewImage(data, "image/png", 1, 1)
        accepted = submit(
            self.database,
            self.storage,
            image,
            None,
            JobOptions("digits"),
            Target(self.version, pinned=False),
            Caller("local", idempotency_key=key),
        )
        return accepted.job_id

    def delete_job(self, job_id: UUID) -> None:
        assert self.database.transact(
            lambda connection: queries.delete_job(connection, "local", job_id)
        )

    def delete_jobs(self) -> None:
        self.database.transact(lambda connection: connection.execute(jobs.delete()))

    def age(self, seconds: float) -> None:
        """Make every image that much older, row and object."""
        then = utc_now() - timedelta(seconds=seconds)
        self.database.transact(
            lambda connection: connection.execute(update(images).values(created_at=then))
        )

    def age_objects(self, *names: str) -> None:
        """Have listings tell that these were written long ago; in a bucket nobody can age them."""
        listed = self.storage.list

        def listing(prefix: str) -> Iterator[StoredObject]:
            for found in listed(prefix):
                old = found.name in names
                yield replace(found, modified_at=utc_now() - timedelta(hours=2)) if old else found

        self.storage.list = listing  # type: ignore[method-assign]

    def objects(self) -> list[str]:
        return sorted(found.name for found in self.storage.list("images"))

    def count(self, table: object) -> int:
        with self.database.read() as connection:
            return connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]


@pytest.fixture
def world(migrated_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """On SQLite and a directory, and on PostgreSQL and S3."""
    storage: dict[str, str] = {}
    if not migrated_url.startswith("sqlite"):
        server: S3Server = request.getfixturevalue("s3_server")
        storage = {"storage_url": server.url(), **server.settings}
    settings = Settings(
        _env_file=None, data_dir=tmp_path, orphan_hours=1, idempotency_hours=24, **storage
    )
    world = World(migrated_url, settings)
    yield world
    world.database.close()


def test_unused_image_goes_with_its_result_and_object(world: World) -> None:
    image = world.submit(b"one")
    world.database.transact(
        lambda connection: connection.execute(
            insert(results).values(
                image=image.sha256,
                model_version=world.version,
                predictions=[["0", "0", 1.0]],
                created_at=utc_now(),
            )
        )
    )
    world.delete_jobs()
    world.age(61)
    assert world.sweep.remove_unused_images() == 1
    assert (world.count(images), world.count(results), world.objects()) == (0, 0, [])
    assert world.count(model_versions) == 2  # the version itself and its model's placeholder


def test_image_of_a_job_stays(world: World) -> None:
    world.submit(b"one")
    world.age(3600)
    assert world.sweep.remove_unused_images() == 0
    assert world.count(images) == 1
    assert len(world.objects()) == 1


def test_image_stays_in_its_first_minute(world: World) -> None:
    world.submit(b"one")
    world.delete_jobs()
    assert world.sweep.remove_unused_images() == 0
    assert world.count(images) == 1


def test_more_than_one_transaction_of_images(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.sweep._ROWS", 10)
    for number in range(25):
        world.submit(str(number).encode())
    world.delete_jobs()
    world.age(61)
    assert world.sweep.remove_unused_images() == 25
    assert world.count(images) == 0
    assert world.objects() == []


def test_missing_object_decides_nothing(world: World) -> None:
    world.submit(b"kept")
    for name in world.objects():
        world.storage.delete(name)
    world.age(3600)
    assert world.sweep.remove_unused_images() == 0
    world.delete_jobs()
    assert world.sweep.remove_unused_images() == 1  # and that its object is gone is no error


def test_only_old_objects_without_a_row_go(world: World) -> None:
    kept = world.submit(b"kept")
    [named] = world.objects()
    orphans = [f"images/{kept.sha256}/{new_id()}", f"images/{'f' * 64}/{new_id()}"]
    young = f"images/{'e' * 64}/{new_id()}"
    for name in (*orphans, young):
        world.storage.write(name, b"")
    world.age_objects(named, *orphans)
    assert world.sweep.remove_orphans() == 2
    assert world.objects() == sorted([named, young])


def test_orphans_go_part_by_part_while_they_are_listed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.sweep._KEYS", 3)
    orphans = [f"images/{number:064}/{new_id()}" for number in range(10)]
    for name in orphans:
        world.storage.write(name, b"")
    world.age_objects(*orphans)
    assert world.sweep.remove_orphans() == 10
    assert world.objects() == []


def test_objects_are_not_listed_at_every_sweep(world: World) -> None:
    world.sweep.remove_orphans()
    name = f"images/{'f' * 64}/{new_id()}"
    world.storage.write(name, b"")
    world.age_objects(name)
    assert world.sweep.remove_orphans() == 0
    assert world.objects() == [name]


def test_objects_go_by_the_thousand_where_the_storage_can(
    s3_server: S3Server, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a directory, where that costs nothing, this tells of none."""
    for number in range(25):
        world.submit(str(number).encode())
    world.delete_jobs()
    world.age(61)
    before = s3_server.requests("POST", f"/{s3_server.bucket}?delete")
    assert world.sweep.remove_unused_images() == 25
    asked = s3_server.requests("POST", f"/{s3_server.bucket}?delete") - before
    assert asked == (0 if world.database.is_sqlite else 1)
    assert world.objects() == []


def test_old_idempotency_keys_and_workers_are_forgotten(world: World) -> None:
    world.submit(b"one", key="old")
    world.submit(b"one", key="new")
    day = timedelta(days=1, seconds=1)

    def age(connection: object) -> None:
        connection.execute(  # type: ignore[attr-defined]
            update(idempotency_keys)
            .where(idempotency_keys.c.key == "old")
            .values(created_at=utc_now() - day)
        )
        for pid, seen in ((1, utc_now()), (2, utc_now() - day)):
            connection.execute(  # type: ignore[attr-defined]
                insert(workers).values(
                    id=new_id(),
                    slot="here:1",
                    host="here",
                    pid=pid,
                    versions=[],
                    started_at=seen,
                    last_seen=seen,
                )
            )

    world.database.transact(age)
    world.sweep.step()
    with world.database.read() as connection:
        assert connection.scalars(select(idempotency_keys.c.key)).all() == ["new"]
        assert connection.scalars(select(workers.c.pid)).all() == [1]


def test_what_cannot_be_deleted_in_the_storage_keeps_no_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.submit(b"one", key="old")
    world.storage.write("images/abc/1", b"orphan")
    world.age_objects("images/abc/1")
    with world.database.engine.begin() as connection:
        connection.execute(
            update(idempotency_keys).values(created_at=utc_now() - timedelta(hours=25))
        )

    def refuse(*_names: str) -> None:
        raise Unavailable("nobody may delete this one")

    monkeypatch.setattr(world.storage, "delete", refuse)
    with pytest.raises(Unavailable):
        world.sweep.step()
    assert world.count(idempotency_keys) == 0


def test_submits_and_deletes_beside_sweeps_lose_nothing(
    world: World, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three images, each gone and come again many times: what a job cites can be read."""
    monkeypatch.setattr("shared.sweep._YOUNG_SECONDS", -60)
    ended = threading.Event()
    databases = [Database(migrated_url) for _ in range(2)]

    def sweep(database: Database) -> None:
        sweep = Sweep(database, world.storage, world.settings)
        while not ended.wait(0.01):
            sweep.remove_unused_images()

    def work(seed: int) -> list[UUID]:
        choose = random.Random(seed)
        kept: list[UUID] = []
        for _ in range(30):
            kept.append(world.submit_job(str(choose.randrange(3)).encode()))
            while len(kept) > choose.randrange(4):
                world.delete_job(kept.pop(choose.randrange(len(kept))))
        return kept

    with ThreadPoolExecutor(5) as pool:
        sweepers = [pool.submit(sweep, database) for database in databases]
        clients = [pool.submit(work, seed) for seed in range(3)]
        wait(clients)
        ended.set()
    kept = {id_ for client in clients for id_ in client.result()}
    for sweeper in sweepers:
        sweeper.result()
    for database in databases:
        database.close()

    last = [world.submit_job(b"0"), world.submit_job(b"1")]
    with world.database.read() as connection:
        cited = connection.execute(
            select(jobs.c.id, images.c.sha256, images.c.object).join_from(jobs, images)
        ).all()
    assert {row.id for row in cited} == kept | set(last)
    for row in cited:
        assert hashlib.sha256(world.storage.read(row.object)).hexdigest() == row.sha256

    # And what came in vain, because somebody else was faster, is no burden for ever.
    world.age_objects(*world.objects())
    world.sweep.remove_orphans()
    world.sweep.remove_unused_images()
    assert world.objects() == sorted({row.object for row in cited})


def test_sweep_goes_on_where_it_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        world.submit(str(number).encode())
    world.delete_jobs()
    world.age(61)
    monkeypatch.setattr("shared.sweep._PAGE", 2)
    clock = iter(range(0, 1000, 6))  # time for two pages in each sweep
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    assert world.sweep.remove_unused_images() == 2
    monkeypatch.undo()
    assert world.sweep.remove_unused_images() == 3
