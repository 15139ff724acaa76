"""The results of an ingestion, a page at a time: a million rows, never in memory at once.

Each page is a read of its own, by key: none holds a snapshot while a client is slow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    case,
    func,
    literal,
    literal_column,
    select,
    text,
    tuple_,
)

from shared.database import Database, at_most, moment
from shared.errors import ProblemError
from shared.ingestions.lines import Line, all_rows, is_over, line_of, rows_at
from shared.tables import UTCDateTime, ingestions, items, jobs

PAGE_ROWS = 500
_LAST = 2_000_000_000  # no position is larger, and databases compare it as 32 bits
# A transaction stamps its first row an instant before the database knows that it writes.
_STAMP_SECONDS = 1.0
Order = Literal["source", "finished"]

_REFUSED = text("items.job IS NULL AND items.error_code IS NOT NULL")


@dataclass(frozen=True)
class Place:
    """Where a page begins: behind this position, or behind what ended then."""

    position: int = -1
    finished_at: datetime | None = None


@dataclass(frozen=True)
class Page:
    """Lines, and the place behind them; None: there are no more as yet."""

    lines: list[Line]
    after: Place | None


class NotEndedError(Exception):
    """An item of those that were asked for has not ended, or is gone; its position."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


def pages(
    database: Database,
    ingestion: UUID,
    *,
    embeds: bool,
    order: Order = "source",
    after: Place | None = None,
) -> Iterator[list[Line]]:
    """The lines of what has ended, in the source's order or as they ended.

    In the source's order up to the first item that has not ended. In the other, an item that was
    tried again comes again when its new job ends; what ended in the last second may come with the
    next call, until all of it has ended.

    Args:
        database: Asked once a page.
        ingestion: Which.
        embeds: See `shared.ingestions.lines.gives_embeddings`.
        order: Of the two.
        after: Behind this place only.

    Raises:
        Unavailable: The database is away; what came before is right.
        ProblemError: `not_found`: it was deleted meanwhile, and rows may be missing.
    """
    read = _source_page if order == "source" else _finished_page
    place: Place | None = after or Place()
    while place is not None:
        with database.read() as connection:
            page = read(connection, ingestion, place, embeds)
            _check_there(connection, ingestion)
        if page.lines:
            yield page.lines
        place = page.after


def part(
    database: Database, ingestion: UUID, first: int, number: int, *, embeds: bool
) -> Iterator[Line]:
    """The lines of `number` positions from `first` on.

    Raises:
        NotEndedError: One of them has not ended.
        Unavailable: The database is away.
    """
    for begin in range(first, first + number, PAGE_ROWS):
        wanted = min(PAGE_ROWS, first + number - begin)
        with database.read() as connection:
            rows = rows_at(connection, ingestion, begin, wanted)
        for position, row in zip_longest(range(begin, begin + wanted), rows):
            if row is None or not is_over(row):
                raise NotEndedError(position)
            yield line_of(row, embeds)


def has_ended(connection: Connection, ingestion: UUID, position: int) -> bool:
    """Whether there is such an item, and it has ended."""
    return any(map(is_over, rows_at(connection, ingestion, position, 1)))


def place_of(connection: Connection, ingestion: UUID, order: Order, after: str) -> Place:
    """The place behind a line that a client has: its position, or (as they ended) its job.

    Raises:
        ProblemError: `invalid_value`: there is no such line.
    """
    if order == "source":
        if not after.isdecimal():
            raise _no_line(after)
        return Place(min(int(after), _LAST))
    job = jobs.c.ingestion == ingestion, text("jobs.finished_at IS NOT NULL")
    if after.isdecimal():
        item = items.c.ingestion == ingestion, items.c.position == min(int(after), _LAST)
        row = connection.execute(
            select(
                items.c.position,
                func.coalesce(items.c.finished_at, jobs.c.finished_at).label("finished_at"),
            )
            .join_from(items, jobs, jobs.c.id == items.c.job, isouter=True)
            .where(*item)
        ).first()
    else:
        try:
            found = jobs.c.id == UUID(after)
        except ValueError as error:
            raise _no_line(after) from error
        row = connection.execute(
            select(jobs.c.position, jobs.c.finished_at).where(found, *job)
        ).first()
    if row is None or row.finished_at is None:
        raise _no_line(after)
    return Place(row.position, row.finished_at)


