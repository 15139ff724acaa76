"""Renewing the claims of this process while their loops live and keep to their limits."""

import threading
from collections.abc import Sequence

import structlog

from shared.database import Database
from shared.errors import Unavailable
from shared.jobs.claiming import renew
from shared.settings import Settings
from worker.watchdog import WatchedThread

_AWAY_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Leases(threading.Thread):
    """Renews every `renew_seconds`, until the process ends."""

    def __init__(
        self, database: Database, settings: Settings, watched: Sequence[WatchedThread]
    ) -> None:
        super().__init__(name="leases", daemon=True)
        self._database = database
        self._settings = settings
        self._watched = watched
        self.ended = threading.Event()

    def run(self) -> None:
        """Renew, pause, renew; a database that is away is asked again."""
        pause = self._settings.renew_seconds
        while not self.ended.wait(pause):
            tokens = [
                token
                for thread in self._watched
                if thread.is_alive()
                and thread.activity.overdue() is None
                # Read once: the loop clears it whenever its batch ends.
                and (token := thread.activity.token) is not None
            ]
            pause = self._settings.renew_seconds
            try:
                renew(self._database, tokens, lease_seconds=self._settings.lease_seconds)
            except Unavailable as error:
                log.warning("leases_not_renewed", error=str(error))
                # When it is back, others wait no longer for us than two renewals take.
                pause = min(pause, _AWAY_SECONDS)
