"""All expanders of one process, and the thread that holds their leases."""

import threading
import time
from collections.abc import Callable
from uuid import NAMESPACE_OID, uuid5

import structlog

from shared.database import Database
from shared.errors import Unavailable
from shared.ingestions import expansion as expanding
from shared.settings import Settings
from shared.storage.protocol import Storage
from worker.expander import Expander
from worker.identity import Identity
from worker.watchdog import end_process

log = structlog.get_logger(__name__)


class Expanders:
    """The expanders of this process.

    Their tokens come from the process's slot on this machine, which is held by a lock: so whoever
    holds it knows that its predecessors have ended, and goes on at once where they were.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        settings: Settings,
        slot: Identity,
        *,
        woken: threading.Event,
        stopping: threading.Event,
        may_take_from_others: Callable[[], bool],
        ring: Callable[[str, str], None],
    ) -> None:
        self._database = database
        self._settings = settings
        self._stopping = stopping
        self._expanders = [
            Expander(
                uuid5(NAMESPACE_OID, f"{slot.slot}/{number}"),
                database,
                storage,
                settings,
                woken=woken,
                stopping=stopping,
                may_take_from_others=may_take_from_others,
                ring=ring,
            )
            for number in range(settings.expanders)
        ]

    def threads(self) -> list[threading.Thread]:
        """The first of them starts the others, once their predecessors' claims are over."""
        return [threading.Thread(target=self._lead, name="expanders", daemon=True)]

    def let_go(self) -> None:
        """Give back what the expanders still hold: the process ends in order, which is no lapse."""
        tokens = [expander.token for expander in self._expanders]
        try:
            number = expanding.end_claims(self._database, tokens, lapse=False)
        except Unavailable as error:
            log.warning("ingestions_not_given_back", reason=str(error))
        else:
            log.info("ingestions_given_back", number=number)

    def _lead(self) -> None:
        while not self._stopping.is_set():
            try:
                ended = expanding.end_claims(self._database, [e.token for e in self._expanders])
                break
            except Unavailable as error:
                log.warning("expanders_wait", reason=str(error))
                self._stopping.wait(self._settings.recovery_seconds)
        else:
            return
        log.info("expanders_start", number=len(self._expanders), taken_over=ended)
        for expander in self._expanders:
            expander.start()
        while not self._stopping.wait(self._settings.renew_seconds):
            self._renew()
        for expander in self._expanders:
            expander.join()

    def _renew(self) -> None:
        """Hold the claims of those that get on; a process in which one hangs is ended."""
        now = time.monotonic()
        busy = [expander for expander in self._expanders if expander.busy_since is not None]
        for expander in busy:
            idle = now - (expander.busy_since or now)
            if idle > self._settings.expander_limit_seconds:
                end_process(f"{expander.name} has not gone on for {idle:.0f} s")
        try:
            expanding.renew(
                self._database,
                [expander.token for expander in busy],
                lease_seconds=self._settings.lease_seconds,
            )
        except Unavailable as error:
            log.warning("leases_not_renewed", error=str(error))
