"""The timed steps, in every worker process, that mend what was interrupted.

No step needs the others, none is a singleton: two processes that run one at the same time skip
each other's rows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from uuid import UUID

import structlog
from sqlalchemy import Connection, case, delete, or_, select, update

from shared.database import Database, at_most, moment
from shared.errors import Unavailable
from shared.ingestions import upkeep
from shared.jobs import queries, transitions
from shared.jobs.claiming import end_leases, lapsed_claims
from shared.jobs.flows import FLOW_ORDER, QUEUED, has_queued, queued_of
from shared.jobs.intake import next_sequence
from shared.settings import Settings
from shared.tables import LANES, claims, jobs, lanes, model_versions, models, workers

_STEP_SECONDS = 1.0  # a step itself takes some time
_MOVE_ROWS = 200  # each moved job is tagged anew, in a statement of its own
_MOVE_STEPS = 10  # a second or two: then the other steps have their turn

log = structlog.get_logger(__name__)


@dataclass
class Recovery:
    """One process's recovery: `step` is called every `recovery_seconds`."""

    database: Database
    settings: Settings
    _trusted_from: float | None = field(default=None, init=False)
    _last_success: float | None = field(default=None, init=False)

    def step(self) -> None:
        """Run each step once.

        Raises:
            Unavailable: The database is away; call again later.
        """
        steps: tuple[Callable[[Database], int], ...] = (
            *((self._requeue_lapsed,) if self.may_take_from_others() else ()),
            unpark,
            end_overdue,
            upkeep.pin_to_current,
            move_to_current,
            end_removed,
            upkeep.stop_hopeless,
            upkeep.cancel_stopped,
            upkeep.refuse_unfetched,
            upkeep.close_ended,
            *((self._end_unserved,) if self.settings.unserved_hours else ()),
        )
        for step in steps:
            changed = step(self.database)
            if changed:
                log.info("recovery", step=step.__name__.lstrip("_"), changed=changed)
        self._note_success()

    def _requeue_lapsed(self, database: Database) -> int:
        return requeue_lapsed(database, within_seconds=self._longest_round())

    def _end_unserved(self, database: Database) -> int:
        return end_unserved(database, self.settings.unserved_hours)

    def may_take_from_others(self) -> bool:
        """After a start, or an absence of ours or of the database, owners get time to renew."""
        return (
            not self._was_away()
            and self._trusted_from is not None
            and time.monotonic() >= self._trusted_from
        )

    def _was_away(self) -> bool:
        """Whether the last successful step is longer ago than a round takes, or there was none."""
        if self._last_success is None:
            return True
        return time.monotonic() - self._last_success > self._longest_round()

    def _longest_round(self) -> float:
        two_intervals = 2 * self.settings.recovery_seconds + _STEP_SECONDS
        # Who misses one renewal, of the several in a lease, still holds what it has claimed.
        one_renewal = min(self.settings.renew_seconds, self.settings.lease_seconds / 4)
        return max(two_intervals, one_renewal)

    def _note_success(self) -> None:
        if self._was_away():
            self._trusted_from = time.monotonic() + 2 * self.settings.renew_seconds
        self._last_success = time.monotonic()


def requeue_lapsed(database: Database, *, within_seconds: float = inf) -> int:
    """Give the jobs of claims whose lease is over back to the queue.

    Args:
        database: The database.
        within_seconds: An answer that took longer is not believed: it comes from a database that
            was away meanwhile, and the owners could not renew.

    Raises:
        Unavailable: The database is away, or was until a moment ago.
    """
    began = time.monotonic()
    return requeue(database, lapsed_claims(database), since=began, within_seconds=within_seconds)


def requeue(
    database: Database,
    tokens: Sequence[UUID],
    *,
    since: float = inf,
    within_seconds: float = inf,
    wait: bool = False,
) -> int:
    """Give the jobs of these claims back, each in a transaction that checks its lease again."""
    jobs_taken = 0
    for token in tokens:

        def take(connection: Connection, token: UUID = token, since: float = since) -> int:
            taken = transitions.requeue_lapsed(connection, token, wait=wait)
            if time.monotonic() - since > within_seconds:
                raise Unavailable("the database was away: who holds claims may renew them first")
            return taken

        jobs_taken += database.transact(take)
        since = time.monotonic()
    return jobs_taken


def succeed_slot(database: Database, slot: str, worker: UUID) -> int:
    """Take over a slot: what earlier processes in it had claimed is over, and waits again.

    The caller holds the slot's lock, so those processes have ended, beyond doubt.
    """

    def end(connection: Connection) -> Sequence[UUID]:
        earlier = connection.scalars(
            select(workers.c.id).where(workers.c.slot == slot, workers.c.id != worker)
        ).all()
        end_leases(connection, earlier)
        connection.execute(delete(workers).where(workers.c.id.in_(earlier)))
        return connection.scalars(select(claims.c.token).where(claims.c.worker.in_(earlier))).all()

    # What the server still holds locked for them it lets go in a moment.
    return requeue(database, database.transact(end), wait=True)


