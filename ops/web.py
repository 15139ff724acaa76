"""`classify web`: gunicorn in this process, threads for the requests."""

import os
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from shared.settings import Settings

_SHARED_MEMORY = Path("/dev/shm")
# Less than the supervisor's patience, so that gunicorn ends its processes itself.
_GRACEFUL_SECONDS = 25


class _QuietLogger(Logger):  # type: ignore[misc]
    """Gunicorn's own events, from warnings on, through the service's one log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True
        self.error_log.setLevel("WARNING")


class _Worker(ThreadWorker):  # type: ignore[misc]
    """A process of requests; told to stop, it lets the app answer those that only wait."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        on_stop = getattr(self.wsgi, "extensions", {}).get("on_stop")
        if on_stop is not None:
            on_stop()
        super().handle_exit(sig, frame)


class WebServer(BaseApplication):  # type: ignore[misc]
    """The Flask app behind gunicorn. It reads no configuration but the service's settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__(prog="classify web")

    def load_config(self) -> None:
        """See `BaseApplication`."""
        settings = self._settings
        values = {
            "bind": settings.bind,
            "workers": settings.web_processes,
            "worker_class": _Worker,
            "threads": settings.web_threads,
            "graceful_timeout": _GRACEFUL_SECONDS,
            "timeout": 60,  # of the heartbeat, not of a request: the cores may be busy with models
            "keepalive": 5,
            # A heartbeat file on a slow disk can block a process for seconds.
            "worker_tmp_dir": str(_SHARED_MEMORY) if os.access(_SHARED_MEMORY, os.W_OK) else None,
            "control_socket_disable": True,  # it would write into HOME
            "logger_class": _QuietLogger,
            "accesslog": None,
            "preload_app": False,  # a database connection must not be shared across a fork
            "proc_name": "classify-web",
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The WSGI application, made in each process of its own."""
        from web.app import create_app
        from web.services import EXTENSION

        app = create_app(self._settings)
        if self._settings.broker is not None:
            # The first ring connects, which takes most of a second: let it not be the first job's.
            app.extensions[EXTENSION].bell.ring(self._settings.default_model, "interactive")
        return app


def run_web(settings: Settings) -> int:
    """Serve until SIGTERM."""
    # Imported once, before the processes fork; each makes an app of its own.
    import web.app  # noqa: F401
    from shared.storage.opening import open_storage

    open_storage(settings)  # what can't be is said here, once, and not by each process

    try:
        WebServer(settings).run()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0
