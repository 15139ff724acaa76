"""Writing down what became of a batch: one transaction, fenced on the claim's token."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from sqlalchemy import Connection, select, update

from shared.database import Database, stamp
from shared.jobs import transitions
from shared.jobs.claiming import Claim
from shared.tables import claims, images, results
from shared.upserts import insert_if_absent

# One image's ranked predictions: (class_id, label, score), best first.
Predictions = list[tuple[str, str, float]]


@dataclass(frozen=True)
class Embedding:
    """One image's embedding by a model without a top: float32, little-endian."""

    data: bytes


Result = Predictions | Embedding


@dataclass(frozen=True)
class Failure:
    """An error that is the image's own, with a code of `CODES`."""

    code: str
    detail: str


@dataclass(frozen=True)
class Unread:
    """The image could not be read for reasons that are ours: its job is parked."""


@dataclass(frozen=True)
class Outcome:
    """What became of one job of the batch."""

    job_id: UUID
    image: str
    result: Result | Failure | Unread


def record(
    database: Database,
    claim: Claim,
    outcomes: Sequence[Outcome],
    *,
    decode_ms: float,
    inference_ms: float,
    unreachable_hours: float,
) -> int:
    """Record the outcomes of jobs that the claim still holds; the number of them comes back.

    Every outcome whose job was cancelled, deleted or taken away meanwhile changes nothing.
    """

    def write(connection: Connection) -> int:
        succeeded = {o.job_id: o for o in outcomes if isinstance(o.result, list | Embedding)}
        recorded = transitions.succeed(
            connection,
            claim.token,
            list(succeeded),
            decode_ms=decode_ms,
            inference_ms=inference_ms,
        )
        _keep_results(connection, claim.version_id, [succeeded[job_id] for job_id in recorded])
        count = len(recorded)
        failed = [(o.result, o.job_id) for o in outcomes if isinstance(o.result, Failure)]
        failed.sort(key=lambda pair: (pair[0].code, pair[0].detail))
        for failure, group in groupby(failed, key=lambda pair: pair[0]):
            ids = [job_id for _, job_id in group]
            count += len(
                transitions.fail(
                    connection, claim.token, ids, code=failure.code, detail=failure.detail
                )
            )
        unread = [o.job_id for o in outcomes if isinstance(o.result, Unread)]
        transitions.park(connection, claim.token, unread, unreachable_hours=unreachable_hours)
        transitions.drop_idle_claim(connection, claim.token)
        return count

    return database.transact(write)


def give_back(database: Database, claim: Claim, job_ids: Sequence[UUID]) -> None:
    """Return jobs that were not worked on, as a worker that stops does."""

    def write(connection: Connection) -> None:
        transitions.give_back(connection, claim.token, job_ids)
        transitions.drop_idle_claim(connection, claim.token)

    database.transact(write)


def give_all_back(connection: Connection, worker: UUID) -> None:
    """Return whatever a worker that ends still holds: it could not be given back before."""
    for token in connection.scalars(select(claims.c.token).where(claims.c.worker == worker)).all():
        transitions.give_claim_back(connection, token)


def forget_object(database: Database, image: str, name: str) -> None:
    """The storage says this object is gone: the next submit of the image writes a new one."""
    database.transact(
        lambda connection: connection.execute(
            update(images)
            .where(images.c.sha256 == image, images.c.object == name)
            .values(object=None)
        )
    )


def known_results(
    database: Database, version_id: int, image_names: Sequence[str]
) -> dict[str, Result]:
    """Results that are there already, by image."""
    with database.read() as connection:
        rows = connection.execute(
            select(results.c.image, results.c.predictions, results.c.embedding).where(
                results.c.model_version == version_id, results.c.image.in_(image_names)
            )
        )
        return {
            row.image: [(c, label, score) for c, label, score in row.predictions]
            if row.embedding is None
            else Embedding(row.embedding)
            for row in rows
        }


def _keep_results(connection: Connection, version_id: int, outcomes: Sequence[Outcome]) -> None:
    """Insert each image's result unless it has one: the first answer stays.

    In the order of the images, so that two batches with the same images cannot deadlock.
    """
    by_image = {outcome.image: outcome.result for outcome in outcomes}
    rows = [
        {
            "image": image,
            "model_version": version_id,
            "created_at": stamp(),
            **_columns(by_image[image]),
        }
        for image in sorted(by_image)
    ]
    if rows:
        insert_if_absent(connection, results, *rows)


def _columns(result: object) -> dict[str, object]:
    """A result as its row keeps it."""
    if isinstance(result, Embedding):
        return {"predictions": [], "embedding": result.data, "label": None}
    return {
        "predictions": result,
        "embedding": None,
        "label": result[0][1] if isinstance(result, list) and result else None,
    }
