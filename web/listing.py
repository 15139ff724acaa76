"""The lists of jobs: those that filters find, page by page, or those named by their ids."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Connection, Row

from shared.jobs import finding, queries
from shared.jobs.finding import Page, Wanted
from shared.tables import STATUSES, TERMINAL
from web.filters import Filters, read_filters, write_cursor
from web.headers import POLL_SECONDS, PRIVATE
from web.owners import current_owner
from web.preferences import say_waited, wanted_wait_seconds
from web.representation import job_json
from web.schemas import Jobs
from web.services import services
from web.values import invalid

_MOST_IDS = 100
_MOST_LOOKS = 10

blueprint = Blueprint("listing", __name__, url_prefix="/v1/jobs")


@blueprint.get("")
def list_jobs() -> Response:
    """One's own jobs, newest first; with `?id=…&id=…` those jobs, in the order of their ids."""
    if "id" in request.args:
        return _several()
    filters = read_filters(Filters, request.args)
    with services().database.read() as connection:
        page = find_page(connection, filters, limit=filters.limit)
        rows = queries.find_many(connection, current_owner(), page.ids)
    return _answer(rows, page.after)


def find_page(connection: Connection, filters: Filters, *, limit: int) -> Page:
    """The jobs of the current owner that the filters let through.

    An empty page that says where to look on is rare: so much lies between the jobs that are
    wanted and the place from which they were looked for.

    Raises:
        ProblemError: `model_unknown`.
    """
    model = filters.model
    wanted = Wanted(
        statuses=frozenset(filters.status or STATUSES),
        versions=None if model is None else finding.versions_named(connection, model),
        label=filters.label,
        reference=filters.reference,
        ingestion=filters.ingestion,
    )
    page = Page([], filters.cursor)
    for _ in range(_MOST_LOOKS):
        page = finding.find(connection, current_owner(), wanted, before=page.after, limit=limit)
        if page.ids or page.after is None:
            break
    return page


def _several() -> Response:
    """Many jobs in one poll; with `Prefer: wait=n`, once all have ended, or n s later."""
    ids = _read_ids()
    own, owner = services(), current_owner()

    def look() -> list[Row[Any]]:
        with own.database.read() as connection:
            return queries.find_many(connection, owner, ids)

    rows = look()
    seconds, waited = wanted_wait_seconds(own.settings.max_wait_seconds), False
    if seconds is not None:
        waiting = [row.id for row in rows if row.status not in TERMINAL]
        waited = not waiting or own.waiting.wait(waiting, seconds)
        if waiting and waited:
            rows = look()
    response = _answer(rows, None)
    if seconds is not None and waited:
        say_waited(response, seconds)
    if any(row.status not in TERMINAL for row in rows):
        response.headers["Retry-After"] = str(POLL_SECONDS)
    return response


def _read_ids() -> list[UUID]:
    others = sorted(set(request.args) - {"id"})
    if others:
        raise invalid(others[0], "ids stand alone: they take no filter, cursor or limit")
    given = request.args.getlist("id")
    if len(given) > _MOST_IDS:
        raise invalid("id", f"at most {_MOST_IDS} ids are taken, not {len(given)}")
    try:
        return list(dict.fromkeys(UUID(text) for text in given))
    except ValueError as error:
        raise invalid("id", "one of these is not a job's id") from error


def _answer(rows: list[Row[Any]], after: UUID | None) -> Response:
    body: Jobs = {
        "data": [job_json(row) for row in rows],
        "next_cursor": None if after is None else write_cursor(after),
    }
    response = jsonify(body)
    response.headers["Cache-Control"] = PRIVATE
    return response
