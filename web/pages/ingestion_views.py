"""An ingestion in words: what its page, and its line in the list, say in each state."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from shared.database import utc_now
from shared.errors import CODES
from shared.ingestions.queries import Seen
from shared.ingestions.retrying import GOES_ON, REFETCHED_KINDS
from shared.ingestions.transitions import LIVE, RETRYABLE
from web.pages.model_views import ModelView
from web.pages.words import about, age, counted, share, time_of
from web.representation import ingestion_json
from web.schemas import Ingestion

BADGES = {
    "queued": "Waiting",
    "running": "Running",
    "succeeded": "Done",
    "partially_succeeded": "Done with failures",
    "failed": "Failed",
    "canceled": "Canceled",
}
_TONES = {
    "queued": "wait",
    "running": "busy",
    "succeeded": "good",
    "partially_succeeded": "wait",
    "failed": "bad",
    "canceled": "plain",
}
_KINDS = {"archive": "Archive", "directory": "Directory", "bucket": "Bucket", "list": "List"}
_ADVICE = {
    "source_damaged": "Hand in a sound copy.",
    "source_too_large": "Hand in the rest by itself.",
    "source_missing": "Look whether the source is still there, and hand it in again.",
    "source_unreachable": "Hand it in again once the source can be reached.",
    "source_refused": "The operator can allow it; the settings say how.",
    "unsupported_source": "Hand in a zip, tar, tar.gz or tar.zst, or a list as text, CSV or JSONL.",
    "expander_lost": "Hand in the rest as another archive.",
    "too_many_failures": "Look at the first failures, and hand it in again once they are mended.",
}


@dataclass
class IngestionView:
    """What the templates show of an ingestion.

    Attributes:
        name: Of its source, as people know it.
        tone: Colour of the badge.
        created_at, created: When it was handed in, for programs and for people.
        headline: The heading of its page.
        announcement: What a screen reader hears when it changes: steps, not every image.
        done, total: Of the bar; `total` is what is known so far.
        line: How far it is, beside its name in the list.
        live: Whether it may be canceled.
        pending: Whether anything of it may still change.
        retriable: Whether a retry is offered.
        warning: What is wrong with the source, where the rest goes on.
        output: Of the result files.
        figures: What is counted, as (name, value, remark).
        facts: The small print, as (name, value).
    """

    id: str
    name: str
    status: str
    tone: str
    badge: str
    json: str
    page: str
    results: str
    created_at: str
    created: str
    model: str
    done: int
    total: int
    failed: int
    live: bool
    pending: bool
    headline: str = ""
    announcement: str = ""
    line: str = ""
    retriable: bool = False
    sentences: list[str] = field(default_factory=list)
    warning: str = ""
    advice: str = ""
    output: list[str] = field(default_factory=list)
    output_error: str = ""
    figures: list[tuple[str, str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The page's title: what is new comes first, for it is cut short in a tab."""
        return f"{share(self.done, self.total)}, {self.name}" if self.live else self.name


def view_ingestion(seen: Seen, models: Sequence[ModelView] = ()) -> IngestionView:
    """An ingestion as its page shows it.

    Args:
        seen: The ingestion.
        models: Every model's state, where it may be waiting for one.
    """
    row, ingestion = seen.row, ingestion_json(seen)
    counts, model, status = ingestion["counts"], ingestion["model"], ingestion["status"]
    live, settled = status in LIVE, row.settled_at is not None
    view = IngestionView(
        id=ingestion["id"],
        name=ingestion["source"]["name"] or _KINDS[ingestion["source"]["kind"]],
        status=status,
        tone=_TONES[status],
        badge=BADGES[status],
        json=ingestion["links"]["self"],
        page=ingestion["links"]["html"],
        results=ingestion["links"]["results"],
        created_at=ingestion["created_at"],
        created=time_of(row.created_at, utc_now()),
        model=f"{model['name']}@{model['version']}" if model["version"] else model["name"],
        done=counts["total"] - counts["pending"] - counts["canceled"],
        total=counts["total"],
        failed=counts["failed"] + counts["expired"],
        live=live,
        # In its final state, too: jobs may have to end yet, and result files to be written.
        pending=live or not settled or _writes(ingestion),
        figures=_figures(ingestion),
        facts=_facts(row, ingestion),
    )
    if status == "queued":
        _tell_queued(view, row, models)
    elif status == "running":
        _tell_running(view, row, ingestion)
    elif status == "canceled":
        view.headline = "This ingestion was canceled"
        _tell_kept(view)
    else:
        _tell_ended(view, ingestion)
    if not live and not settled:
        view.sentences.append("What is not done yet is being canceled.")
    view.retriable = status in RETRYABLE and settled and _has_failed(row, ingestion)
    view.announcement = view.announcement or f"{view.headline}."
    view.line = _line(view, row)
    _tell_output(view, ingestion)
    return view


def _tell_queued(view: IngestionView, row: Row[Any], models: Sequence[ModelView]) -> None:
    state = next((model.state for model in models if model.name == row.model), None)
    if row.not_before is not None:
        view.headline = "Waiting for the source"
        view.sentences = ["It could not be read just now, and is tried again by itself."]
    elif not row.pinned and state == "downloading":
        view.headline = f"Waiting for {row.model} to be downloaded"
        view.sentences = ["The images are classified once the model has arrived."]
    else:
        view.headline = "Waiting for its turn"
        view.sentences = ["A background worker reads the source. This page can be left meanwhile."]


