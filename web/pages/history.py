"""`/history`: one's jobs as a grid of pictures, newest first; and their deletion."""

from typing import Any
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from sqlalchemy import Connection
from werkzeug.wrappers import Response

from shared.jobs import queries
from web.filters import Filters, read_filters, write_cursor
from web.listing import find_page
from web.owners import current_owner
from web.pages.job_views import BADGES, JobView, view_job
from web.pages.model_views import view_models
from web.pages.words import counted
from web.services import services

_PAGE_JOBS = 30  # fills rows of 2, 3, 5 and 6

history = Blueprint("history", __name__)


@history.get("/history")
def show() -> str:
    """The jobs that the filters let through, a page of them."""
    own, filters = services(), read_filters(Filters, request.args)
    with own.database.read() as connection:
        limit = filters.limit if "limit" in filters.model_fields_set else _PAGE_JOBS
        page = find_page(connection, filters, limit=limit)
        rows = queries.find_many(connection, current_owner(), page.ids)
        models = view_models(connection, default=own.settings.default_model)
        workers = queries.serving_workers(connection)
    jobs = [view_job(row, models, workers) for row in rows]
    return render_template(
        "history.html",
        jobs=jobs,
        announcement=_announce(jobs),
        filters=filters,
        told=_tell(filters),
        states=BADGES,
        models=_models([model.name for model in models], filters.model),
        here=_parameters(filters, filters.cursor),
        newest=_address(filters, None),
        older=None if page.after is None else _address(filters, page.after),
        refresh=_address(filters, filters.cursor),
    )


@history.post("/jobs/<uuid:job_id>/delete")
def delete(job_id: UUID) -> Response:
    """Delete a job, and go back to the page of the history that the address names."""
    filters, owner = read_filters(Filters, request.args), current_owner()

    def remove(connection: Connection) -> bool:
        return queries.delete_job(connection, owner, job_id)

    services().database.transact(remove)  # one that was gone already is gone as well
    return redirect(_address(filters, filters.cursor), 303)


def _announce(jobs: list[JobView]) -> str:
    """What a screen reader hears when the page has refreshed itself."""
    waiting = sum(job.pending for job in jobs)
    return f"{counted(waiting, 'job', 'jobs')} not done yet." if waiting else "All jobs are done."


def _tell(filters: Filters) -> list[str]:
    """The filters in words, one by one; but the ingestion, which the page leads to."""
    states = [BADGES[status].lower() for status in dict.fromkeys(filters.status)]
    named = ("model", "label", "reference")
    given = ((name, getattr(filters, name)) for name in named)
    return [
        *([" or ".join(states)] if states else []),
        *(f"{name} {value}" for name, value in given if value is not None),
    ]


def _models(names: list[str], chosen: str | None) -> list[str]:
    """What may be chosen from; an address may also name a version."""
    return names if chosen is None or chosen in names else [chosen, *names]


def _parameters(filters: Filters, cursor: UUID | None) -> dict[str, Any]:
    given = filters.model_dump(exclude_unset=True, exclude={"cursor"})
    return given | ({} if cursor is None else {"cursor": write_cursor(cursor)})


def _address(filters: Filters, cursor: UUID | None) -> str:
    """The page of these filters that begins there; only known names get into an address."""
    return url_for("pages.history.show", **_parameters(filters, cursor))
