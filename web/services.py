"""What a request works with, made once a process by the app factory."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import current_app

from shared.bell import Bell
from shared.database import Database
from shared.settings import Settings
from shared.storage.protocol import Storage
from web.backlog import Backlog
from web.renderer import Renderer
from web.waiting import Waiting

EXTENSION = "classifier"
ON_STOP = "on_stop"  # what the server calls when it is told to end


@dataclass(frozen=True)
class Services:
    """The parts that a process of the web server shares among its requests."""

    settings: Settings
    database: Database
    storage: Storage
    bell: Bell
    backlog: Backlog
    waiting: Waiting
    renderer: Renderer
    leaving: Callable[[], bool]


def services() -> Services:
    """The services of the app that handles the current request."""
    found: Services = current_app.extensions[EXTENSION]
    return found