def _tell_running(view: IngestionView, row: Row[Any], ingestion: Ingestion) -> None:
    eta = ingestion["eta_seconds"]
    view.headline = f"{view.done:,} of {counted(view.total, 'image', 'images')} done"
    view.announcement = f"{share(view.done, view.total, step=10)} done."
    if row.expanded_at is None:
        view.headline = f"{counted(view.done, 'image', 'images')} done"
        view.announcement = "The source is being read."
        view.sentences = [f"The source is being read: {view.total:,} so far."]
        if row.not_before is not None:
            view.sentences.append("It could not be read just now, and is tried again by itself.")
    elif eta is not None:
        view.sentences = [f"About {age(eta)} left."]
    _warn(view, ingestion)


def _tell_ended(view: IngestionView, ingestion: Ingestion) -> None:
    """By itself: worked off, or stopped."""
    error, succeeded = ingestion["error"], ingestion["counts"]["succeeded"]
    if view.status == "failed" and error is not None:
        view.headline = CODES[error["code"]].title
        if error["code"] == "too_many_failures":
            view.headline = "Stopped, because too many images failed"
        view.sentences = [error["detail"]] if error["detail"] else []
        _tell_kept(view)
        view.advice = _ADVICE.get(error["code"], "")
        return
    if view.status == "failed":
        view.headline = "No image could be classified"
    elif not view.total:
        view.headline = "There was nothing to classify"
        view.sentences = ["The source has no images."]
    elif succeeded == view.total:
        view.headline = f"{counted(view.total, 'image', 'images')} classified"
    else:
        view.headline = f"{succeeded:,} of {counted(view.total, 'image', 'images')} classified"
    _warn(view, ingestion)


def _tell_kept(view: IngestionView) -> None:
    if view.total:
        images = counted(view.total, "image", "images")
        view.sentences.append(f"{view.done:,} of {images} had been done, and their results stay.")


def _warn(view: IngestionView, ingestion: Ingestion) -> None:
    """Of a source that could not be read to its end."""
    error = ingestion["error"]
    if error is not None:
        title, detail = CODES[error["code"]].title, error["detail"] or ""
        view.warning = f"{title}. {detail} What came before was kept.".replace("  ", " ")
        view.advice = _ADVICE.get(error["code"], "")


def _line(view: IngestionView, row: Row[Any]) -> str:
    if view.status == "queued" and not view.total:
        return "Not read yet"
    images = counted(view.total, "image", "images")
    so_far = " so far" if view.live and row.expanded_at is None else ""
    line = f"{view.done:,} of {images}{so_far}" if view.done < view.total else images + so_far
    return f"{line}, {view.failed:,} failed" if view.failed else line


def _has_failed(row: Row[Any], ingestion: Ingestion) -> bool:
    """Whether a retry would find anything: what is no image stays none."""
    counts = ingestion["counts"]
    return (
        counts["failed"] - counts["not_images"] + counts["expired"] > 0
        or (counts["not_images"] > 0 and row.source_kind in REFETCHED_KINDS)
        or row.error_code in GOES_ON
    )


def _writes(ingestion: Ingestion) -> bool:
    output = ingestion["output"]
    return output is not None and output["written_at"] is None


def _tell_output(view: IngestionView, ingestion: Ingestion) -> None:
    output = ingestion["output"]
    if output is None:
        return
    files = counted(output["parts"], "part", "parts")
    view.output = [
        f"{files} written to {output['url']}, and the manifest."
        if output["written_at"]
        else f"{files} written to {output['url']} so far."
    ]
    if output["error"] is not None:
        view.output_error = output["error"]


def _figures(ingestion: Ingestion) -> list[tuple[str, str, str]]:
    counts, rate = ingestion["counts"], ingestion["images_per_second"]
    no_images = counts["not_images"]
    figures = [("Classified", f"{counts['succeeded']:,}", "")]
    figures.append(
        ("Failed", f"{counts['failed']:,}", f"{no_images:,} had no image" if no_images else "")
    )
    others = (
        ("Waiting", counts["pending"]),
        ("Canceled", counts["canceled"]),
        ("Expired", counts["expired"]),
    )
    figures += [(name, f"{count:,}", "") for name, count in others if count]
    if rate is not None:
        figures.append(("Speed", about(rate), "images a second"))
    return figures


def _facts(row: Row[Any], ingestion: Ingestion) -> list[tuple[str, str]]:
    now, model, source = utc_now(), ingestion["model"], ingestion["source"]
    facts = [
        ("Model", f"{model['name']}@{model['version']}" if model["version"] else model["name"]),
        (_KINDS[source["kind"]], source["name"] or ""),
        ("Reference", ingestion["reference"] or ""),
        ("Handed in", time_of(row.created_at, now)),
    ]
    if row.finished_at is not None:
        facts.append(("Ended", time_of(row.finished_at, now)))
        if row.started_at is not None:
            facts.append(("Took", age((row.finished_at - row.started_at).total_seconds())))
    elif row.deadline_at is not None:
        facts.append(("Deadline", time_of(row.deadline_at, now)))
    if ingestion["delete_at"] is not None:
        kept_until = datetime.fromisoformat(ingestion["delete_at"])
        facts.append(("Kept until", time_of(kept_until, now)))
    if ingestion["max_failures"] is not None:
        facts.append(("Stops after", counted(ingestion["max_failures"], "failure", "failures")))
    return [(name, value) for name, value in facts if value]
