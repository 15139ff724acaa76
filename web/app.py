"""The app factory: settings in, a Flask app out."""

from collections.abc import Callable

from flask import Flask

from shared.bell import Bell
from shared.database import Database
from shared.logging import configure_logging
from shared.queue import make_celery
from shared.settings import Settings, load_settings
from shared.storage.opening import open_storage
from web import (
    headers,
    health,
    ingestions,
    jobs,
    listing,
    models,
    openapi,
    pages,
    problems,
    results,
)
from web.backlog import Backlog
from web.renderer import Renderer
from web.services import EXTENSION, ON_STOP, Services
from web.waiting import Waiting

_FORM_ROOM_BYTES = 64 * 1024  # the fields and boundaries around an image
_FORM_MEMORY_BYTES = 512 * 1024
_FORM_FIELDS = 20  # the options of a job, and some more
_THREADS_LEFT = 2  # for other requests, while pictures are rendered
_BROKER_SECONDS = 2.0  # only the bell's thread waits for the broker, and not for long


def create_app(
    settings: Settings | None = None, *, leaving: Callable[[], bool] = lambda: False
) -> Flask:
    """Make the app; without settings this is the edge of a process, and they are read.

    Args:
        settings: Those of the service.
        leaving: Whether the server is about to end, so that no new work should come to it.
    """
    if settings is None:
        settings = load_settings()
        configure_logging(settings, role="web")
    app = Flask("web")
    app.config.update(
        # JSON carries an image as base64, four characters for three bytes.
        MAX_CONTENT_LENGTH=settings.max_image_bytes * 4 // 3 + _FORM_ROOM_BYTES,
        # Werkzeug counts what it has read ahead of a file too, 64 KiB at a time: a limit below some
        # multiples of that refuses large images at random.
        MAX_FORM_MEMORY_SIZE=_FORM_MEMORY_BYTES,
        MAX_FORM_PARTS=settings.max_images_per_form + _FORM_FIELDS,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the order of design is for readers
    own = _make_services(settings, leaving)
    app.extensions[EXTENSION] = own
    app.extensions[ON_STOP] = own.waiting.stop
    headers.register(app)
    problems.register(app)
    for blueprint in (
        jobs.blueprint,
        listing.blueprint,
        ingestions.blueprint,
        results.blueprint,
        models.blueprint,
        health.blueprint,
        openapi.blueprint,
    ):
        app.register_blueprint(blueprint)
    pages.register(app)
    return app


def _make_services(settings: Settings, leaving: Callable[[], bool]) -> Services:
    # A connection for each thread that serves, one for the thread that waits.
    database = Database(
        settings.database,
        pool_size=settings.web_threads + 1,
        timeout_seconds=settings.database_timeout_seconds,
    )
    celery = make_celery(settings.broker, socket_timeout_seconds=_BROKER_SECONDS)
    return Services(
        settings=settings,
        database=database,
        storage=open_storage(settings),
        bell=Bell(celery),
        backlog=Backlog(database, settings),
        leaving=leaving,
        waiting=Waiting(database, most=settings.web_threads // 2),
        renderer=Renderer(
            max_pixels=settings.max_image_pixels,
            most_threads=max(1, settings.web_threads - _THREADS_LEFT),
        ),
    )
