"""A job in words: what its page, and its line among several, say in each state."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from shared.database import utc_now
from shared.errors import CODES
from shared.jobs.answers import Prediction
from web.pages.model_views import ModelView, absence
from web.pages.words import counted, duration, percent, time_of
from web.representation import job_json, serving_version
from web.schemas import Job, Queue

_ADVICE = {
    "image_unreadable": "The file is damaged, or not what its name says. Open it in an image "
    "program, save it as JPEG or PNG, and upload that.",
    "image_too_large": "Make the image smaller, and upload it again.",
    "image_missing": "Upload the image again.",
    "image_unreachable": "The service could not read its own storage. Once that is mended, upload "
    "the image again.",
    "worker_lost": "Open the image in an image program, save it as JPEG or PNG, and upload that. "
    "Other images are not affected.",
    "inference_failed": "Upload the image again. If it fails once more, the worker's log says why.",
    "model_unavailable": "Upload the image again, and choose a model that is ready.",
    "deadline_passed": "Upload the image again, with a later deadline or none.",
}
_AGAIN = "Upload the image again."
# What browsers show by themselves; anything else is rendered for them.
_SHOWN_BY_BROWSERS = frozenset(
    f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "bmp", "avif")
)
_CANNOT_BE_SHOWN = frozenset({"image_unreadable", "image_too_large", "image_missing"})

_FIRST = 5  # so many numbers of an embedding are shown

BADGES = {
    "queued": "Waiting",
    "running": "Running",
    "succeeded": "Done",
    "failed": "Failed",
    "canceled": "Canceled",
    "expired": "Expired",
}


@dataclass(frozen=True)
class Score:
    """One bar."""

    label: str
    value: float
    percent: str


@dataclass
class JobView:
    """What the templates show of a job.

    Attributes:
        tone: Colour of the badge.
        headline: The heading of its page.
        short: The same among several, where the picture's name stands beside it.
        pending: Whether it may still change.
        created_at, created: When it was handed in, for programs and for people.
        ingestion: The id of the one that it belongs to: it is deleted only with that.
        image: Where the picture is, in a form that browsers show; None where it can't be shown.
        thumbnail: The same, small.
        picture_note: What stands below, or instead of, the picture.
        numbers: The beginning of an embedding.
        facts: The small print, as (name, value).
    """

    id: str
    filename: str | None
    status: str
    tone: str
    badge: str
    headline: str
    json: str
    page: str
    created_at: str
    created: str
    ingestion: str | None = None
    image: str | None = None
    thumbnail: str | None = None
    picture_note: str = ""
    short: str = ""
    pending: bool = False
    sentences: tuple[str, ...] = ()
    advice: str = ""
    scores: list[Score] = field(default_factory=list)
    numbers: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    model_view: ModelView | None = None

    @property
    def title(self) -> str:
        """The page's title: what is new comes first, for it is cut short in a tab."""
        return self.short or self.headline


def view_job(
    row: Row[Any],
    models: Sequence[ModelView],
    workers: Sequence[Row[Any]],
    *,
    queue: Queue | None = None,
) -> JobView:
    """A row of `queries.job_rows` as its page shows it.

    Args:
        row: The job.
        models: Every model's state.
        workers: The live workers.
        queue: Where a queued job stands, if that was counted.
    """
    job = job_json(row, queue=queue)
    view = JobView(
        id=job["id"],
        filename=job["filename"],
        status=job["status"],
        tone="plain",
        badge=BADGES[job["status"]],
        headline=job["status"].capitalize(),
        json=job["links"]["self"],
        page=job["links"]["html"],
        created_at=job["created_at"],
        created=time_of(row.created_at, utc_now()),
        ingestion=job["ingestion"],
        facts=_facts(job),
        model_view=next((model for model in models if model.name == row.model), None),
    )
    _show_picture(view, row, job)
    if job["status"] == "queued":
        _tell_queued(view, row, queue, workers)
    elif job["status"] == "running":
        view.tone, view.pending = "busy", True
        view.headline = "Classifying the image…"
    elif job["status"] == "succeeded":
        _tell_succeeded(view, job)
    elif job["status"] == "failed":
        _tell_failed(view, job)
    elif job["status"] == "canceled":
        view.headline = "This job was canceled"
        view.sentences = ("The image was not classified.",)
    elif job["status"] == "expired":
        view.headline = "The deadline passed before the job’s turn came"
        view.advice = _ADVICE["deadline_passed"]
    return view


