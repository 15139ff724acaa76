"""How the jobs of an ingestion come into being: many at a time, on images that are held."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, text, update

from shared.database import new_id, stamp
from shared.jobs import transitions
from shared.jobs.intake import next_sequence
from shared.tables import images, jobs, results
from shared.upserts import insert_many_if_absent

LANE = "bulk"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that a job is to cite.

    Attributes:
        object: Name of the object that was written for it; None where its row names a live one.
    """

    sha256: str
    media_type: str
    width: int
    height: int
    size_bytes: int
    animated: bool
    object: str | None


@dataclass(frozen=True)
class Birth:
    """A job that is about to be inserted."""

    position: int
    image: str
    name: str
    reference: str | None
    metadata: dict[str, Any]


class ImageVanished(Exception):
    """The sweep has taken an image between our look and our insert: begin again."""


def hold_images(connection: Connection, found: Sequence[StoredImage]) -> None:
    """Lock the images' rows, made or mended where they need it, so that jobs can cite them.

    In the order of their names, as everybody does who locks several.

    Raises:
        ImageVanished: One has no row, or a row without an object, and nothing was written for it.
    """
    wanted = {image.sha256: image for image in sorted(found, key=lambda image: image.sha256)}
    written = {name: image for name, image in wanted.items() if image.object is not None}
    if not wanted:
        return
    if written:
        insert_many_if_absent(
            connection,
            images,
            [asdict(image) for image in written.values()],
            created_at=stamp(),
        )
    rows = connection.execute(
        select(images.c.sha256, images.c.object)
        .where(images.c.sha256.in_(list(wanted)))
        .order_by(images.c.sha256)
        .with_for_update(read=True, key_share=True)
    ).all()
    lost = [row.sha256 for row in rows if row.object is None]
    if len(rows) < len(wanted) or not written.keys() >= set(lost):
        raise ImageVanished
    for name in lost:
        connection.execute(
            update(images).where(images.c.sha256 == name).values(object=written[name].object)
        )


def insert_jobs(
    connection: Connection,
    ingestion: Row[Any],
    births: Sequence[Birth],
    *,
    deadline_at: datetime | None,
) -> dict[int, UUID]:
    """Insert the jobs of an ingestion that this transaction has locked; their ids by position.

    One whose image has a result of this version is born succeeded. The others stand behind the
    ingestion's own in the lane, in this order.
    """
    if not births:
        return {}
    names = sorted({birth.image for birth in births})
    version = ingestion.model_version
    found = set(
        connection.scalars(
            select(results.c.image).where(
                results.c.image.in_(names), results.c.model_version == version
            )
        )
    )
    guilty = set(
        connection.scalars(
            select(jobs.c.image).where(
                jobs.c.image.in_(names),
                jobs.c.model_version == version,
                text("jobs.error_code = 'worker_lost'"),
            )
        )
    )
    flow = str(ingestion.id)
    sequence = next_sequence(connection, version, LANE, flow)
    rows = [
        {
            "id": new_id(),
            "owner": ingestion.owner,
            "image": birth.image,
            "model_version": version,
            "pinned": ingestion.pinned,
            "top_k": ingestion.top_k,
            "min_score": ingestion.min_score,
            "filename": birth.name,
            "reference": birth.reference,
            "metadata": birth.metadata,
            "ingestion": ingestion.id,
            "position": birth.position,
            "lane": LANE,
            "flow": flow,
            "sequence": sequence + number,
            "deadline_at": deadline_at,
            "request_id": ingestion.request_id,
            "trace_parent": ingestion.trace_parent,
            **transitions.suspicion(guilty=birth.image in guilty),
        }
        for number, birth in enumerate(births)
    ]
    transitions.insert_jobs(connection, rows, found=found)
    return {row["position"]: row["id"] for row in rows}