def unpark(database: Database) -> int:
    """Let jobs whose pause is over be claimed again, level with the lane's clock at least."""

    def step(connection: Connection) -> int:
        ids = connection.scalars(
            select(jobs.c.id)
            .where(QUEUED, jobs.c.not_before <= moment())
            .order_by(jobs.c.not_before)
            .limit(at_most(transitions.STEP_ROWS))
            .with_for_update(skip_locked=True)
        ).all()
        clock = transitions.LANE_CLOCK
        if ids:
            connection.execute(
                update(jobs)
                .where(jobs.c.id.in_(ids), QUEUED)
                .values(
                    not_before=None,
                    sequence=case((jobs.c.sequence < clock, clock), else_=jobs.c.sequence),
                )
            )
        return len(ids)

    with database.read() as connection:
        due = connection.execute(
            select(jobs.c.id)
            .where(QUEUED, jobs.c.not_before <= moment())
            .order_by(jobs.c.not_before)
            .limit(at_most(1))
        ).first()
    return 0 if due is None else database.transact(step)


def end_overdue(database: Database) -> int:
    """End queued jobs whose deadline has passed."""
    with database.read() as connection:
        due = connection.execute(
            select(jobs.c.id)
            .where(QUEUED, jobs.c.deadline_at <= moment())
            .order_by(jobs.c.deadline_at)
            .limit(at_most(1))
        ).first()
    return 0 if due is None else database.transact(transitions.end_overdue)


def end_removed(database: Database) -> int:
    """Fail queued jobs of removed versions that nothing else may answer."""
    with database.read() as connection:
        removed = connection.execute(
            select(model_versions.c.id)
            .where(
                model_versions.c.removed_at.is_not(None),
                or_(*(has_queued(model_versions.c.id, pinned=pinned) for pinned in (True, False))),
            )
            .limit(at_most(1))
        ).first()
    return 0 if removed is None else database.transact(transitions.end_removed)


def end_unserved(database: Database, hours: float) -> int:
    """Fail jobs that have waited so long for a version that no live worker serves."""
    with database.read() as connection:
        served = {
            version_id
            for worker in queries.serving_workers(connection)
            for version_id in worker.versions
        }
        waiting = connection.scalars(
            select(model_versions.c.id).where(
                model_versions.c.id.not_in(served),
                or_(*(has_queued(model_versions.c.id, pinned=pinned) for pinned in (True, False))),
            )
        ).all()
    ended = 0
    for version_id in waiting:
        for lane in LANES:
            step = partial(transitions.end_unserved, version_id=version_id, lane=lane, hours=hours)
            ended += database.transact(step)
    return ended


def move_to_current(database: Database) -> int:
    """Move unpinned queued jobs to their model's current version, in order, some at a time."""
    with database.read() as connection:
        stale = connection.execute(
            select(model_versions.c.id, models.c.current_version)
            .join_from(model_versions, models, models.c.name == model_versions.c.model)
            .where(
                models.c.current_version.is_not(None),
                models.c.current_version != model_versions.c.id,
                has_queued(model_versions.c.id, pinned=False),
            )
        ).all()
    moved = 0
    for version_id, current in stale:
        step = partial(_move_some, version_id=version_id, current=current)
        for _ in range(_MOVE_STEPS):
            moved += (number := database.transact(step))
            if number < _MOVE_ROWS:
                break
    return moved


def waiting_lanes(database: Database, version_ids: Sequence[int]) -> set[str]:
    """The lanes in which jobs of these versions can be claimed."""
    with database.read() as connection:
        return {
            row.lane
            for row in connection.execute(
                select(lanes.c.lane).where(
                    lanes.c.model_version.in_(version_ids),
                    select(jobs.c.id)
                    .where(
                        transitions.CLAIMABLE,
                        jobs.c.model_version == lanes.c.model_version,
                        jobs.c.lane == lanes.c.lane,
                    )
                    .order_by(jobs.c.sequence, jobs.c.id)  # as in has_queued
                    .limit(at_most(1))
                    .scalar_subquery()
                    .is_not(None),
                )
            )
        }


def _move_some(connection: Connection, version_id: int, current: int) -> int:
    rows = connection.execute(
        select(jobs.c.id, jobs.c.lane, jobs.c.flow, jobs.c.ingestion)
        .where(queued_of(version_id, pinned=False))
        .order_by(*FLOW_ORDER)
        .limit(at_most(_MOVE_ROWS))
        .with_for_update(skip_locked=True)
    ).all()
    pins = upkeep.pins(connection, {row.ingestion for row in rows if row.ingestion is not None})
    tags: dict[tuple[int, str, str], int] = {}
    for row in rows:
        # An ingestion's jobs go to its pin, whatever is current later.
        target = pins.get(row.ingestion, current)
        flow = (target, row.lane, row.flow)
        tags[flow] = tags[flow] + 1 if flow in tags else next_sequence(connection, *flow)
        connection.execute(
            update(jobs)
            .where(jobs.c.id == row.id, QUEUED)
            .values(model_version=target, sequence=tags[flow], pinned=row.ingestion in pins)
        )
    return len(rows)
