"""The steps of recovery that look after ingestions: pin, end what was stopped, close."""

from collections.abc import Collection
from functools import partial
from uuid import UUID

from sqlalchemy import Connection, exists, or_, select, text, update

from shared.database import Database, at_most, stamp
from shared.ingestions import counts, transitions
from shared.ingestions.birth import LANE
from shared.jobs.flows import FLOW_ORDER, queued_of
from shared.jobs.transitions import STEP_ROWS, cancel_some
from shared.models import pin_ingestions
from shared.tables import ingestions, items, jobs, model_versions, models

_AT_A_TIME = 100  # ingestions that one round closes
_STEPS = 50  # of 1,000 cancelled jobs; the next round goes on


def pin_to_current(database: Database) -> int:
    """Pin what was accepted under a placeholder in the very moment the model became current."""
    with database.read() as connection:
        late = connection.execute(
            select(models.c.name, models.c.current_version)
            .join_from(
                ingestions, model_versions, model_versions.c.id == ingestions.c.model_version
            )
            .join(models, models.c.name == model_versions.c.model)
            .where(
                ingestions.c.settled_at.is_(None),
                model_versions.c.version.is_(None),
                models.c.current_version.is_not(None),
            )
            .distinct()
        ).all()
    return sum(
        database.transact(partial(pin_ingestions, name=row.name, version_id=row.current_version))
        for row in late
    )


def pins(connection: Connection, named: Collection[UUID]) -> dict[UUID | None, int]:
    """The version that each of these ingestions is pinned to."""
    if not named:
        return {}
    rows = connection.execute(
        select(ingestions.c.id, ingestions.c.model_version).where(
            ingestions.c.id.in_(named), ingestions.c.pinned
        )
    )
    return {row.id: row.model_version for row in rows}


def cancel_stopped(database: Database) -> int:
    """Cancel the jobs of ingestions that were stopped, in steps of at most 1,000."""
    with database.read() as connection:
        stopped = connection.execute(
            select(
                ingestions.c.id, ingestions.c.owner, ingestions.c.model_version, ingestions.c.pinned
            )
            .where(
                ingestions.c.settled_at.is_(None),
                ingestions.c.status.not_in(transitions.LIVE),
            )
            .order_by(ingestions.c.id)
            .limit(at_most(_AT_A_TIME))
        ).all()
    total = 0
    for row in stopped:
        flow = jobs.c.flow == str(row.id)
        queued = (
            select(jobs.c.id)
            .where(queued_of(row.model_version, pinned=row.pinned), jobs.c.lane == LANE, flow)
            .order_by(*FLOW_ORDER)
        )
        # At any time few of an owner's jobs run.
        running = (
            select(jobs.c.id)
            .where(
                jobs.c.owner == row.owner,
                text("jobs.status = 'running'"),
                jobs.c.ingestion == row.id,
            )
            .order_by(jobs.c.owner, jobs.c.status, jobs.c.id)
        )
        for chosen in (queued, running):
            for _ in range(_STEPS):
                changed = database.transact(partial(cancel_some, chosen=chosen))
                total += changed
                if not changed:
                    break
    return total


def refuse_unfetched(database: Database) -> int:
    """Refuse the items that a retry wanted fetched again, where nobody will: else it never ends."""
    unfetched = text("items.job IS NULL AND items.error_code IS NULL")
    over = or_(ingestions.c.expanded_at.is_not(None), ingestions.c.status.not_in(transitions.LIVE))
    with database.read() as connection:
        waiting = connection.scalars(
            select(ingestions.c.id)
            .where(
                ingestions.c.settled_at.is_(None),
                over,
                exists().where(items.c.ingestion == ingestions.c.id, unfetched),
            )
            .order_by(ingestions.c.id)
            .limit(at_most(_AT_A_TIME))
        ).all()

    def refuse(connection: Connection, ingestion: UUID) -> int:
        row = transitions.locked(connection, ingestion)
        if row is None or (row.expanded_at is None and row.status in transitions.LIVE):
            return 0
        chosen = (
            select(items.c.position)
            .where(items.c.ingestion == ingestion, unfetched)
            .order_by(items.c.position)
            .limit(at_most(STEP_ROWS))
        )
        number = connection.execute(
            update(items)
            .where(items.c.ingestion == ingestion, items.c.position.in_(chosen))
            .values(
                error_code="source_unreachable",
                error_detail="It was not fetched again: the ingestion was stopped before.",
                finished_at=stamp(),
            )
        ).rowcount
        transitions.change(connection, ingestion, refused=ingestions.c.refused + number)
        return number

    total = 0
    for ingestion in waiting:
        while changed := database.transact(partial(refuse, ingestion=ingestion)):
            total += changed
    return total


def stop_hopeless(database: Database) -> int:
    """End those of which too many failed; the expander looks too, but it may be done already."""
    with database.read() as connection:
        limited = connection.scalars(
            select(ingestions.c.id).where(
                ingestions.c.settled_at.is_(None),
                ingestions.c.status.in_(transitions.LIVE),
                counts.total("failed", "expired") + ingestions.c.refused
                > ingestions.c.max_failures,
            )
        ).all()

    def stop(connection: Connection, ingestion: UUID) -> bool:
        row = transitions.locked(connection, ingestion)
        return row is not None and transitions.stop_if_hopeless(connection, row)

    return sum(database.transact(partial(stop, ingestion=id_)) for id_ in limited)


def close_ended(database: Database) -> int:
    """Give ingestions of which every job has ended their final state."""
    with database.read() as connection:
        ready = connection.scalars(
            select(ingestions.c.id)
            .where(
                ingestions.c.settled_at.is_(None),
                or_(
                    ingestions.c.expanded_at.is_not(None),
                    ingestions.c.status.not_in(transitions.LIVE),
                ),
                counts.total() + ingestions.c.refused >= ingestions.c.expanded,
            )
            .order_by(ingestions.c.id)
            .limit(at_most(_AT_A_TIME))
        ).all()
    return sum(database.transact(partial(transitions.close, ingestion=id_)) for id_ in ready)
