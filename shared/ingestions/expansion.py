"""Expanding: an ingestion is claimed as a batch is, and taken in steps that each commit by itself.

A step is fenced on its claim's token and on the position it started from, so that of two expanders
that believe an ingestion theirs only one writes, and each item is written once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, insert, or_, select, text, update

from shared.database import Database, at_most, moment, stamp
from shared.ingestions import transitions
from shared.ingestions.birth import Birth, StoredImage, hold_images, insert_jobs
from shared.tables import ingestions, items, model_versions

STEP_ITEMS = 500  # the rows of a step are most of what an expander has in memory at a time
LAPSES_TO_FAIL = 3
_WAITING = text("ingestions.expanded_at IS NULL AND ingestions.status IN ('queued', 'running')")
_LONGEST_PAUSE_SECONDS = 300.0


@dataclass(frozen=True)
class NewItem:
    """One entry of the source: with an image, or with the reason why it has none.

    Attributes:
        error: A code of `CODES` and a sentence.
        position: Of an item that is there already and was to be fetched again.
    """

    name: str
    image: StoredImage | None
    error: tuple[str, str] | None
    reference: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    position: int | None = None


@dataclass(frozen=True)
class Expansion:
    """A claimed ingestion: its row as it was when it was claimed, and its model's name."""

    token: UUID
    row: Row[Any]
    model: str

    @property
    def id(self) -> UUID:
        """The ingestion's id."""
        return UUID(str(self.row.id))


class Lost(Exception):
    """The claim has ended: cancelled, taken over, or deleted. Nothing of this step was written."""


def claim(
    database: Database, token: UUID, *, lease_seconds: float, take_lapsed: bool
) -> Expansion | None:
    """Take the ingestion that has waited longest for its turn, or None if none waits.

    One whose expander's lease lapsed for the third time at the same checkpoint is not taken again:
    its expansion ends there, what was expanded stays.

    Args:
        database: The database.
        token: Of this expander, which holds nothing that it knows of: what bears it was taken by a
            commit whose answer never came, and is taken again.
        lease_seconds: How long it holds without renewal.
        take_lapsed: Also from others whose lease is over; not right after an absence of ours or of
            the database, in which they could not renew.
    """
    nobodys: list[Any] = [
        ingestions.c.expander_token.is_(None),
        ingestions.c.expander_token == token,
    ]
    if take_lapsed:
        nobodys.append(ingestions.c.expander_lease_until < moment())
    free = (*_due(), or_(*nobodys))

    def take(connection: Connection) -> tuple[bool, Expansion | None]:
        row = connection.execute(
            select(ingestions)
            .where(*free)
            .order_by(ingestions.c.turn_at)
            .limit(at_most(1))
            .with_for_update(skip_locked=True)
        ).first()
        if row is None:
            return False, None
        lapses = row.lapses + (row.expander_token not in (None, token))
        if lapses >= LAPSES_TO_FAIL:
            _end(
                connection,
                row,
                "expander_lost",
                "The background worker failed three times as it read the source behind item "
                f"{row.expanded}.",
            )
            return True, None
        transitions.start(
            connection,
            row,
            expander_token=token,
            expander_lease_until=stamp(lease_seconds),
            turn_at=stamp(),
            not_before=None,
            lapses=lapses,
        )
        row = transitions.locked(connection, row.id)
        assert row is not None  # locked by this transaction
        model = select(model_versions.c.model).where(model_versions.c.id == row.model_version)
        return True, Expansion(token, row, connection.execute(model).scalar_one())

    found = True
    while found and _any(database, *free):
        found, expansion = database.transact(take)
        if expansion is not None:
            return expansion
    return None


def others_wait(database: Database) -> bool:
    """Whether an ingestion waits that nobody expands."""
    return _any(database, *_due(), ingestions.c.expander_token.is_(None))


def renew(database: Database, tokens: Sequence[UUID], *, lease_seconds: float) -> None:
    """Hold these claims for another lease; one that has been ended stays ended."""
    if tokens:
        database.transact(
            lambda connection: connection.execute(
                update(ingestions)
                .where(_WAITING, ingestions.c.expander_token.in_(sorted(tokens)))
                .values(expander_lease_until=stamp(lease_seconds))
            )
        )


