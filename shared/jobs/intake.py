"""Acceptance: an image and its options become a stored object and a committed job row."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.exc import IntegrityError

from shared.database import Database, new_id, stamp
from shared.errors import ProblemError
from shared.jobs import transitions
from shared.models import Target
from shared.storage.protocol import Storage
from shared.tables import idempotency_keys, images, jobs, lanes, results
from shared.upserts import insert_if_absent

_RESTARTS = 5  # a sweep can take an image away between our look and our insert, but not for ever


@dataclass(frozen=True)
class NewImage:
    """An image whose header was checked."""

    data: bytes
    media_type: str
    width: int
    height: int

    @property
    def sha256(self) -> str:
        """The name of the content, 64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class JobOptions:
    """What a client may ask of a job; part of what an Idempotency-Key stands for."""

    model: str
    top_k: int = 5
    min_score: float | None = None
    lane: str = "interactive"
    deadline_seconds: float | None = None
    reference: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Caller:
    """Who submits, and how to follow it through the logs."""

    owner: str
    request_id: str | None = None
    trace_parent: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Accepted:
    """The job, and whether it waits for a worker."""

    job_id: UUID
    queued: bool


def submit(
    database: Database,
    storage: Storage,
    image: NewImage,
    filename: str | None,
    options: JobOptions,
    target: Target,
    caller: Caller,
) -> Accepted:
    """Store the image unless it is there, then commit the job; only then does it exist.

    Raises:
        ProblemError: `idempotency_mismatch` or `idempotency_gone`.
        Unavailable: Database or storage is away; nothing was accepted.
    """
    new = _Submission(image, image.sha256, filename, options, target, caller)
    for _ in range(_RESTARTS):
        insert = partial(_insert, new=new, stored=_store(database, storage, new))
        try:
            accepted = database.transact(insert)
        except (IntegrityError, _ImageVanished):
            continue
        if accepted is not None:
            return accepted
    raise ProblemError("service_unavailable", "The image could not be kept. Try again.")


def replayed(
    connection: Connection, caller: Caller, sha256: str, options: JobOptions
) -> UUID | None:
    """The job an Idempotency-Key already stands for, or None for a new key.

    Raises:
        ProblemError: The key stands for another request, or its job was deleted.
    """
    row = connection.execute(
        select(idempotency_keys.c.fingerprint, idempotency_keys.c.job, jobs.c.id)
        .join_from(idempotency_keys, jobs, jobs.c.id == idempotency_keys.c.job, isouter=True)
        .where(
            idempotency_keys.c.owner == caller.owner,
            idempotency_keys.c.key == caller.idempotency_key,
        )
    ).first()
    if row is None:
        return None
    if row.fingerprint != _fingerprint(sha256, options):
        raise ProblemError(
            "idempotency_mismatch", "This Idempotency-Key was used for another request."
        )
    if row.id is None:
        raise ProblemError("idempotency_gone", "The job of this Idempotency-Key was deleted.")
    return UUID(str(row.job))


def next_sequence(connection: Connection, version_id: int, lane: str, flow: str) -> int:
    """The tag of a flow's next job: behind its own queued jobs, level with the head otherwise.

    Start-time fair queueing (Goyal, Vin, Cheng 1996): flows take turns, a newcomer starts at the
    lane's clock. On PostgreSQL submits of one flow queue up here, or several in flight would get
    the same tag and the flow several turns for one.
    """
    if connection.dialect.name == "postgresql":
        key = f"{version_id}/{lane}/{flow}"
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(key, 0))))
    clock = (
        select(lanes.c.clock)
        .where(lanes.c.model_version == version_id, lanes.c.lane == lane)
        .scalar_subquery()
    )
    behind = (
        select(func.max(jobs.c.sequence) + 1)
        .where(
            transitions.QUEUED,
            jobs.c.model_version == version_id,
            jobs.c.lane == lane,
            jobs.c.flow == flow,
            jobs.c.sequence >= clock,
        )
        .scalar_subquery()
    )
    return int(connection.execute(select(func.coalesce(behind, clock))).scalar_one())


