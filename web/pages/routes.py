"""The pages' addresses. Every one works as a plain form and link; scripts only save reloads."""

from pathlib import Path
from uuid import UUID

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask import Response as FlaskResponse
from sqlalchemy import Connection
from werkzeug.wrappers import Response

from shared.errors import ProblemError, Unavailable
from shared.images import NAMES
from shared.jobs import queries, transitions
from shared.jobs.intake import JobOptions
from shared.tables import LANES
from shared.uploads import read_image
from web import submission
from web.headers import PRIVATE
from web.owners import current_owner, own_job
from web.pages.form import Refusal, Submitted, refusal, submit_form
from web.pages.history import history
from web.pages.ingestions import ingestions
from web.pages.job_views import JobView, view_job
from web.pages.model_views import offer_quick, view_models
from web.pages.previews import previews
from web.pages.statistics import statistics
from web.pages.status import existing_jobs, view_status
from web.pages.words import counted, megabytes
from web.representation import queue_json
from web.services import services

_MOST_JOBS = 100
_STATUS_MS = 4000  # its figures are read at most every 2 s
_SAMPLES = Path(__file__).parent.parent / "static" / "samples"
_SAMPLES_MODEL = "digits"

pages = Blueprint("pages", __name__)
pages.register_blueprint(history)
pages.register_blueprint(ingestions)
pages.register_blueprint(previews)


@pages.after_request
def keep_private(response: FlaskResponse) -> FlaskResponse:
    """Pages are their owner's, too."""
    response.headers.setdefault("Cache-Control", PRIVATE)
    return response


@pages.get("/")
def index() -> Response:
    """The form, and the state of each model."""
    return _form_page(chosen=request.args.get("model"))


@pages.post("/")
def submit() -> Response:
    """The form's images become jobs; what is refused is told beside what was accepted.

    Many of them, a folder, an archive or a list become an ingestion.
    """
    submitted = submit_form(services().settings)
    if submitted.ingestion is not None:
        return redirect(url_for("pages.ingestions.show", ingestion_id=submitted.ingestion), 303)
    if not submitted.accepted:
        return _form_page(submitted)
    page = _jobs_url(submitted.accepted)
    if not submitted.refused:
        return redirect(page, 303)
    try:
        return _jobs_page(submitted.accepted, submitted.refused)
    except Unavailable:
        return redirect(page, 303)  # its address keeps what was accepted


@pages.post("/samples/<int:digit>")
def sample(digit: int) -> Response:
    """One of the sample pictures, for the model that reads digits."""
    settings = services().settings
    path = _SAMPLES / f"digit-{digit}.png"
    if not path.is_file():
        raise ProblemError("not_found", f"There is no sample {digit}.")
    try:
        image = read_image(path.read_bytes(), settings)
        job_id = submission.accept(image, path.name, JobOptions(model=_SAMPLES_MODEL))
    except ProblemError as problem:
        return _form_page(Submitted(settings.default_model, refused=[refusal("", problem)]))
    return redirect(url_for("pages.job", job_id=job_id), 303)


@pages.get("/jobs/<uuid:job_id>")
def job(job_id: UUID) -> str:
    """One job: the picture, and what became of it."""
    own = services()
    with own.database.read() as connection:
        row = own_job(connection, job_id)
        view = view_job(
            row,
            view_models(connection, default=own.settings.default_model),
            queries.serving_workers(connection),
            queue=queue_json(connection, row),
        )
    return render_template("job.html", job=view, refresh=view.page)


@pages.get("/jobs")
def several_jobs() -> Response:
    """The jobs of one form: `?id=…&id=…`."""
    try:
        ids = list(dict.fromkeys(UUID(given) for given in request.args.getlist("id")))
    except ValueError as error:
        raise ProblemError("invalid_value", "An id in this address is not a job’s id.") from error
    if not ids:
        return redirect(url_for("pages.index"), 303)
    if len(ids) > _MOST_JOBS:
        raise ProblemError("invalid_value", f"A page shows at most {_MOST_JOBS} jobs.")
    return _jobs_page(ids, [])


@pages.post("/jobs/<uuid:job_id>/cancel")
def cancel(job_id: UUID) -> Response:
    """Cancel a job; one that has ended meanwhile is shown as it ended."""

    def work(connection: Connection) -> None:
        own_job(connection, job_id)
        transitions.cancel(connection, job_id)

    services().database.transact(work)
    return redirect(url_for("pages.job", job_id=job_id), 303)


@pages.get("/status")
def status() -> str:
    """How the service is."""
    own, owner = services(), current_owner()
    now = statistics().snapshot()
    view = view_status(
        now,
        default=own.settings.default_model,
        owner=owner,
        existing=existing_jobs(own.database, owner, now.minutes),
    )
    return render_template(
        "status.html",
        status=view,
        lanes=LANES,
        refresh=url_for("pages.status"),
        refresh_ms=_STATUS_MS,
    )


def _form_page(submitted: Submitted | None = None, *, chosen: str | None = None) -> Response:
    own = services()
    settings = own.settings
    with own.database.read() as connection:
        models = view_models(connection, default=settings.default_model)
    if submitted is not None:
        chosen = submitted.model
    elif chosen not in {model.name for model in models}:
        chosen = None
    selected = chosen or settings.default_model
    ready = {model.name for model in models if model.state in ("ready", "loading", "waiting")}
    page = render_template(
        "index.html",
        models=models,
        panel=offer_quick(models, selected),
        selected=selected,
        samples=_SAMPLES_MODEL in ready,
        refused=submitted.refused if submitted else [],
        limits=f"{NAMES}, up to {megabytes(settings.max_image_bytes)} each. More than "
        f"{counted(settings.max_images_per_form, 'image', 'images')} become one ingestion.",
        most=settings.max_images_per_form,
        most_many=settings.max_images_per_upload,
        most_bytes=settings.max_source_bytes,
        refresh=url_for("pages.index", model=chosen),
    )
    response = make_response(page, submitted.status if submitted else 200)
    for each in submitted.refused if submitted else ():
        if each.retry_after_seconds is not None:
            response.headers["Retry-After"] = str(each.retry_after_seconds)
    return response


def _jobs_page(ids: list[UUID], refused: list[Refusal]) -> Response:
    own = services()
    with own.database.read() as connection:
        rows = queries.find_many(connection, current_owner(), ids)
        models = view_models(connection, default=own.settings.default_model)
        workers = queries.serving_workers(connection)
    views = [view_job(row, models, workers) for row in rows]
    if not views:
        raise ProblemError("not_found", "These jobs are no longer there.")
    done = sum(not view.pending for view in views)
    page = render_template(
        "jobs.html",
        jobs=views,
        headline=_progress(views, done),
        done=done,
        pending=done < len(views),
        missing=len(ids) - len(views),
        refused=refused,
        refresh=_jobs_url(ids),
    )
    return make_response(page)


def _progress(views: list[JobView], done: int) -> str:
    if done < len(views):
        return f"{done} of {counted(len(views), 'image', 'images')} done"
    return f"{counted(done, 'image', 'images')} done"


def _jobs_url(ids: list[UUID]) -> str:
    if len(ids) == 1:
        return url_for("pages.job", job_id=ids[0])
    return url_for("pages.several_jobs", id=[str(id_) for id_ in ids])
