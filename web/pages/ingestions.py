"""`/ingestions`: those handed in, newest first, and each by itself, as it is worked off."""

from dataclasses import dataclass
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from sqlalchemy import Connection
from werkzeug.wrappers import Response

from shared.errors import CODES, ProblemError
from shared.ingestions import highlights, retrying, transitions
from shared.ingestions import queries as ingestion_queries
from shared.ingestions.highlights import FailedItem
from shared.jobs import queries
from web.filters import read_cursor, write_cursor
from web.owners import current_owner, own_ingestion
from web.pages.ingestion_views import view_ingestion
from web.pages.job_views import view_job
from web.pages.model_views import view_models
from web.services import services
from web.values import invalid

_PAGE_INGESTIONS = 20
_FAILURES = 10
_LATEST = 10  # fills rows of 2 and 5
_REFRESH_MS = 1500

ingestions = Blueprint("ingestions", __name__, url_prefix="/ingestions")


@dataclass(frozen=True)
class FailureView:
    """An item that failed: its name, why, and where its job is, if it has one."""

    name: str
    reason: str
    page: str | None


@ingestions.get("")
def list_() -> str:
    """One's ingestions, a page of them."""
    cursor = _read_cursor()
    with services().database.read() as connection:
        found, older = ingestion_queries.page(
            connection, current_owner(), before=cursor, limit=_PAGE_INGESTIONS
        )
    views = [view_ingestion(seen) for seen in found]
    return render_template(
        "ingestions.html",
        ingestions=views,
        cursor=cursor,
        older=None if older is None else _address(older),
        refresh=_address(cursor),
        refresh_ms=_REFRESH_MS,
    )


@ingestions.get("/<uuid:ingestion_id>")
def show(ingestion_id: UUID) -> str:
    """One ingestion: how far it is, what failed first, and what was done last."""
    own, owner = services(), current_owner()
    with own.database.read() as connection:
        seen = own_ingestion(connection, ingestion_id)
        models = view_models(connection, default=own.settings.default_model)
        failed = highlights.first_failures(connection, ingestion_id, _FAILURES)
        latest = highlights.latest_finished(connection, ingestion_id, _LATEST)
        jobs = queries.find_many(connection, owner, latest)
    view = view_ingestion(seen, models)
    return render_template(
        "ingestion.html",
        ingestion=view,
        failures=[_view_failure(item) for item in failed],
        jobs=[view_job(job, models, ()) for job in jobs],
        refresh=view.page,
        refresh_ms=_REFRESH_MS,
    )


@ingestions.post("/<uuid:ingestion_id>/cancel")
def cancel(ingestion_id: UUID) -> Response:
    """Cancel it; one that has ended meanwhile is shown as it ended."""

    def work(connection: Connection) -> None:
        own_ingestion(connection, ingestion_id)
        transitions.cancel(connection, ingestion_id)

    services().database.transact(work)
    return redirect(url_for(".show", ingestion_id=ingestion_id), 303)


@ingestions.post("/<uuid:ingestion_id>/retry")
def retry(ingestion_id: UUID) -> Response:
    """Take up again what failed; one that runs again already is shown as it runs."""
    own = services()
    with own.database.read() as connection:
        own_ingestion(connection, ingestion_id)
    try:
        retrying.retry(own.database, ingestion_id)
    except ProblemError as problem:
        if problem.code != "not_finished":
            raise
    return redirect(url_for(".show", ingestion_id=ingestion_id), 303)


@ingestions.post("/<uuid:ingestion_id>/delete")
def delete(ingestion_id: UUID) -> Response:
    """Delete it with its jobs, and go back to the list."""
    owner = current_owner()

    def remove(connection: Connection) -> bool:
        return transitions.delete(connection, owner, ingestion_id)

    services().database.transact(remove)  # one that was gone already is gone as well
    return redirect(url_for(".list_"), 303)


def _address(cursor: UUID | None) -> str:
    return url_for(".list_", cursor=None if cursor is None else write_cursor(cursor))


def _read_cursor() -> UUID | None:
    given = request.args.get("cursor")
    try:
        return read_cursor(given) if given else None
    except ValueError as error:
        raise invalid("cursor", str(error)) from error


def _view_failure(item: FailedItem) -> FailureView:
    known = CODES.get(item.error_code or "")
    title = "It failed." if known is None else f"{known.title}."
    return FailureView(
        item.name,
        item.error_detail or title,
        None if item.job is None else url_for("pages.job", job_id=item.job),
    )