def end_claims(database: Database, tokens: Sequence[UUID], *, lapse: bool = True) -> int:
    """Say that the claims of a process that has ended, beyond doubt, are over now.

    Each is a lapse, unless the process itself says so at its end.
    """
    return database.transact(
        lambda connection: (
            connection.execute(
                update(ingestions)
                .where(_WAITING, ingestions.c.expander_token.in_(sorted(tokens)))
                .values(**transitions.NOBODYS, lapses=ingestions.c.lapses + int(lapse))
            ).rowcount
        )
    )


def release(
    database: Database, expansion: Expansion, *, pause_seconds: float = 0, lapse: bool = False
) -> None:
    """Give it back where it is: an expander that stops, or makes room, is no lapse.

    Args:
        database: The database.
        expansion: The claim.
        pause_seconds: How long nobody is to take it.
        lapse: Whether it counts as one: an error of ours that may come again.

    Raises:
        Lost: The claim has ended.
    """

    def write(connection: Connection) -> None:
        _held(connection, expansion)
        transitions.change(
            connection,
            expansion.id,
            **transitions.NOBODYS,
            not_before=stamp(pause_seconds) if pause_seconds else None,
            lapses=ingestions.c.lapses + int(lapse),
        )

    database.transact(write)


def pause(database: Database, expansion: Expansion, *, reason: str, hours: float) -> bool:
    """Its source cannot be reached: try again later; False when that has gone on for too long.

    The pause grows with the time that it has gone on, to 5 min.

    Raises:
        Lost: The claim has ended.
    """

    def write(connection: Connection) -> bool:
        row = _held(connection, expansion)
        since = row.unreachable_since
        now = connection.scalar(select(stamp()))
        assert now is not None
        waited = 0.0 if since is None else (now - since).total_seconds()
        if waited > hours * 3600:
            _end(connection, row, "source_unreachable", f"For {hours:g} hours: {reason}")
            return False
        seconds = min(max(1.0, waited / 2), _LONGEST_PAUSE_SECONDS)
        transitions.change(
            connection,
            expansion.id,
            **transitions.NOBODYS,
            not_before=stamp(seconds),
            unreachable_since=now if since is None else since,
        )
        return True

    return database.transact(write)


def set_object(database: Database, expansion: Expansion, name: str) -> None:
    """The file of the source is in the storage.

    Raises:
        Lost: The claim has ended.
    """

    def write(connection: Connection) -> None:
        _held(connection, expansion)
        transitions.change(connection, expansion.id, object=name)

    database.transact(write)


def record_step(
    database: Database,
    expansion: Expansion,
    *,
    position: int,
    new: Sequence[NewItem],
    checkpoint: Any,
    ended: bool = False,
    error: tuple[str, str] | None = None,
) -> int:
    """Write at most 1,000 items with their jobs, and the checkpoint; the next position comes back.

    Args:
        database: The database.
        expansion: The claim.
        position: Of the first of the new items; the ingestion has to be there.
        new: The items; those with a position are there already.
        checkpoint: Behind the last of them.
        ended: Whether the source has no more.
        error: Code and sentence, where it ended too early.

    Raises:
        Lost: The claim has ended, or somebody else has gone on.
        ImageVanished: The sweep has taken one of the images meanwhile; begin the step again.
    """
    fresh = [item for item in new if item.position is None]

    def write(connection: Connection) -> int:
        row = _held(connection, expansion)
        if row.expanded != position:
            raise Lost
        numbered = _numbered(position, new)
        jobs = _insert_jobs(connection, row, numbered)
        _insert_items(connection, row, numbered, jobs)
        refused = sum(1 for item in new if item.image is None)
        transitions.change(
            connection,
            row.id,
            expanded=position + len(fresh),
            refused=row.refused + refused,
            checkpoint=checkpoint,
            lapses=0,
            unreachable_since=None,
        )
        row = _held(connection, expansion)
        if not transitions.stop_if_hopeless(connection, row) and ended:
            _end(connection, row, *(error or (None, None)))
        return position + len(fresh)

    return database.transact(write)


