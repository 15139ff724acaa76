"""Acceptance: an image and its options become a stored object and a committed job row."""

import hashlib
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import BindParameter, Connection, Row, bindparam, func, select, text, update
from sqlalchemy.exc import IntegrityError

from shared import idempotency
from shared.database import Database, new_id, stamp
from shared.errors import ProblemError
from shared.jobs import transitions
from shared.jobs.flows import QUEUED, flow_tail
from shared.models import Target
from shared.storage.protocol import Storage
from shared.tables import idempotency_keys, images, jobs, lanes, results
from shared.upserts import insert_if_absent

_RESTARTS = 5  # a sweep can take an image away between our look and our insert, but not for ever

_THERE = select(jobs.c.id).where(jobs.c.id == idempotency_keys.c.job).exists()
_QUEUE_UP = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")

# Built once: a submit holds SQLite's only write lock, or the flow's, while its statements run.
_VERSION: BindParameter[int] = bindparam("version_id")
_LANE: BindParameter[str] = bindparam("lane")
_FLOW: BindParameter[str] = bindparam("flow")
_IMAGE: BindParameter[str] = bindparam("image")
_CLOCK = (
    select(lanes.c.clock)
    .where(lanes.c.model_version == _VERSION, lanes.c.lane == _LANE)
    .scalar_subquery()
)
_BEHIND = flow_tail(
    jobs,
    QUEUED,
    jobs.c.model_version == _VERSION,
    jobs.c.lane == _LANE,
    jobs.c.flow == _FLOW,
    jobs.c.sequence >= _CLOCK,
)
# Start-time fair queueing (Goyal, Vin, Cheng 1996): flows take turns, a newcomer starts one behind
# the lane's clock. (At the clock itself, a client that submits again as its jobs finish would get
# the tag it just had, and starve whoever waits with a later one.)
_SEQUENCE = func.coalesce(_BEHIND, _CLOCK + 1).label("sequence")
_LOOK_AROUND = (
    select(
        images.c.object,
        select(results.c.image)
        .where(results.c.image == _IMAGE, results.c.model_version == _VERSION)
        .exists()
        .label("has_result"),
        select(jobs.c.id)
        .where(
            jobs.c.image == _IMAGE,
            jobs.c.model_version == _VERSION,
            text("jobs.error_code = 'worker_lost'"),
        )
        .exists()
        .label("guilty"),
        _SEQUENCE,
    )
    .where(images.c.sha256 == _IMAGE)
    .with_for_update(read=True, key_share=True, of=images)
)


@dataclass(frozen=True)
class NewImage:
    """An image whose header was checked."""

    data: bytes
    media_type: str
    width: int
    height: int
    animated: bool = False

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
    return idempotency.replayed(
        connection,
        caller.owner,
        caller.idempotency_key,
        _fingerprint(sha256, options),
        there=_THERE,
    )


def is_answered(connection: Connection, sha256: str, target: Target) -> bool:
    """Whether a job of this image would be born succeeded."""
    found = results.c.image == sha256, results.c.model_version == target.version_id
    return connection.execute(select(results.c.image).where(*found)).first() is not None


def object_name(sha256: str) -> str:
    """A name that no other object has, for the bytes of an image."""
    return f"images/{sha256}/{new_id()}"


def next_sequence(connection: Connection, version_id: int, lane: str, flow: str) -> int:
    """The tag of a flow's next job: behind its own queued jobs, level with the head otherwise."""
    queue_up(connection, version_id, lane, flow)
    place = {"version_id": version_id, "lane": lane, "flow": flow}
    return int(connection.execute(select(_SEQUENCE), place).scalar_one())


def queue_up(connection: Connection, version_id: int, lane: str, flow: str) -> None:
    """Wait for other submits of the flow, before its highest tag is read.

    Several in flight would get the same tag, and the flow several turns for one. SQLite has one
    writer anyway.
    """
    if connection.dialect.name == "postgresql":
        key = f"{version_id}/{lane}/{flow}"
        connection.execute(_QUEUE_UP, {"key": key})


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
    name = object_name(new.sha256)
    storage.write(name, new.image.data)
    return name


def _insert(connection: Connection, new: _Submission, stored: str | None) -> Accepted | None:
    """The job's transaction; None where it has to be begun again."""
    options, target, caller = new.options, new.target, new.caller
    job_id = new_id()
    key = caller.idempotency_key
    if key is not None and not idempotency.keep(
        connection, caller.owner, key, _fingerprint(new.sha256, options), job_id
    ):
        first = replayed(connection, caller, new.sha256, options)
        # None: the key went away between the two statements.
        return None if first is None else Accepted(first, queued=False)
    queue_up(connection, target.version_id, options.lane, caller.owner)
    seen = _hold_image(connection, new, stored)
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
        "sequence": seen.sequence,
        "deadline_at": None
        if options.deadline_seconds is None
        else stamp(options.deadline_seconds),
        "request_id": caller.request_id,
        "trace_parent": caller.trace_parent,
        **transitions.suspicion(guilty=seen.guilty),
    }
    transitions.insert_job(connection, values, result_found=seen.has_result)
    return Accepted(job_id, queued=not seen.has_result)


def _hold_image(connection: Connection, new: _Submission, stored: str | None) -> Row[Any]:
    """Lock the image's row, made or mended with our object where it needs one, and look around.

    An object that turns out not to be needed (two submits of one new image) is left to the sweep.

    Raises:
        _ImageVanished: There is no row, or it has lost its object and we have none.
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
                "animated": new.image.animated,
                "created_at": stamp(),
            },
        )
    place = {
        "image": new.sha256,
        "version_id": new.target.version_id,
        "lane": new.options.lane,
        "flow": new.caller.owner,
    }
    row = connection.execute(_LOOK_AROUND, place).first()
    if row is None or (row.object is None and stored is None):
        raise _ImageVanished
    if row.object is None:
        connection.execute(
            update(images).where(images.c.sha256 == new.sha256).values(object=stored)
        )
    return row


def _fingerprint(sha256: str, options: JobOptions) -> str:
    return idempotency.fingerprint("job", sha256, asdict(options))