@dataclass(frozen=True)
class _Submission:
    image: NewImage
    sha256: str
    filename: str | None
    options: JobOptions
    target: Target
    caller: Caller


class _ImageVanished(Exception):
    """The image's row was swept before the job could hold it: all of it is begun again."""


def _store(database: Database, storage: Storage, new: _Submission) -> str | None:
    """The name of a new object, or None where the image's row already names one."""
    with database.read() as connection:
        known = connection.scalar(select(images.c.object).where(images.c.sha256 == new.sha256))
    if known is not None:
        return None
    name = f"images/{new.sha256}/{new_id()}"
    storage.write(name, new.image.data)
    return name


def _insert(connection: Connection, new: _Submission, stored: str | None) -> Accepted | None:
    """The job's transaction; None where it has to be begun again."""
    options, target, caller = new.options, new.target, new.caller
    job_id = new_id()
    if caller.idempotency_key is not None and not insert_if_absent(
        connection,
        idempotency_keys,
        {
            "owner": caller.owner,
            "key": caller.idempotency_key,
            "fingerprint": _fingerprint(new.sha256, options),
            "job": job_id,
            "created_at": stamp(),
        },
    ):
        first = replayed(connection, caller, new.sha256, options)
        # None: the key went away between the two statements.
        return None if first is None else Accepted(first, queued=False)
    if not _hold_image(connection, new, stored):
        raise _ImageVanished
    found = connection.execute(
        select(results.c.image).where(
            results.c.image == new.sha256, results.c.model_version == target.version_id
        )
    ).first()
    guilty = connection.execute(
        select(jobs.c.id)
        .where(
            jobs.c.image == new.sha256,
            jobs.c.model_version == target.version_id,
            text("jobs.error_code = 'worker_lost'"),
        )
        .limit(1)
    ).first()
    values: dict[str, Any] = {
        "id": job_id,
        "owner": caller.owner,
        "image": new.sha256,
        "model_version": target.version_id,
        "pinned": target.pinned,
        "top_k": options.top_k,
        "min_score": options.min_score,
        "filename": new.filename,
        "reference": options.reference,
        "metadata": options.metadata,
        "lane": options.lane,
        "flow": caller.owner,
        "sequence": next_sequence(connection, target.version_id, options.lane, caller.owner),
        "deadline_at": None
        if options.deadline_seconds is None
        else stamp(options.deadline_seconds),
        "request_id": caller.request_id,
        "trace_parent": caller.trace_parent,
        # An image that was found guilty before starts as a suspect, and one lapse is enough.
        "suspect": guilty is not None,
        "lapses": transitions.LAPSES_TO_FAIL - 1 if guilty is not None else 0,
    }
    transitions.insert_job(connection, values, result_found=found is not None)
    return Accepted(job_id, queued=found is None)


def _hold_image(connection: Connection, new: _Submission, stored: str | None) -> bool:
    """Lock the image's row, made or mended with our object where it needs one.

    An object that turns out not to be needed (two submits of one new image) is left to the sweep.
    """
    if stored is not None:
        insert_if_absent(
            connection,
            images,
            {
                "sha256": new.sha256,
                "object": stored,
                "media_type": new.image.media_type,
                "width": new.image.width,
                "height": new.image.height,
                "size_bytes": len(new.image.data),
                "created_at": stamp(),
            },
        )
    row = connection.execute(
        select(images.c.object)
        .where(images.c.sha256 == new.sha256)
        .with_for_update(read=True, key_share=True)
    ).first()
    if row is None:
        return False
    if row.object is not None:
        return True
    if stored is None:
        return False
    connection.execute(update(images).where(images.c.sha256 == new.sha256).values(object=stored))
    return True


def _fingerprint(sha256: str, options: JobOptions) -> str:
    content = json.dumps([sha256, asdict(options)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
