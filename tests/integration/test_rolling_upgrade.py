"""Migrations while a service runs: nobody waits long, and the release before goes on working."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from shared import models
from shared.database import Database
from shared.errors import Unavailable
from shared.ingestions import transitions
from shared.migrations import is_new_enough, upgrade
from shared.tables import result_files
from tests.integration import life
from tests.integration.bulk import Bulk
from tests.integration.helpers import MODEL, VERSION, Stage
from tests.integration.schema import (
    add_rows,
    downgrade_to,
    revisions,
    rows_of,
    schema_of,
)
from tests.services import ROOT, wait_until

_PATIENCE_SECONDS = 60


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def earlier_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the last commit before the newest migration, from this repository's history."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git history: this is not a clone")
    if _git("rev-parse", "--is-shallow-repository").strip() == b"true":
        pytest.skip("no git history: the clone is shallow; git fetch --unshallow")
    newest = f"migrations/versions/{revisions()[-1]}_*.py"
    added = _git("log", "--diff-filter=A", "--format=%H", "-1", "--", newest).decode().strip()
    # A migration that is not committed yet comes after all that is.
    tree = _git("archive", f"{added}^" if added else "HEAD", "shared", "migrations", "tests")
    directory = tmp_path_factory.mktemp("earlier")
    subprocess.run(["tar", "-x", "-C", directory], input=tree, check=True)
    assert not list((directory / "migrations" / "versions").glob(Path(newest).name))
    shutil.copy(life.__file__, directory)
    return directory


@contextmanager
def _running(directory: Path, url: str) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [sys.executable, directory / "life.py", url],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _live_on(process: "subprocess.Popen[str]", lives: int) -> None:
    """Wait until so many more jobs have lived there."""
    assert process.stdout is not None
    for _ in range(lives):
        if not process.stdout.readline():
            _, errors = process.communicate()
            pytest.fail(f"the earlier release ended:\n{errors}")


def test_the_release_before_works_on_while_and_after_the_schema_is_upgraded(
    earlier_release: Path, database_url: str
) -> None:
    database = Database(database_url)
    with _running(earlier_release, database_url) as earlier:
        _live_on(earlier, 2)
        assert not is_new_enough(database)
        upgrade(database)  # while it lives
        assert is_new_enough(database)
        with database.read() as connection:
            version = models.version_id(connection, MODEL, VERSION)
        assert version is not None
        stage = Stage(database, version)
        for number in range(3):
            life.live(stage, f"current-{number}")
            _live_on(earlier, 1)
        gone = _deleted_ingestion(Bulk(stage))
        ended = [row for row in stage.jobs().values() if row.status == "succeeded"]

        _, errors = earlier.communicate("sweep\n", timeout=_PATIENCE_SECONDS)
        assert earlier.returncode == 0, errors
    rows = stage.jobs()
    assert {row.status for row in rows.values()} == {"succeeded"}
    assert {row.attempt for row in rows.values()} == {1}
    answered = [row for row in ended if row.ingestion is None]
    assert [rows[row.id] for row in answered] == answered
    kept = rows_of(database)
    assert gone not in {row["id"] for row in kept["ingestions"]}
    assert {row["image"] for row in kept["jobs"]} == {row["sha256"] for row in kept["images"]}
    database.close()


def _deleted_ingestion(bulk: Bulk) -> UUID:
    """An ingestion that was deleted, and left all that an ingestion can leave, result files too."""
    ingestion = bulk.expand("b1", None)
    bulk.work(None)
    bulk.close(ingestion)
    written = result_files.insert().values(
        ingestion=ingestion, part=0, name="part-0.jsonl", rows=2, size_bytes=10, sha256="0" * 64
    )
    bulk.database.transact(lambda connection: connection.execute(written))
    assert bulk.database.transact(lambda c: transitions.delete(c, "local", ingestion))
    return ingestion


# PostgreSQL alone: SQLite has one writer, and each waits for the other


@pytest.fixture
def before_the_indexes(postgresql_url: str) -> Iterator[Database]:
    """A database at a revision behind which large tables change, with rows."""
    database = Database(postgresql_url)
    upgrade(database)
    downgrade_to(database, "0003")
    add_rows(database, 0)
    yield database
    database.close()


@contextmanager
def _in_the_background(work: Callable[[], None]) -> "Iterator[Future[None]]":
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def _wait_until(database: Database, condition: str, upgrading: "Future[None]") -> None:
    """Wait until this is so of the database, while the upgrade runs."""

    def holds() -> bool:
        assert not upgrading.done(), upgrading.result()
        with database.read() as connection:
            return bool(connection.scalar(text(f"SELECT EXISTS ({condition})")))

    wait_until(holds, seconds=_PATIENCE_SECONDS, what=condition)


def _write(database: Database) -> None:
    """Change jobs as a service does, and wait for no lock as long as it would at the most."""

    def change(connection: Connection) -> None:
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(text("UPDATE jobs SET parks = parks + 1"))

    database.transact(change)


_WAITS = """
SELECT FROM pg_locks WHERE relation = 'jobs'::regclass AND mode = 'AccessExclusiveLock'
"""


def test_nobody_waits_behind_an_upgrade_that_waits_for_a_reader(
    before_the_indexes: Database,
) -> None:
    database = before_the_indexes
    with _in_the_background(lambda: upgrade(database)) as upgrading:
        with database.engine.begin() as reader:
            reader.execute(text("SELECT FROM jobs"))  # and holds its lock until it ends
            _wait_until(database, f"{_WAITS} AND NOT granted", upgrading)
            for _ in range(3):
                _write(database)
        upgrading.result(_PATIENCE_SECONDS)
    assert is_new_enough(database)
    assert {row["parks"] for row in rows_of(database)["jobs"]} >= {3}


def test_an_upgrade_takes_longer_than_anything_else_may(
    before_the_indexes: Database, postgresql_url: str
) -> None:
    """An index waits for whoever still reads, however little patience the service has else."""
    database = before_the_indexes
    impatient = Database(postgresql_url, timeout_seconds=0.5)
    with _in_the_background(lambda: upgrade(impatient)) as upgrading:
        with database.engine.connect() as reader:
            reader.execution_options(isolation_level="REPEATABLE READ")
            reader.execute(text("SELECT FROM models"))
            longer = "query LIKE 'CREATE INDEX%' AND now() - query_start > interval '3 s'"
            _wait_until(database, f"SELECT FROM pg_stat_activity WHERE {longer}", upgrading)
        upgrading.result(_PATIENCE_SECONDS)
    impatient.close()
    assert is_new_enough(database)


def test_indexes_are_made_while_others_write_and_again_after_an_interruption(
    before_the_indexes: Database,
) -> None:
    database = before_the_indexes
    building = "FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for %'"
    with _in_the_background(lambda: upgrade(database)) as upgrading:
        with database.engine.connect() as reader:
            # What this one could still see, an index that is made meanwhile would have to have.
            reader.execution_options(isolation_level="REPEATABLE READ")
            reader.execute(text("SELECT FROM models"))
            _wait_until(database, f"SELECT {building}", upgrading)
            for _ in range(3):
                _write(database)
            with database.read() as connection:
                connection.execute(text(f"SELECT pg_terminate_backend(pid) {building}"))
        with pytest.raises(Unavailable):
            upgrading.result(_PATIENCE_SECONDS)
    invalid = {row for row in schema_of(database) if row[0] == "index" and row[-1] is False}
    assert invalid
    assert not is_new_enough(database)

    upgrade(database)
    assert is_new_enough(database)
    interrupted = schema_of(database)
    downgrade_to(database, "base")
    upgrade(database)
    assert schema_of(database) == interrupted
