"""The state of each model in words: on the form, and on the page of a job that waits for one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row

from shared import models
from shared.jobs import queries
from web.pages.words import counted, megabytes
from web.representation import model_json
from web.schemas import Model

QUICK = "mobilenet_v2"
# Sizes and accuracies: keras.io/api/applications.
_QUICK_IS = "The quick one: 14 MB to download, and about as accurate."


@dataclass(frozen=True)
class ModelView:
    """What the templates show of a model.

    Attributes:
        state: `ready`, `loading` (installed, but no worker serves it now), `downloading` or
            `unavailable`.
        tone: Colour of the badge.
        option: Its line in the list of models.
        pending: Whether it may become ready without anybody's doing on this page.
        percent: Of its download, or None while the total is unknown.
        commands: What mends it, to be copied.
        offered: Whether it is offered instead of one that is not there.
    """

    name: str
    state: str
    tone: str
    badge: str
    option: str
    sentences: tuple[str, ...]
    pending: bool = True
    percent: int | None = None
    progress: str = ""
    commands: tuple[str, ...] = ()
    offered: bool = False

    @property
    def announcement(self) -> str:
        """What a screen reader hears when it changes: the state, not every megabyte."""
        return f"{self.name}: {self.badge}."


def view_models(connection: Connection, *, default: str) -> list[ModelView]:
    """Every known model, the default first."""
    workers = queries.serving_workers(connection)
    views = []
    for row in models.states(connection):
        versions = models.versions_of(connection, row.name)
        views.append(_view(model_json(row, versions, workers, default=default), workers))
    return sorted(views, key=lambda view: (view.name != default, view.name))


def offer_quick(views: Sequence[ModelView], selected: str) -> list[ModelView]:
    """The views, and right after the selected model the quick one, if that is there sooner.

    It is an offer: who wants it chooses it.
    """
    wanted = next((view for view in views if view.name == selected), None)
    if wanted is None or wanted.name == QUICK or wanted.state not in ("downloading", "unavailable"):
        return list(views)
    quick = next((view for view in views if view.name == QUICK), None)
    if quick is None:
        quick = ModelView(
            QUICK,
            state="unavailable",
            tone="bad",
            badge="Not installed",
            option="",
            sentences=(),
            pending=False,
            commands=(f"classify models pull {QUICK}",),
        )
    quick = replace(
        quick,
        sentences=(_QUICK_IS, *quick.sentences),
        offered=quick.state in ("ready", "loading"),
    )
    others = [view for view in views if view.name != QUICK]
    at = others.index(wanted) + 1
    return [*others[:at], quick, *others[at:]]


def _view(model: Model, workers: Sequence[Row[Any]]) -> ModelView:
    if model["state"] == "downloading":
        return _downloading(model)
    if model["state"] == "unavailable":
        return _unavailable(model)
    name = model["name"]
    version = f"Version {model['current']}"
    if model["workers"]:
        return ModelView(
            name,
            state="ready",
            tone="good",
            badge="Ready",
            option=name,
            sentences=(f"{version}, served by {counted(model['workers'], 'worker', 'workers')}.",),
            pending=False,
        )
    trouble = _troubles(workers, name)
    state, tone, badge = "loading", "busy", "Loading"
    if not workers:
        state, tone, badge = "waiting", "wait", "No worker"
    elif trouble:
        state, tone, badge = "waiting", "bad", "Not loaded"
    return ModelView(
        name,
        state=state,
        tone=tone,
        badge=badge,
        option=f"{name} ({badge.lower()})",
        sentences=(f"{version} is installed.", *absence(workers, name)),
    )


def absence(workers: Sequence[Row[Any]], name: str) -> tuple[str, ...]:
    """Why no worker serves a model that is installed, and what that means for an image."""
    if not workers:
        return ("No worker is running. Images are kept, and classified as soon as one starts.",)
    trouble = _troubles(workers, name)
    if trouble:
        return (*trouble, "Images are kept until it is loaded.")
    return ("A worker has yet to load it; images wait until then.",)


def _troubles(workers: Sequence[Row[Any]], name: str) -> tuple[str, ...]:
    """What keeps workers from serving this model, each said once; it names `model@version`."""
    told = (worker.trouble for worker in workers if worker.trouble)
    return tuple(dict.fromkeys(trouble for trouble in told if f"{name}@" in trouble))


def _downloading(model: Model) -> ModelView:
    name, progress = model["name"], model["progress"]
    done = 0 if progress is None else progress["bytes"]
    total = None if progress is None else progress["total_bytes"]
    percent = None if not total else min(100, done * 100 // total)
    told = f"{megabytes(done)} so far"
    if total:
        told = f"{megabytes(done)} of {megabytes(total)} ({percent} %)"
    return ModelView(
        name,
        state="downloading",
        tone="busy",
        badge="Downloading",
        option=f"{name} (downloading)",
        sentences=("You can send images now: they are classified once it has arrived.",),
        percent=percent,
        progress=told,
    )


def _unavailable(model: Model) -> ModelView:
    name, why = model["name"], model["reason"] or ""
    return ModelView(
        name,
        state="unavailable",
        tone="bad",
        badge="Not installed",
        option=f"{name} (not installed)",
        sentences=(why[:1].upper() + why[1:],),
        commands=(f"classify models pull {name}", f"classify models import {name} FILE"),
    )
