"""The calls of ingestions: hand in, list, poll, cancel, retry, delete."""

import hashlib
from uuid import UUID

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Connection

from shared.errors import ProblemError
from shared.ingestions import queries, retrying, transitions
from shared.ingestions.birth import LANE
from shared.ingestions.queries import Seen
from web.filters import IngestionFilters, read_filters, write_cursor
from web.headers import POLL_SECONDS, PRIVATE
from web.ingesting import accept
from web.owners import current_owner, no_ingestion, own_ingestion
from web.preferences import idempotency_key, say_waited, wanted_wait_seconds
from web.representation import ingestion_json
from web.schemas import Ingestions
from web.services import services
from web.sources import read_source

blueprint = Blueprint("ingestions", __name__, url_prefix="/v1/ingestions")


@blueprint.post("")
def submit() -> Response:
    """Take a source: 202 with the ingestion, or 200 where a replay finds that it has ended."""
    settings, key = services().settings, idempotency_key()
    with read_source(settings) as (given, options):
        ingestion_id = accept(given, options.for_ingestion(settings), idempotency_key=key)
    response = _answer(_look(ingestion_id))
    response.headers["Location"] = f"/v1/ingestions/{ingestion_id}"
    return response


@blueprint.get("")
def list_() -> Response:
    """One's own ingestions, newest first."""
    filters = read_filters(IngestionFilters, request.args)
    with services().database.read() as connection:
        found, older = queries.page(
            connection,
            current_owner(),
            before=filters.cursor,
            limit=filters.limit,
            statuses=filters.status,
        )
    body: Ingestions = {
        "data": [ingestion_json(seen) for seen in found],
        "next_cursor": None if older is None else write_cursor(older),
    }
    response = jsonify(body)
    response.headers["Cache-Control"] = PRIVATE
    return response


@blueprint.get("/<uuid:ingestion_id>")
def show(ingestion_id: UUID) -> Response:
    """The ingestion as it is now; with `Prefer: wait=n`, as it is once it has ended, or n s later.

    Its `ETag` is over all of it: its counts are what a client polls for.
    """
    response = _await(ingestion_id)
    response.status_code = 200
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32], weak=True)
    response.make_conditional(request)
    return response


@blueprint.post("/<uuid:ingestion_id>/cancel")
def cancel(ingestion_id: UUID) -> Response:
    """End it; again for one that was cancelled before."""

    def end(connection: Connection) -> Seen:
        own_ingestion(connection, ingestion_id)  # somebody else's is not there
        transitions.cancel(connection, ingestion_id)
        return own_ingestion(connection, ingestion_id)

    seen = services().database.transact(end)
    if seen.row.status != "canceled":
        ended = seen.row.status.replace("_", " ")
        raise ProblemError("already_finished", f"The ingestion has already {ended}.")
    return _answer(seen)


@blueprint.post("/<uuid:ingestion_id>/retry")
def retry(ingestion_id: UUID) -> Response:
    """Begin what failed again: 202 with the ingestion, or 200 where there was nothing to retry."""
    own = services()
    _look(ingestion_id)  # somebody else's is not there
    retrying.retry(own.database, ingestion_id)
    seen = _look(ingestion_id)
    if not _has_ended(seen):
        own.bell.ring(seen.row.model, LANE)
        own.bell.ring_expander()
    return _answer(seen)


@blueprint.delete("/<uuid:ingestion_id>")
def delete(ingestion_id: UUID) -> Response:
    """Hide it, with its jobs and results; they are removed in the background."""
    owner = current_owner()

    def remove(connection: Connection) -> bool:
        return transitions.delete(connection, owner, ingestion_id)

    if not services().database.transact(remove):
        raise no_ingestion(ingestion_id)
    return Response(status=202)


def _look(ingestion_id: UUID) -> Seen:
    with services().database.read() as connection:
        return own_ingestion(connection, ingestion_id)


def _has_ended(seen: Seen) -> bool:
    return seen.row.status not in transitions.LIVE


def _await(ingestion_id: UUID) -> Response:
    """The ingestion, as soon as `Prefer` wants it answered."""
    own = services()
    seen = _look(ingestion_id)
    seconds = wanted_wait_seconds(own.settings.max_wait_seconds)
    waited = seconds is not None and (
        _has_ended(seen) or own.waiting.wait([ingestion_id], seconds, finished=queries.finished)
    )
    if waited and not _has_ended(seen):
        seen = _look(ingestion_id)
    response = _answer(seen)
    if seconds is not None and waited:
        say_waited(response, seconds)
    return response


def _answer(seen: Seen) -> Response:
    response = jsonify(ingestion_json(seen))
    response.status_code = 200 if _has_ended(seen) else 202
    response.headers["Cache-Control"] = PRIVATE
    if not _has_ended(seen):
        response.headers["Retry-After"] = str(POLL_SECONDS)
    return response
