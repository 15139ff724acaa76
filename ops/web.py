"""`classify web`: gunicorn in this process, threads for the requests."""

import mmap
import os
import time
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from shared.memory import share_arena
from shared.settings import Settings

_SHARED_MEMORY = Path("/dev/shm")
# Less than the supervisor's patience, so that gunicorn ends its processes itself.
_GRACEFUL_SECONDS = 25
# Longer than load balancers keep theirs, which is usually a minute: of a connection that both ends
# may close, the one who sends must be the one who closes it, or a request meets a closed one.
_KEEP_ALIVE_SECONDS = 75
_LINGER_SECONDS = 2


class _QuietLogger(Logger):  # type: ignore[misc]
    """Gunicorn's own events, from warnings on, through the service's one log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True
        self.error_log.setLevel("WARNING")


class Leaving:
    """Whether the server is about to end: said by the master, seen by the processes it forks."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    def say(self) -> None:
        """From now on it is."""
        self._shared[0] = 1

    def __bool__(self) -> bool:
        return bool(self._shared[0])


class _Worker(ThreadWorker):  # type: ignore[misc]
    """A process of requests; told to stop, it lets the app answer those that only wait."""

    def handle_request(self, req: Any, conn: Any) -> Any:
        if self.app.leaving:
            self.max_keepalived = 0  # each answer says `Connection: close`
        return super().handle_request(req, conn)

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            self._close_sockets()

    def _close_sockets(self) -> None:
        """Serve whoever has connected already; who comes later is refused at once.

        Left open until the last answer is given, as gunicorn does, the socket would take requests
        in that nobody reads. A socket that somebody else holds too stays open there.
        """
        for listener in self.sockets:
            connections = -1
            while connections < self.nr_conns < self.worker_connections:
                connections = self.nr_conns
                self.accept(listener)  # returns with nothing when nobody waits
            listener.close()
        # Gunicorn does this for connections that are kept; one that never said anything may go too.
        soon = time.monotonic() + _LINGER_SECONDS
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, soon)

    def handle_exit(self, sig: int, frame: Any) -> None:
        on_stop = getattr(self.wsgi, "extensions", {}).get("on_stop")
        if on_stop is not None:
            on_stop()
        super().handle_exit(sig, frame)


class _Master(Arbiter):  # type: ignore[misc]
    """Told to stop, it first lets whoever balances the load see that it leaves, still serving."""

    _leaves_at: float | None = None

    def handle_term(self) -> None:
        if self._leaves_at is not None:  # asked twice
            super().handle_term()
        self.app.leaving.say()
        self._leaves_at = time.monotonic() + self.app.settings.drain_seconds

    def murder_workers(self) -> None:  # called in each round of its loop
        super().murder_workers()
        if self._leaves_at is not None and time.monotonic() >= self._leaves_at:
            super().handle_term()


class WebServer(BaseApplication):  # type: ignore[misc]
    """The Flask app behind gunicorn. It reads no configuration but the service's settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.leaving = Leaving()
        super().__init__(prog="classify web")

    def load_config(self) -> None:
        """See `BaseApplication`."""
        settings = self.settings
        values = {
            "bind": settings.bind,
            "workers": settings.web_processes,
            "worker_class": _Worker,
            "threads": settings.web_threads,
            "graceful_timeout": _GRACEFUL_SECONDS,
            "timeout": 60,  # of the heartbeat, not of a request: the cores may be busy with models
            "keepalive": _KEEP_ALIVE_SECONDS,
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

    def run(self) -> None:
        """Serve until it is told to stop."""
        _Master(self).run()

    def load(self) -> Any:
        """The WSGI application, made in each process of its own."""
        from web.app import create_app
        from web.services import EXTENSION

        app = create_app(self.settings, leaving=self.leaving.__bool__)
        if self.settings.broker is not None:
            # The first ring connects, which takes most of a second: let it not be the first job's.
            app.extensions[EXTENSION].bell.ring(self.settings.default_model, "interactive")
        return app


def run_web(settings: Settings) -> int:
    """Serve until SIGTERM."""
    share_arena()
    # Imported once, before the processes fork; each makes an app of its own.
    import web.app  # noqa: F401
    from shared.storage.opening import open_storage

    open_storage(settings)  # what can't be is said here, once, and not by each process

    try:
        WebServer(settings).run()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0