def _no_line(after: str) -> ProblemError:
    detail = "after: there is no line with this position (or, as they ended, with this job)"
    return ProblemError(
        "invalid_value", detail, errors=[{"field": "after", "detail": f"no line {after[:50]!r}"}]
    )


def _check_there(connection: Connection, ingestion: UUID) -> None:
    """Rows of what was deleted vanish: what lacks them must not look complete."""
    deleted_at = select(ingestions.c.deleted_at).where(ingestions.c.id == ingestion)
    row = connection.execute(deleted_at).first()
    if row is None or row.deleted_at is not None:
        raise ProblemError("not_found", "The ingestion was deleted meanwhile.")


def _source_page(connection: Connection, ingestion: UUID, place: Place, embeds: bool) -> Page:
    rows = rows_at(connection, ingestion, place.position + 1, PAGE_ROWS)
    lines: list[Line] = []
    for row in rows:
        if not is_over(row):
            return Page(lines, None)
        lines.append(line_of(row, embeds))
    return Page(lines, Place(rows[-1].position) if len(rows) == PAGE_ROWS else None)


def _finished_page(connection: Connection, ingestion: UUID, place: Place, embeds: bool) -> Page:
    horizon = _horizon(connection, ingestion)
    ended = sorted(
        [
            *_ended(connection, _jobs_ended(ingestion), jobs.c, place, horizon),
            *_ended(connection, _refused(ingestion), items.c, place, horizon),
        ],
        key=lambda row: (row.finished_at, row.position),
    )[:PAGE_ROWS]
    # A job that a retry has left behind is no item's any more.
    rows = {
        (row.position, row.id): row
        for row in connection.execute(
            all_rows().where(
                items.c.ingestion == ingestion,
                items.c.position.in_(sorted({row.position for row in ended})),
            )
        )
    }
    lines = [line_of(rows[key], embeds) for row in ended if (key := (row.position, row.id)) in rows]
    full = len(ended) == PAGE_ROWS
    return Page(lines, Place(ended[-1].position, ended[-1].finished_at) if full else None)


def _horizon(connection: Connection, ingestion: UUID) -> datetime | None:
    """Before it nothing will end any more: what is read up to it is all there is.

    A transaction stamps its rows before it commits, and another one that began later may commit
    first. Whoever has written has a transaction id, and stamps nothing that is earlier than its
    own begin; who has none as yet will stamp later than now, or did so in this very instant. (Of
    other roles' transactions their begin is not shown; this service has one role.) Once all of
    the ingestion has ended, nobody stamps anything but after a retry, which is later than now.
    SQLite has one writer at a time.
    """
    if connection.dialect.name != "postgresql":
        return None
    writing: ColumnElement[datetime] = literal_column(
        "(SELECT min(xact_start) FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_xid IS NOT NULL)"
    )
    running = func.least(moment(-_STAMP_SECONDS), writing, type_=UTCDateTime())
    settled = ingestions.c.settled_at.is_not(None)
    return connection.scalar(
        select(case((settled, moment()), else_=running)).where(ingestions.c.id == ingestion)
    )


def _jobs_ended(ingestion: UUID) -> Select[Any]:
    return select(jobs.c.id, jobs.c.position, jobs.c.finished_at).where(
        jobs.c.ingestion == ingestion, text("jobs.finished_at IS NOT NULL")
    )


def _refused(ingestion: UUID) -> Select[Any]:
    return select(items.c.job.label("id"), items.c.position, items.c.finished_at).where(
        items.c.ingestion == ingestion, _REFUSED
    )


def _ended(
    connection: Connection,
    chosen: Select[Any],
    columns: Any,
    place: Place,
    horizon: datetime | None,
) -> Sequence[Row[Any]]:
    """The first that ended behind the place, in the order of an index."""
    key = columns.finished_at, columns.position
    if place.finished_at is not None:
        begin = literal(place.finished_at, UTCDateTime()), literal(place.position)
        chosen = chosen.where(tuple_(*key) > tuple_(*begin))
    if horizon is not None:
        chosen = chosen.where(columns.finished_at < horizon)
    return connection.execute(chosen.order_by(*key).limit(at_most(PAGE_ROWS))).all()
