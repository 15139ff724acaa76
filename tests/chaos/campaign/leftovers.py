"""What is left when all has ended: plain SQL and a listing of the storage."""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.campaign.checker import Violation
from tests.chaos.campaign.stage import ORPHAN_HOURS, Stage

_PATIENCE_SECONDS = 60.0

# Nothing of these is ever there again, once the sweep has been round.
_NOTHING = {
    "jobs that have not ended": "SELECT id FROM jobs WHERE finished_at IS NULL",
    "jobs that are running or queued": (
        "SELECT id FROM jobs WHERE status IN ('queued', 'running')"
    ),
    "claims": "SELECT token FROM claims",
    "ingestions that have not ended": (
        "SELECT id FROM ingestions WHERE status IN ('queued', 'running') OR settled_at IS NULL"
    ),
    "ingestions that were deleted": "SELECT id FROM ingestions WHERE deleted_at IS NOT NULL",
    "jobs of no ingestion": (
        "SELECT id FROM jobs WHERE ingestion IS NOT NULL"
        " AND ingestion NOT IN (SELECT id FROM ingestions)"
    ),
    "items of no job": (
        "SELECT ingestion FROM items WHERE job IS NOT NULL AND job NOT IN (SELECT id FROM jobs)"
    ),
    "two jobs of one reference": (
        "SELECT reference FROM jobs WHERE ingestion IS NULL GROUP BY reference HAVING count(*) > 1"
    ),
    "images of no job": ("SELECT sha256 FROM images WHERE sha256 NOT IN (SELECT image FROM jobs)"),
    "images without an object": "SELECT sha256 FROM images WHERE object IS NULL",
    "results of no job": (
        "SELECT image FROM results r WHERE NOT EXISTS (SELECT 1 FROM jobs j"
        " WHERE j.image = r.image)"
    ),
}


def query(stage: Stage, statement: str) -> list[tuple[Any, ...]]:
    """The rows of one statement."""
    if stage.database == "sqlite":
        path = stage.database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()
    with psycopg.connect(stage.database_url, autocommit=True, connect_timeout=10) as postgres:
        cursor = postgres.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def let_all_age(stage: Stage) -> None:
    """Images are past their first minute, and objects past the time in which none are removed."""
    earlier = (
        "strftime('%Y-%m-%d %H:%M:%f', created_at, '-10 minutes') || '000'"
        if stage.database == "sqlite"
        else "created_at - interval '10 minutes'"
    )
    query(stage, f"UPDATE images SET created_at = {earlier}")
    long_ago = time.time() - 2 * ORPHAN_HOURS * 3600
    for prefix in ("images", "sources"):
        for name in _files(stage.storage, prefix):
            with suppress(FileNotFoundError):
                os.utime(stage.storage / name, (long_ago, long_ago))


def find_leftovers(stage: Stage) -> list[Violation]:
    """Have the sweep remove what it can at once, and say what is left after that."""
    let_all_age(stage)
    left = _wait_until_empty(lambda: _look(stage))
    return [Violation("left over", what, rows[:20]) for what, rows in left.items()]


def _wait_until_empty(look: Callable[[], dict[str, list[Any]]]) -> dict[str, list[Any]]:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while (left := look()) and time.monotonic() < give_up:
        time.sleep(0.3)
    return left


def _look(stage: Stage) -> dict[str, list[Any]]:
    left: dict[str, list[Any]] = {
        what: rows for what, statement in _NOTHING.items() if (rows := query(stage, statement))
    }
    for prefix, table in (("images", "images"), ("sources", "ingestions")):
        statement = f"SELECT object FROM {table} WHERE object IS NOT NULL"
        named = {row[0] for row in query(stage, statement)}
        there = set(_files(stage.storage, prefix))
        if there - named:
            left[f"{prefix} of no row"] = sorted(there - named)
        # A source is removed as soon as it was expanded; its row may go on naming it.
        if prefix == "images" and named - there:
            left["rows of no image"] = sorted(named - there)
    return left


def _files(storage: Path, prefix: str) -> list[str]:
    return [
        str((Path(directory) / file).relative_to(storage))
        for directory, _, files in os.walk(storage / prefix)  # what goes away meanwhile is left out
        for file in files
    ]
