"""Result files: parts as their items end, the manifest last, below the address a client named.

    <output>/<ingestion id>/part-00000.jsonl, part-00000.parquet, part-00001.jsonl, … manifest.json

Part k holds the items at [k * rows, (k + 1) * rows), in the source's order, once all of them have
ended. What has ended does not change, so a part that is written again has the same bytes: whoever
is killed, between any two steps, the next one goes on from `output_parts`. Only a retry changes
rows: it takes the writer's token away and sets `output_parts` back.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Row, delete, func, insert, select

from shared.database import Database, stamp, utc_now
from shared.errors import ServiceError
from shared.ingestions import counts, results, transitions
from shared.ingestions.lines import Line, gives_embeddings, json_line
from shared.ingestions.targets import Target
from shared.tables import ingestions, model_versions, result_files

MANIFEST = "manifest.json"
_PARTS_OF_A_TURN = 10

log = structlog.get_logger(__name__)


class LostError(Exception):
    """The claim has ended: by a retry, a deletion, or another process that took over."""


class NotReachedError(Exception):
    """The files cannot be written now; the message says why, for whoever named the address."""


class Files:
    """The files of one ingestion that a writer has taken.

    Args:
        database: The database.
        row: The ingestion, as it was when it was taken.
        directory: Empty, on this machine; at most one part lies in it.
        open_target: Opens the place where the files go.
    """

    def __init__(
        self,
        database: Database,
        row: Row[Any],
        directory: Path,
        open_target: Callable[[], Target],
    ) -> None:
        self._database = database
        self._row = row
        self._directory = directory
        self._open_target = open_target

    def write(self) -> None:
        """The parts that are complete, at most some; behind the last one the manifest.

        Raises:
            NotEndedError: An item of the next part has not ended.
            NotReachedError: The target, or this machine's disk, takes nothing.
            LostError: It is no longer ours.
            Unavailable: The database is away.
        """
        row, number = self._row, self._row.output_parts
        with self._database.read() as connection:
            embeds = gives_embeddings(connection, row.model_version)
        target: Target | None = None
        for _ in range(_PARTS_OF_A_TURN):
            first = number * row.output_part_rows
            rows = min(row.output_part_rows, row.expanded - first)
            # Until all has ended more items may come: a part is full, or not yet there.
            if rows <= 0 or (rows < row.output_part_rows and row.settled_at is None):
                break
            lines = results.part(self._database, row.id, first, rows, embeds=embeds)
            made = self._make(f"part-{number:05}", lines)
            target = target or self._open()
            self._send(target, made)
            self._record(made, number, rows)
            number += 1
        if row.settled_at is not None and number * row.output_part_rows >= row.expanded:
            self._finish(target or self._open(), number)

    def _open(self) -> Target:
        """The target, without the manifest of a time before a retry."""
        with _reaching():
            target = self._open_target()
            target.delete(MANIFEST)
        return target

    def _make(self, name: str, lines: Iterator[Line]) -> list[Path]:
        from shared.ingestions.parquet import write_parquet  # noqa: PLC0415 -- pyarrow is large

        paths = [self._directory / f"{name}.{form}" for form in ("jsonl", "parquet")]
        with on_disk():
            with paths[0].open("w", encoding="utf-8", newline="") as file:
                file.writelines(map(json_line, lines))
            with paths[0].open(encoding="utf-8", newline="\n") as file:
                write_parquet(paths[1], map(json.loads, file))
        return paths

    def _send(self, target: Target, paths: list[Path]) -> None:
        for path in paths:
            with _reaching():
                target.write_file(path.name, path)

    def _record(self, paths: list[Path], number: int, rows: int) -> None:
        found = [
            {
                "ingestion": self._row.id,
                "part": number,
                "name": path.name,
                "rows": rows,
                "size_bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
            for path in paths
        ]

        def record(connection: Connection) -> None:
            self._lock(connection, number)
            stale = result_files.c.ingestion == self._row.id, result_files.c.part >= number
            connection.execute(delete(result_files).where(*stale))
            connection.execute(insert(result_files), found)
            transitions.change(connection, self._row.id, output_parts=number + 1, output_error=None)

        self._fenced(record, number)
        for path in paths:
            path.unlink()

    def _finish(self, target: Target, number: int) -> None:
        with self._database.read() as connection:
            manifest = self._manifest(connection)
        with _reaching():
            target.write(MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1).encode())

        def finish(connection: Connection) -> None:
            self._lock(connection, number)
            transitions.change(connection, self._row.id, written_at=stamp(), output_error=None)

        self._fenced(finish, number)
        log.info("result_files_written", ingestion=str(self._row.id), parts=number)

    def _manifest(self, connection: Connection) -> dict[str, Any]:
        row = self._row
        ended = counts.of(connection, row.id)
        model = connection.execute(
            select(model_versions.c.model, model_versions.c.version).where(
                model_versions.c.id == row.model_version
            )
        ).one()
        files = connection.execute(
            select(result_files)
            .where(result_files.c.ingestion == row.id)
            .order_by(result_files.c.part, result_files.c.name)
        )
        return {
            "ingestion": str(row.id),
            "model": model.model,
            "version": model.version,
            "status": row.status,
            "counts": {
                "total": row.expanded,
                **ended,
                "failed": ended["failed"] + row.refused,
                "not_images": row.refused,
            },
            "parts": [
                {
                    "name": file.name,
                    "rows": file.rows,
                    "size_bytes": file.size_bytes,
                    "sha256": file.sha256,
                }
                for file in files
            ],
            "written_at": utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }

    def _lock(self, connection: Connection, number: int) -> None:
        row = transitions.locked(connection, self._row.id)
        if (
            row is None
            or row.deleted_at is not None
            or (row.output_token, row.output_parts) != (self._row.output_token, number)
        ):
            raise LostError

    def _fenced(self, work: Callable[[Connection], None], number: int) -> None:
        """Record what was written, if it is still ours.

        If not, what we wrote may lie over what was written since by another: it is written again.
        """
        try:
            self._database.transact(work)
        except LostError:
            parts = func.min if self._database.is_sqlite else func.least
            again = {"output_parts": parts(ingestions.c.output_parts, number), "written_at": None}
            self._database.transact(
                lambda connection: transitions.change(connection, self._row.id, **again)
            )
            raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _reaching() -> Iterator[None]:
    """What the target says, apart from what the database says."""
    try:
        yield
    except ServiceError as error:
        raise NotReachedError(str(error)) from error


@contextmanager
def on_disk() -> Iterator[None]:
    """What this machine's disk says."""
    try:
        yield
    except OSError as error:
        raise NotReachedError(f"The disk of the background worker: {error.strerror}.") from error