def _show_picture(view: JobView, row: Row[Any], job: Job) -> None:
    shown = job["image"]["media_type"] in _SHOWN_BY_BROWSERS
    if row.object is None:
        view.picture_note = "The image is no longer stored."
    elif row.error_code in _CANNOT_BE_SHOWN:
        view.picture_note = "The image cannot be shown."
    else:
        view.image = job["links"]["image"] if shown else f"{view.page}/preview"
        view.thumbnail = f"{view.page}/thumbnail"
        if job["image"]["animated"]:
            view.picture_note = "The file has several frames or pages. The model sees the first."


def _tell_queued(
    view: JobView, row: Row[Any], queue: Queue | None, workers: Sequence[Row[Any]]
) -> None:
    view.tone, view.pending = "wait", True
    model = view.model_view
    if row.not_before is not None:
        view.headline = "Waiting to read the image again"
        view.sentences = ("The storage could not be read just now. It is tried again by itself.",)
    elif row.version is None and model is not None and model.state == "downloading":
        view.headline = f"Waiting for {row.model} to be downloaded"
        view.sentences = ("The image is classified once the model has arrived.",)
    elif row.version is None and model is not None and model.state == "unavailable":
        view.headline = f"Waiting for {row.model} to be installed"
        view.sentences = model.sentences
        first, second = model.commands
        view.advice = f"Run `{first}` on a machine with network, or `{second}`."
    elif not serving_version(workers, row.model_version):
        view.headline = f"Waiting for a worker to load {row.model}"
        view.sentences = absence(workers, row.model)
    else:
        view.headline = "Waiting for its turn"
        if queue is not None:
            view.sentences = (_place(queue),)


def _place(queue: Queue) -> str:
    position, eta = queue["position"], queue["eta_seconds"]
    if position is None:
        return "More than 1,000 images are ahead of it."
    if position == 0:
        return "It is the next one."
    ahead = counted(position, "image is", "images are") + " ahead of it"
    return f"{ahead}." if eta is None else f"{ahead}: about {duration(eta * 1000)}."


def _tell_succeeded(view: JobView, job: Job) -> None:
    view.tone = "good"
    view.scores = _bars(job["predictions"] or ())
    if job["embedding"] is not None:
        view.short = counted(len(job["embedding"]), "number", "numbers")
        view.headline = f"{view.short} that describe the image"
        view.numbers = ", ".join(f"{number:.4g}" for number in job["embedding"][:_FIRST])
    elif view.scores:
        best = view.scores[0]
        view.short = f"{best.label} ({best.percent})"
        view.headline = f"The image you uploaded is a {view.short}"
    else:
        view.headline = "No label reaches the score that was asked for"
        view.sentences = (f"At least {percent(job['min_score'] or 0)} was asked for.",)


def _bars(predictions: Sequence[Prediction]) -> list[Score]:
    """Shares of one, where the scores are such; else numbers, and bars beside the best one's."""
    scores = [each["score"] for each in predictions]
    if all(0 <= score <= 1 for score in scores):
        return [Score(each["label"], each["score"], percent(each["score"])) for each in predictions]
    most = max(scores)
    return [
        Score(
            each["label"], max(0.0, each["score"] / most) if most > 0 else 0, f"{each['score']:.4g}"
        )
        for each in predictions
    ]


def _tell_failed(view: JobView, job: Job) -> None:
    view.tone = "bad"
    error = job["error"]
    if error is not None:
        view.headline = CODES[error["code"]].title
        view.sentences = (error["detail"],) if error["detail"] else ()
        view.advice = _ADVICE.get(error["code"], _AGAIN)


def _facts(job: Job) -> list[tuple[str, str]]:
    model = job["model"]
    facts = [
        ("Model", f"{model['name']}@{model['version']}" if model["version"] else model["name"])
    ]
    image = job["image"]
    kind = image["media_type"].removeprefix("image/").upper()
    facts.append(("Image", f"{kind}, {image['width']:,} × {image['height']:,} pixels"))
    if job["reused"]:
        facts.append(("Answer", "answered from an earlier result of the same image"))
    timings = job["timings"]
    if timings is not None:
        named = [
            ("In the queue", timings["queued_ms"]),
            ("Decoding", timings["decode_ms"]),
            ("Forward pass", timings["inference_ms"]),
            ("In total", timings["total_ms"]),
        ]
        facts += [(name, duration(value)) for name, value in named if value is not None]
    if job["delete_at"] is not None:
        kept_until = datetime.fromisoformat(job["delete_at"])
        facts.append(("Kept until", time_of(kept_until, utc_now())))
    return facts
