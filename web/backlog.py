"""How much may wait: beyond it a submit is refused, by the database's own count of what does."""

import time
from collections import Counter

from shared.database import Database
from shared.errors import ProblemError
from shared.jobs import depth, queries
from shared.settings import Settings
from web.kept import Kept

_SECONDS = 1.0
_REST = 20.0  # counting takes at most a twentieth of one's time
# A client that comes back when so much of the limit is worked off leaves no worker idle.
_SHARE = 0.25
_LEAST_SECONDS, _MOST_SECONDS = 1, 60
_UNKNOWN_SECONDS = 10  # no worker has said how fast it is


class Backlog:
    """The jobs that wait, those of ingestions aside, as this process knows them.

    They are counted once a second, and to the limits; in between this process adds what it accepts,
    and counts anew before it refuses. So a limit is passed by what is being accepted at the same
    moment, and by what the other processes accept within that second.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._most = settings.max_backlog
        self._most_of_owner = settings.max_queued_per_owner
        self._counted: Counter[tuple[str, str]] = Counter()
        self._good_until = float("-inf")
        self._anew = Kept(self._count, seconds=0, rest=_REST)

    def refusal(self, owner: str, lane: str) -> ProblemError | None:
        """Why another job of this owner has no room in the lane; None: it has.

        Raises:
            Unavailable: The database is away.
        """
        if not self._most and not self._most_of_owner:
            return None
        stale = time.monotonic() > self._good_until
        full = self._judge(self._anew.get() if stale else self._counted, owner, lane)
        if full is None:
            return None
        # Of what we have added some may have ended.
        return full if stale else self._judge(self._anew.get(), owner, lane)

    def _judge(
        self, counted: Counter[tuple[str, str]], owner: str, lane: str
    ) -> ProblemError | None:
        numbers = dict(counted)
        own = sum(number for (_, other), number in numbers.items() if other == owner)
        if self._most_of_owner and own >= self._most_of_owner:
            return ProblemError(
                "too_many_jobs",
                f"At most {self._most_of_owner:,} of your jobs may wait at a time. Try again when "
                "some have ended, or hand many images in as one ingestion.",
                retry_after_seconds=self._seconds_until_room(self._most_of_owner),
            )
        waiting = sum(number for (other, _), number in numbers.items() if other == lane)
        if self._most and waiting >= self._most:
            return ProblemError(
                "backlog_full",
                f"The service is full: at most {self._most:,} jobs may wait in this lane. Try "
                "again when some have ended.",
                retry_after_seconds=self._seconds_until_room(self._most),
            )
        return None

    def add(self, owner: str, lane: str) -> None:
        """A job was accepted, and waits."""
        self._counted[lane, owner] += 1

    def _count(self) -> Counter[tuple[str, str]]:
        with self._database.read() as connection:
            most = max(self._most, self._most_of_owner)
            self._counted = depth.count_by_owner(connection, most=most)
        self._good_until = time.monotonic() + _SECONDS
        return self._counted

    def _seconds_until_room(self, most: int) -> int:
        with self._database.read() as connection:
            workers = queries.serving_workers(connection)
        speed = sum(worker.images_per_second or 0 for worker in workers)
        if not speed:
            return _UNKNOWN_SECONDS
        seconds: float = min(max(most * _SHARE / speed, _LEAST_SECONDS), _MOST_SECONDS)
        return round(seconds)
