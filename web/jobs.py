"""The job calls: submit, poll, cancel, delete, and the image."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote
from uuid import UUID

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Connection, Row

from shared.errors import ProblemError
from shared.jobs import queries, transitions
from shared.tables import TERMINAL
from shared.uploads import read_image
from web.bodies import read_body
from web.headers import POLL_SECONDS, PRIVATE
from web.owners import current_owner, no_job, own_job
from web.preferences import idempotency_key, say_waited, wanted_wait_seconds
from web.representation import job_json, queue_json
from web.schemas import Queue
from web.services import services
from web.stored_images import image_response, stored_bytes
from web.submission import accept

blueprint = Blueprint("jobs", __name__, url_prefix="/v1/jobs")


@blueprint.post("")
def submit() -> Response:
    """Take one image: 202 with the job, or 200 where the job has ended already."""
    settings = services().settings
    key = idempotency_key()
    body = read_body(settings)
    image = read_image(body.data, settings)
    options = body.options.for_job(settings.default_model)
    job_id = accept(image, body.filename, options, idempotency_key=key)
    seen = _await(job_id)
    response = _answer(seen)
    response.status_code = 200 if seen.ended else 202
    response.headers["Location"] = f"/v1/jobs/{job_id}"
    return response


@blueprint.get("/<uuid:job_id>")
def show(job_id: UUID) -> Response:
    """The job as it is now; with `Prefer: wait=n`, as it is once it has ended, or n s later."""
    seen = _await(job_id)
    response = _answer(seen)
    # Weak, and over the state alone: the queue's estimates change all the time.
    state = json.dumps(job_json(seen.row), sort_keys=True)
    response.set_etag(hashlib.sha256(state.encode()).hexdigest()[:32], weak=True)
    response.make_conditional(request)
    return response


@blueprint.post("/<uuid:job_id>/cancel")
def cancel(job_id: UUID) -> Response:
    """End a queued or running job; again for one that was cancelled before."""
    _look(job_id)  # somebody else's is not there
    services().database.transact(lambda connection: transitions.cancel(connection, job_id))
    seen = _look(job_id)
    if seen.row.status != "canceled":
        raise ProblemError("already_finished", f"The job has already {seen.row.status}.")
    return _answer(seen)


@blueprint.delete("/<uuid:job_id>")
def delete(job_id: UUID) -> Response:
    """Delete the job in any state; its image goes with it unless something else uses it."""
    owner = current_owner()

    def remove(connection: Connection) -> bool:
        return queries.delete_job(connection, owner, job_id)

    if not services().database.transact(remove):
        raise no_job(job_id)
    return Response(status=204)


@blueprint.get("/<uuid:job_id>/image")
def image(job_id: UUID) -> Response:
    """The image as it was stored."""
    row = _look(job_id).row
    response = image_response(stored_bytes(row), row.media_type, etag=row.image, caching=PRIVATE)
    response.headers["Content-Disposition"] = _inline(row.filename)
    return response


@dataclass(frozen=True)
class _Seen:
    """A job as it was found, and the seconds of waiting that were granted for it."""

    row: Row[Any]
    queue: Queue | None
    waited: int | None = None

    @property
    def ended(self) -> bool:
        return self.row.status in TERMINAL


def _look(job_id: UUID) -> _Seen:
    with services().database.read() as connection:
        row = own_job(connection, job_id)
        return _Seen(row, queue_json(connection, row))


def _await(job_id: UUID) -> _Seen:
    """The job, as soon as `Prefer` wants it answered."""
    own = services()
    seen = _look(job_id)
    seconds = wanted_wait_seconds(own.settings.max_wait_seconds)
    if seconds is None:
        return seen
    if not seen.ended:
        if not own.waiting.wait([job_id], seconds):
            return seen
        seen = _look(job_id)
    return replace(seen, waited=seconds)


def _answer(seen: _Seen) -> Response:
    response = jsonify(job_json(seen.row, queue=seen.queue))
    response.headers["Cache-Control"] = PRIVATE
    if not seen.ended:
        response.headers["Retry-After"] = str(POLL_SECONDS)
    if seen.waited is not None:
        say_waited(response, seen.waited)
    return response


def _inline(filename: str | None) -> str:
    """Shown, not saved; the name is for whoever saves it (RFC 6266)."""
    if filename is None:
        return "inline"
    return f"inline; filename*=UTF-8''{quote(filename, safe='')}"