def unfetched(database: Database, ingestion: UUID, *, after: int, limit: int) -> list[Any]:
    """Items that a retry wants fetched again: position, name, reference, metadata."""
    with database.read() as connection:
        found = connection.execute(
            select(items.c.position, items.c.name, items.c.reference, items.c.metadata)
            .where(
                items.c.ingestion == ingestion,
                text("items.job IS NULL AND items.error_code IS NULL"),
                items.c.position > after,
            )
            .order_by(items.c.position)
            .limit(at_most(limit))
        )
        return list(found)


def _due() -> tuple[Any, ...]:
    return _WAITING, or_(ingestions.c.not_before.is_(None), ingestions.c.not_before <= moment())


def _any(database: Database, *conditions: Any) -> bool:
    with database.read() as connection:
        found = connection.scalar(
            select(ingestions.c.id)
            .where(*conditions)
            .order_by(ingestions.c.turn_at)
            .limit(at_most(1))
        )
    return found is not None


def _held(connection: Connection, expansion: Expansion) -> Row[Any]:
    """The ingestion's row, locked.

    Raises:
        Lost: It is no longer this expander's.
    """
    row = transitions.locked(connection, expansion.id)
    if row is None or row.expander_token != expansion.token or row.status != "running":
        raise Lost
    return row


def _end(connection: Connection, row: Row[Any], code: str | None, detail: str | None) -> None:
    """The expansion is over; recovery closes the ingestion once its jobs have ended."""
    error = {} if code is None else {"error_code": code, "error_detail": detail}
    transitions.change(
        connection,
        row.id,
        expanded_at=stamp(),
        **transitions.NOBODYS,
        **error,
    )


def _numbered(position: int, new: Sequence[NewItem]) -> list[tuple[int, NewItem]]:
    numbered = []
    for item in new:
        if item.position is None:
            numbered.append((position, item))
            position += 1
        else:
            numbered.append((item.position, item))
    return numbered


def _insert_jobs(
    connection: Connection, row: Row[Any], numbered: Sequence[tuple[int, NewItem]]
) -> dict[int, UUID]:
    """The ids of the new jobs, by position."""
    pictured = [(position, item) for position, item in numbered if item.image is not None]
    hold_images(connection, [item.image for _, item in pictured if item.image is not None])
    births = [
        Birth(
            position=position,
            image=item.image.sha256,
            name=item.name,
            reference=item.reference if item.reference is not None else row.reference,
            metadata={**row.metadata, **item.metadata},
        )
        for position, item in pictured
        if item.image is not None
    ]
    return insert_jobs(connection, row, births, deadline_at=row.deadline_at)


def _insert_items(
    connection: Connection,
    row: Row[Any],
    numbered: Sequence[tuple[int, NewItem]],
    jobs: dict[int, UUID],
) -> None:
    """New items are inserted, those that were fetched again get what came of it."""
    taken = [
        {"ingestion": row.id, "position": position, "name": item.name, "job": jobs[position]}
        for position, item in numbered
        if item.image is not None and item.position is None
    ]
    if taken:
        connection.execute(insert(items), taken)
    for position, item in numbered:
        if item.position is not None and item.image is not None:
            connection.execute(
                update(items)
                .where(items.c.ingestion == row.id, items.c.position == position)
                .values(job=jobs[position], reference=None, metadata=None)
            )
    refused = [
        {
            "ingestion": row.id,
            "position": position,
            "name": item.name,
            "reference": item.reference if item.reference is not None else row.reference,
            "metadata": {**row.metadata, **item.metadata},
            "error_code": item.error[0],
            "error_detail": item.error[1],
        }
        for position, item in numbered
        if item.error is not None and item.position is None
    ]
    if refused:
        connection.execute(insert(items).values(finished_at=stamp()), refused)
    for position, item in numbered:
        if item.position is not None and item.error is not None:
            connection.execute(
                update(items)
                .where(items.c.ingestion == row.id, items.c.position == position)
                .values(error_code=item.error[0], error_detail=item.error[1], finished_at=stamp())
            )
