"""Finding an owner's jobs, newest first: walks back along an index, and never a long way at once.

Ids sort by birth, so a place in the list is an id, and a page begins below it. Where an index
answers the whole question, only the page is read. Where it does not, a stretch of it is looked
through; the page may then be short, or empty, and says where the search goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    literal_column,
    or_,
    select,
    union_all,
)

from shared.database import at_most
from shared.errors import ProblemError
from shared.jobs.queries import owned
from shared.tables import STATUSES, jobs, model_versions, results

_STRETCH = 5_000  # how many jobs one look goes through, at most
# A label of so few results, and these of so few jobs, is looked up by itself.
_RARE_RESULTS = 500
_RARE_JOBS = 1_000

_each = jobs.alias("each_job")  # one that a walk has met, looked up by its id

Condition = ColumnElement[bool]


@dataclass(frozen=True)
class Wanted:
    """What the jobs have in common; what is left out may be anything.

    Attributes:
        versions: Ids of model versions.
        label: Of the best prediction that the job answers with.
    """

    statuses: frozenset[str] = frozenset(STATUSES)
    versions: tuple[int, ...] | None = None
    label: str | None = None
    reference: str | None = None
    ingestion: UUID | None = None


@dataclass(frozen=True)
class Page:
    """The jobs that were found, and the place from which to look on; None: there are no more."""

    ids: list[UUID]
    after: UUID | None


def versions_named(connection: Connection, named: str) -> tuple[int, ...]:
    """The ids of every version of `model`, or of `model@version`, removed or not.

    Raises:
        ProblemError: `model_unknown`.
    """
    name, pinned, version = named.partition("@")
    asked = select(model_versions.c.id).where(model_versions.c.model == name)
    if pinned:
        asked = asked.where(model_versions.c.version == version)
    found = tuple(connection.scalars(asked))
    if not found:
        raise ProblemError("model_unknown", f"There is no model {named!r}.")
    return found


def find(
    connection: Connection, owner: str, wanted: Wanted, *, before: UUID | None, limit: int
) -> Page:
    """The newest jobs that are wanted, at most `limit`, and those born before `before` only."""
    if wanted.label is not None:  # no other job answers with one
        wanted = replace(wanted, statuses=wanted.statuses & {"succeeded"})
    if not wanted.statuses:
        return Page([], None)
    bounds = [owned(owner)]
    if before is not None:
        bounds.append(jobs.c.id < before)
    lines, others = _lines(wanted)
    if not others:
        return _page(connection.scalars(_walk(lines, bounds, limit + 1)).all(), limit, None)
    if wanted.label is not None and wanted.reference is None and wanted.ingestion is None:
        rare = _find_rare(connection, wanted.label, bounds, others)
        if rare is not None:
            return _page(rare, limit, None)
    rows = _STRETCH // len(lines)
    # Where the stretch ends comes first: jobs that are born or deleted before the next statement
    # are then neither passed over nor met twice.
    end = connection.scalar(_walk(lines, bounds, 1, skip=rows - 1))
    if end is not None:
        bounds.append(jobs.c.id >= end)
    stretch = _walk(lines, bounds, rows).subquery().c.id
    found = connection.scalars(
        select(stretch)
        .where(_looked_up(stretch, others))
        .order_by(stretch.desc())
        .limit(at_most(limit + 1))
    )
    return _page(found.all(), limit, end)


def _page(found: Sequence[UUID], limit: int, end: UUID | None) -> Page:
    if len(found) > limit:
        return Page(list(found[:limit]), found[limit - 1])
    return Page(list(found), end)


def _lines(wanted: Wanted) -> tuple[list[list[Condition]], list[Condition]]:
    """What an index serves, in one or more lines; and what is then to be looked up job by job."""
    others: list[Condition] = []
    if wanted.versions is not None:
        others.append(_each.c.model_version.in_(wanted.versions))
    if wanted.label is not None:
        others.append(_best_label() == wanted.label)
    statuses = [_literal(status) for status in STATUSES if status in wanted.statuses]
    if wanted.reference is None and wanted.ingestion is None and "succeeded" not in wanted.statuses:
        # The first condition is the index's own, without which SQLite does not take it.
        unsucceeded = jobs.c.status != _literal("succeeded")
        return [[unsucceeded, jobs.c.status == status] for status in statuses], others
    if len(statuses) < len(STATUSES):
        others.append(or_(*(_each.c.status == status for status in statuses)))
    if wanted.ingestion is not None:
        if wanted.reference is not None:
            others.append(_each.c.reference == wanted.reference)
        return [[jobs.c.ingestion == wanted.ingestion]], others
    return [[] if wanted.reference is None else [jobs.c.reference == wanted.reference]], others


def _literal(status: str) -> ColumnElement[str]:
    """A status written in: bound, PostgreSQL's generic plan cannot take a partial index."""
    return literal_column(f"'{status}'")


def _best_label() -> ColumnElement[str | None]:
    """Asked job by job: of a join, PostgreSQL might begin with every result of the label."""
    score = results.c.predictions[(0, 2)].as_float()
    return (
        select(results.c.label)
        .where(
            results.c.image == _each.c.image,
            results.c.model_version == _each.c.model_version,
            or_(_each.c.min_score.is_(None), score >= _each.c.min_score),
        )
        .scalar_subquery()
    )


def _walk(
    lines: list[list[Condition]], bounds: list[Condition], limit: int, *, skip: int = 0
) -> Select[UUID]:
    """The ids of the newest jobs of all lines together, read from an index alone."""

    def along(line: list[Condition], rows: int) -> Select[UUID]:
        order = jobs.c.id.desc()
        return select(jobs.c.id).where(*line, *bounds).order_by(order).limit(at_most(rows))

    if len(lines) == 1:
        return along(lines[0], limit).offset(at_most(skip))
    # Each line by itself: over several states at once the index is in no order.
    ends = (select(along(line, skip + limit).subquery().c.id) for line in lines)
    every = union_all(*ends).subquery().c.id
    return select(every).order_by(every.desc()).limit(at_most(limit)).offset(at_most(skip))


def _looked_up(id_: ColumnElement[UUID], others: list[Condition]) -> Condition:
    """Whether that job fits: by its primary key, whatever a planner makes of the conditions."""
    return select(and_(*others)).where(_each.c.id == id_).scalar_subquery()


def _find_rare(
    connection: Connection, label: str, bounds: list[Condition], others: list[Condition]
) -> list[UUID] | None:
    """The jobs with a label that few have, newest first; None where that would be long."""
    # Both in the order of an index: without it a scan looks cheap.
    images = connection.scalars(
        select(results.c.image)
        .where(results.c.label == label)
        .order_by(results.c.image)
        .limit(at_most(_RARE_RESULTS + 1))
    ).all()
    if len(images) > _RARE_RESULTS:
        return None
    rows = connection.execute(
        select(jobs.c.id, and_(*bounds, _looked_up(jobs.c.id, others)).label("wanted"))
        .where(jobs.c.image.in_(images))
        .order_by(jobs.c.image)
        .limit(at_most(_RARE_JOBS + 1))
    ).all()
    if len(rows) > _RARE_JOBS:
        return None
    return sorted((row.id for row in rows if row.wanted), reverse=True)
