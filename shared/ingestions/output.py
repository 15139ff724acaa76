"""The writer of result files: whose turn it is, under a lease, and what happens when it fails.

What is written, and in which steps, is in `shared.ingestions.files`.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Connection, Row, or_, select, text, true, update

from shared.database import Database, at_most, moment, new_id, stamp
from shared.errors import Unavailable
from shared.ingestions import counts, results
from shared.ingestions.files import Files, LostError, NotReachedError, on_disk
from shared.ingestions.results import NotEndedError
from shared.ingestions.targets import Target, open_target
from shared.settings import Settings
from shared.tables import ingestions

_AT_A_TIME = 100
_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 300.0
_UNWRITTEN = text("ingestions.output IS NOT NULL AND ingestions.written_at IS NULL")

log = structlog.get_logger(__name__)


@dataclass
class Output:
    """The writer of one process: `step` is called every few seconds.

    Attributes:
        token: Of this writer. One that is the same after a restart, and no other process's at the
            same time, goes on at once where its predecessor was killed.
    """

    database: Database
    settings: Settings
    token: UUID = field(default_factory=new_id)
    open_target: Callable[[Settings, str, str], Target] = open_target
    _pauses: dict[UUID, float] = field(default_factory=dict, init=False)
    _waits_for: dict[UUID, int] = field(default_factory=dict, init=False)

    def step(self) -> None:
        """Write what there is to write, a few parts of each ingestion.

        Raises:
            Unavailable: The database is away; call again later.
        """
        for ingestion in self._due():
            if self._still_waits(ingestion):
                continue
            row = self.database.transact(partial(self._take, ingestion=ingestion))
            if row is not None:
                self._write(row)

    def _due(self) -> Iterator[UUID]:
        """Those of which a part may be complete, and that nobody else writes."""
        next_part = (ingestions.c.output_parts + 1) * ingestions.c.output_part_rows
        ready = counts.total() + ingestions.c.refused >= next_part
        chosen = select(ingestions.c.id).where(
            *self._free(), or_(ingestions.c.settled_at.is_not(None), ready)
        )
        after: ColumnElement[bool] = true()
        while True:
            with self.database.read() as connection:
                found = connection.scalars(
                    chosen.where(after).order_by(ingestions.c.id).limit(at_most(_AT_A_TIME))
                ).all()
            yield from found
            if len(found) < _AT_A_TIME:
                return
            after = ingestions.c.id > found[-1]

    def _free(self) -> tuple[Any, ...]:
        lease_until = ingestions.c.output_lease_until
        return (
            _UNWRITTEN,
            ingestions.c.deleted_at.is_(None),
            or_(
                lease_until.is_(None),
                lease_until < moment(),
                ingestions.c.output_token == self.token,  # of this process's predecessor
            ),
        )

    def _still_waits(self, ingestion: UUID) -> bool:
        """Whether the item that was in the way has not ended: most of a part may be there."""
        position = self._waits_for.get(ingestion)
        if position is None:
            return False
        with self.database.read() as connection:
            if not results.has_ended(connection, ingestion, position):
                return True
        del self._waits_for[ingestion]
        return False

    def _take(self, connection: Connection, ingestion: UUID) -> Row[Any] | None:
        return connection.execute(
            update(ingestions)
            .where(ingestions.c.id == ingestion, *self._free())
            .values(
                output_token=self.token,
                output_lease_until=stamp(self.settings.lease_seconds),
            )
            .returning(ingestions)
        ).first()

    def _write(self, row: Row[Any]) -> None:
        """Write some parts, then give it back; one that is killed here leaves it to its lease."""
        try:
            with self._renewing(row.id), self._directory() as directory:
                target = partial(self.open_target, self.settings, row.output, str(row.id))
                Files(self.database, row, directory, target).write()
        except LostError:
            log.info("result_files_lost", ingestion=str(row.id))
        except NotEndedError as error:
            self._waits_for[row.id] = error.position
            self._give_back(row.id)
        except NotReachedError as error:
            self._pause(row.id, str(error))
        except Unavailable:
            raise
        except Exception:
            log.exception("result_files_failed", ingestion=str(row.id))
            self._pause(row.id, "Something went wrong on our side. The log says what.")
        else:
            self._pauses.pop(row.id, None)
            self._give_back(row.id)

    def _pause(self, ingestion: UUID, reason: str) -> None:
        """Not again until then; others go on."""
        seconds = min(
            2 * self._pauses.get(ingestion, _FIRST_PAUSE_SECONDS / 2), _LONGEST_PAUSE_SECONDS
        )
        self._pauses[ingestion] = seconds
        log.warning("result_files_postponed", ingestion=str(ingestion), reason=reason)
        self._give_back(ingestion, output_error=reason, output_lease_until=stamp(seconds))

    def _give_back(self, ingestion: UUID, **values: Any) -> None:
        free = {"output_token": None, "output_lease_until": None}
        self._change(ingestion, free | values)

    def _change(self, ingestion: UUID, values: dict[str, Any]) -> None:
        """Set columns of an ingestion that is ours, if it still is."""
        statement = (
            update(ingestions)
            .where(ingestions.c.id == ingestion, ingestions.c.output_token == self.token)
            .values(**values)
        )
        self.database.transact(lambda connection: connection.execute(statement))

    @contextmanager
    def _renewing(self, ingestion: UUID) -> Iterator[None]:
        """Hold the lease: a large file may take longer to be sent."""
        ended = threading.Event()
        lease = {"output_lease_until": stamp(self.settings.lease_seconds)}

        def renew() -> None:
            while not ended.wait(self.settings.renew_seconds):
                try:
                    self._change(ingestion, lease)
                except Unavailable as error:
                    log.warning("lease_not_renewed", reason=str(error))

        thread = threading.Thread(target=renew, name="output-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        """An empty directory; what a predecessor left in it goes."""
        directory = self.settings.data_dir / "result-files" / str(self.token)
        with on_disk():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        yield directory
        shutil.rmtree(directory, ignore_errors=True)
