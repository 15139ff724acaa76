"""Taking a batch of queued jobs, renewing the claim, and ending it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, insert, select, update

from shared.database import Database, at_most, moment, new_id, stamp
from shared.errors import Unavailable
from shared.jobs import transitions
from shared.tables import claims, images, ingestions, jobs, lanes

_LOOK_BELOW_SECONDS = 2.0  # at the latest so often, a claim looks below the clock too
_LAST_TRIAL_CALMS = 5  # a job's last trial waits so many times as long as the one before
_CLOCK_SECONDS = 1.0  # at most so often, a full claim writes the clock


@dataclass(frozen=True)
class ClaimedJob:
    """One job of a batch, with what is needed to work on it."""

    id: UUID
    image: str
    object: str | None
    suspect: bool
    lapses: int
    request_id: str | None


@dataclass(frozen=True)
class Claim:
    """Jobs taken together, of one version and one lane, in the order of their sequence."""

    token: UUID
    version_id: int
    lane: str
    jobs: tuple[ClaimedJob, ...]


@dataclass(frozen=True)
class Claimant:
    """A worker process that asks for jobs.

    Attributes:
        most_lapses: It leaves jobs with more lapses to others; see `lapses_allowed`.
    """

    worker: UUID
    lease_seconds: float
    most_lapses: int = transitions.LAPSES_TO_FAIL - 1


@dataclass
class LaneCursor:
    """What one loop remembers of one version's lane between two claims.

    Attributes:
        unsure: Token of a claim whose commit was not answered: perhaps it holds jobs.
    """

    short: bool = True
    looked_below_at: float = field(default=float("-inf"))
    clock_written_at: float = field(default=float("-inf"))
    unsure: UUID | None = None


def lapses_allowed(served_seconds: float, calm_seconds: float) -> int:
    """How many lapses a job may have to be claimed by a process that has served for so long.

    An image that ends its process does so on every trial. What comes from outside, again and
    again, hits a trial by chance, and the sooner after a start the more often it comes. So a job
    whose trial was cut off waits for a process that has been left in peace, the last time for
    longer than the time before.
    """
    if served_seconds < calm_seconds:
        return 0
    if served_seconds < _LAST_TRIAL_CALMS * calm_seconds:
        return transitions.LAPSES_TO_FAIL - 2
    return transitions.LAPSES_TO_FAIL - 1


def claim_batch(
    database: Database,
    cursor: LaneCursor,
    *,
    version_id: int,
    lane: str,
    limit: int,
    claimant: Claimant,
    only_full: bool = False,
) -> Claim | None:
    """Take up to `limit` queued jobs in one short transaction, or None if none waits.

    With `only_full`, also None while fewer than `limit` wait.
    """
    _give_unsure_back(database, cursor)
    while True:
        claim = _claim_once(
            database,
            cursor,
            Claim(new_id(), version_id, lane, ()),
            limit=limit,
            claimant=claimant,
            only_full=only_full,
        )
        if claim is None or claim.jobs:
            return claim
        # All that was taken is of ingestions that were stopped: others may wait behind it.


def _claim_once(
    database: Database,
    cursor: LaneCursor,
    claim: Claim,
    *,
    limit: int,
    claimant: Claimant,
    only_full: bool,
) -> Claim | None:
    version_id, lane = claim.version_id, claim.lane
    now = time.monotonic()
    from_clock = not cursor.short and now - cursor.looked_below_at < _LOOK_BELOW_SECONDS
    # Looking for work is a plain read: most looks of an idle or half-idle worker find none.
    look = transitions.claimable(
        version_id, lane, most_lapses=claimant.most_lapses, from_clock=from_clock
    )
    if not _enough_wait(database, look, limit if only_full else 1):
        cursor.short = True
        return None
    # Not with every claim on PostgreSQL: the dead versions of this one row would be walked by
    # each submit while an old snapshot is held.
    due = database.is_sqlite or now - cursor.clock_written_at > _CLOCK_SECONDS

    def take(connection: Connection) -> tuple[int, tuple[ClaimedJob, ...]]:
        picked = sorted(
            transitions.claim(
                connection,
                version_id=version_id,
                lane=lane,
                limit=limit,
                most_lapses=claimant.most_lapses,
                from_clock=from_clock,
                token=claim.token,
            ),
            key=lambda row: (row.sequence, row.id),
        )
        if picked:
            connection.execute(
                insert(claims).values(
                    token=claim.token,
                    worker=claimant.worker,
                    lease_until=stamp(claimant.lease_seconds),
                )
            )
            if due or len(picked) < limit:
                _advance_clock(connection, version_id, lane, picked[-1].sequence)
        left = _without_stopped(connection, claim.token, picked)
        return len(picked), _with_objects(connection, left)

    try:
        number, taken = database.transact(take)
    except Unavailable:
        cursor.unsure = claim.token
        raise
    cursor.short = number < limit
    if not from_clock:
        cursor.looked_below_at = now
    if due and number:
        cursor.clock_written_at = now
    return replace(claim, jobs=taken) if number else None


def _give_unsure_back(database: Database, cursor: LaneCursor) -> None:
    """Nobody works on such jobs; they would wait for the lease's end, and then be suspects."""
    if cursor.unsure is not None:
        database.transact(partial(transitions.give_claim_back, token=cursor.unsure))
        cursor.unsure = None


