"""Which claims a process renews, and when the watchdog may act."""

import threading
import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select

from shared.database import Database, moment, stamp
from shared.settings import Settings
from shared.tables import claims, metadata
from tests.services import wait_until
from worker.leases import Leases
from worker.watchdog import Activity, WatchedThread


def make_settings(**values: float) -> Settings:
    return Settings(_env_file=None, renew_seconds=0.02, **values)


class Hanging(WatchedThread):
    """A loop that holds a claim in some stage."""

    def __init__(self, settings: Settings, token: UUID | None, stage: str) -> None:
        super().__init__(daemon=True)
        self.activity = Activity(settings)
        self.activity.token = token
        self.activity.enter(stage)
        self.end = threading.Event()

    def run(self) -> None:
        self.end.wait()


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = Database(sqlite_url)
    opened.transact(metadata.create_all)
    yield opened
    opened.close()


def add_claim(database: Database) -> UUID:
    """A claim whose lease has lapsed already."""
    token = uuid4()
    database.transact(
        lambda c: c.execute(
            insert(claims).values(token=token, worker=uuid4(), lease_until=stamp(-60))
        )
    )
    return token


def renewed(database: Database) -> set[UUID]:
    with database.read() as connection:
        return set(
            connection.scalars(select(claims.c.token).where(claims.c.lease_until > moment()))
        )


def run(database: Database, settings: Settings, *threads: WatchedThread) -> Leases:
    leases = Leases(database, settings, threads)
    leases.start()
    return leases


def test_claims_of_loops_that_keep_to_their_limits_are_renewed(database: Database) -> None:
    settings = make_settings(pass_limit_seconds=0.001)
    waiting, overdue, ended = (add_claim(database) for _ in range(3))
    loops = [
        Hanging(settings, waiting, "waiting"),  # for the lock: no limit runs
        Hanging(settings, overdue, "pass"),
        Hanging(settings, None, "idle"),
    ]
    for loop in loops:
        loop.start()
    dead = Hanging(settings, ended, "waiting")
    wait_until(lambda: loops[1].activity.overdue() == "pass", seconds=30, what="an overdue pass")
    leases = run(database, settings, *loops, dead)
    wait_until(lambda: bool(renewed(database)), seconds=30, what="a renewal")
    assert renewed(database) == {waiting}
    leases.ended.set()
    leases.join(30)
    assert not leases.is_alive()
    for loop in loops:
        loop.end.set()


class EndingBatches(Activity):
    """Its batch ends whenever somebody has looked at the token."""

    kept: UUID | None = None
    looks = 0

    @property
    def token(self) -> UUID | None:  # type: ignore[override]
        self.looks += 1
        return self.kept if self.looks % 2 else None

    @token.setter
    def token(self, value: UUID | None) -> None:
        self.kept = value


def test_a_batch_that_ends_meanwhile_does_not_end_the_renewing(database: Database) -> None:
    settings = make_settings()
    steady = add_claim(database)
    loops = [Hanging(settings, steady, "waiting") for _ in range(2)]
    loops[1].activity = ending = EndingBatches(settings)
    ending.token = uuid4()
    for loop in loops:
        loop.start()
    leases = run(database, settings, *loops)
    wait_until(lambda: ending.looks > 20 or not leases.is_alive(), seconds=30, what="some renewals")
    assert leases.is_alive()
    assert renewed(database) == {steady}
    leases.ended.set()
    leases.join(30)
    for loop in loops:
        loop.end.set()


@pytest.mark.parametrize("stage", ["fetch", "decode", "pass", "record"])
def test_a_stage_past_its_limit_is_told(stage: str) -> None:
    activity = Activity(
        Settings(_env_file=None, **{f"{stage}_limit_seconds": 0.001})  # type: ignore[arg-type]
    )
    activity.enter(stage)
    time.sleep(0.01)
    assert activity.overdue() == stage
    activity.enter("waiting")
    time.sleep(0.01)
    assert activity.overdue() is None


@pytest.mark.parametrize("stage", ["idle", "waiting", "database away"])
def test_waiting_has_no_limit(stage: str) -> None:
    activity = Activity(
        make_settings(
            fetch_limit_seconds=0.001,
            decode_limit_seconds=0.001,
            pass_limit_seconds=0.001,
            record_limit_seconds=0.001,
        )
    )
    activity.enter(stage)
    time.sleep(0.01)
    assert activity.overdue() is None