def _without_stopped(
    connection: Connection, token: UUID, picked: Sequence[Row[Any]]
) -> Sequence[Row[Any]]:
    """Cancel jobs of ingestions that were stopped, and that recovery has not come to yet."""
    named = {row.ingestion for row in picked if row.ingestion is not None}
    if not named:
        return picked
    stopped = set(
        connection.scalars(
            select(ingestions.c.id).where(
                ingestions.c.id.in_(named), ingestions.c.status.not_in(("queued", "running"))
            )
        )
    )
    if not stopped:
        return picked
    canceled = transitions.cancel_claimed(
        connection, token, [row.id for row in picked if row.ingestion in stopped]
    )
    transitions.drop_idle_claim(connection, token)
    return [row for row in picked if row.id not in canceled]


def _with_objects(connection: Connection, picked: Sequence[Row[Any]]) -> tuple[ClaimedJob, ...]:
    """In the claim's transaction: a look that failed after it would leave a claim to nobody."""
    if not picked:
        return ()
    names = {row.image for row in picked}
    found = connection.execute(
        select(images.c.sha256, images.c.object).where(images.c.sha256.in_(names))
    )
    objects = {row.sha256: row.object for row in found}
    return tuple(
        ClaimedJob(row.id, row.image, objects[row.image], row.suspect, row.lapses, row.request_id)
        for row in picked
    )


def renew(database: Database, tokens: Sequence[UUID], *, lease_seconds: float) -> None:
    """Hold these claims for another lease; one that has been ended stays ended."""
    if tokens:
        database.transact(
            lambda connection: connection.execute(
                update(claims)
                .where(claims.c.token.in_(sorted(tokens)))
                .values(lease_until=stamp(lease_seconds))
            )
        )


def note_trial(database: Database, token: UUID, job_id: UUID) -> bool:
    """Note, before a suspect is touched, that it is on trial; False if the claim lost it."""
    still_held = select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.claim_token == token).exists()

    def note(connection: Connection) -> bool:
        changed = connection.execute(
            update(claims)
            .where(claims.c.token == token, still_held)
            .values(trial=job_id)
            .returning(claims.c.token)
        )
        return changed.first() is not None

    return database.transact(note)


def end_trial(database: Database, token: UUID) -> None:
    """The suspect was recorded, and the process lives: what comes is no longer its doing."""
    database.transact(
        lambda connection: connection.execute(
            update(claims).where(claims.c.token == token).values(trial=None)
        )
    )


def end_leases(connection: Connection, workers: Sequence[UUID]) -> None:
    """Say that the claims of these workers, whose processes have ended, are over now."""
    connection.execute(
        update(claims).where(claims.c.worker.in_(workers)).values(lease_until=stamp(-1))
    )


def lapsed_claims(database: Database) -> Sequence[UUID]:
    """Tokens of the claims whose lease is over, oldest first."""
    with database.read() as connection:
        return connection.scalars(
            select(claims.c.token)
            .where(claims.c.lease_until < moment())
            .order_by(claims.c.lease_until)
            .limit(at_most(transitions.STEP_ROWS))
        ).all()


def _enough_wait(database: Database, conditions: Sequence[Any], number: int) -> bool:
    waiting = (
        select(jobs.c.id)
        .where(*conditions)
        .order_by(jobs.c.sequence, jobs.c.id)  # without it a scan looks cheap for a few rows
        .limit(at_most(number))
        .subquery()
    )
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(waiting)) == number


def _advance_clock(connection: Connection, version_id: int, lane: str, sequence: int) -> None:
    """The clock never goes back."""
    connection.execute(
        update(lanes)
        .where(lanes.c.model_version == version_id, lanes.c.lane == lane, lanes.c.clock < sequence)
        .values(clock=sequence)
    )
