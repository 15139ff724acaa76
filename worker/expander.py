"""Expanders: resident threads of the background worker that turn sources into items and jobs.

Each has a bell to wake it, takes one ingestion at a time, and makes room for another one after a
while. Everything it has done is in the steps that it committed: it may end at any point.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from shared.database import Database
from shared.errors import Unavailable
from shared.ingestions import expansion as expanding
from shared.ingestions.birth import LANE, ImageVanished
from shared.ingestions.expansion import Expansion, Lost, NewItem
from shared.memory import give_back_freed
from shared.settings import Settings
from shared.storage.protocol import Storage
from worker.sources.opening import forget_file, open_again, open_source
from worker.sources.protocol import Entry, EntryError, Refetching, SourceEnded
from worker.taking_in import TakingIn

_CAREFUL_ITEMS = 10  # of a step after a lapse: what ends the process is found more exactly
_STEP_SECONDS = 2.0  # what a kill may cost
_AGAIN_ITEMS = 100
_OURS_SECONDS = 5.0  # pause after database or storage were away

log = structlog.get_logger(__name__)


class _SourceAway(Exception):
    """The source cannot be read right now."""


class Expander(threading.Thread):
    """One expander; its token is its own, and that of its predecessor in the same slot."""

    def __init__(
        self,
        token: UUID,
        database: Database,
        storage: Storage,
        settings: Settings,
        *,
        woken: threading.Event,
        stopping: threading.Event,
        may_take_from_others: Callable[[], bool],
        ring: Callable[[str, str], None],
    ) -> None:
        super().__init__(name=f"expander-{token}", daemon=True)
        self.token = token
        self.busy_since: float | None = None  # since it last did anything, while it expands
        self._database = database
        self._storage = storage
        self._settings = settings
        self._woken = woken
        self._stopping = stopping
        self._may_take_from_others = may_take_from_others
        self._ring = ring

    def run(self) -> None:
        """Expand whatever waits, until the process stops."""
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                expansion = expanding.claim(
                    self._database,
                    self.token,
                    lease_seconds=self._settings.lease_seconds,
                    take_lapsed=self._may_take_from_others(),
                )
            except Unavailable as error:
                log.warning("expander_waits", reason=str(error))
                expansion = None
            if expansion is None:
                self._woken.wait(self._settings.recovery_seconds)
                continue
            self._woken.set()  # another one may wait for another expander
            self._alive()
            try:
                self._expand(expansion)
            finally:
                self.busy_since = None
                give_back_freed()  # what archives took stays with the process otherwise

    def _expand(self, expansion: Expansion) -> None:
        log.info("expansion_begins", ingestion=str(expansion.id), at=expansion.row.expanded)
        try:
            self._go_on(expansion)
        except Lost:
            log.info("expansion_lost", ingestion=str(expansion.id))
        except _SourceAway as away:
            reason, hours = str(away), self._settings.source_hours
            log.warning("source_away", ingestion=str(expansion.id), reason=reason)
            self._persist(
                lambda: expanding.pause(self._database, expansion, reason=reason, hours=hours)
            )
        except ImageVanished:
            self._persist(lambda: expanding.release(self._database, expansion))
        except Unavailable as error:
            log.warning("expansion_postponed", ingestion=str(expansion.id), reason=str(error))
            self._persist(
                lambda: expanding.release(self._database, expansion, pause_seconds=_OURS_SECONDS)
            )
        except Exception:
            # Whatever it is may come again at the same place: the third time is the last.
            log.exception("expansion_failed", ingestion=str(expansion.id))
            self._persist(
                lambda: expanding.release(
                    self._database, expansion, pause_seconds=_OURS_SECONDS, lapse=True
                )
            )

    def _persist(self, write: Callable[[], object]) -> None:
        """Write it whenever the database is back; without it the lease's end counts as a lapse."""
        while True:
            try:
                write()
            except Lost:
                return
            except Unavailable:
                if self._stopping.wait(self._settings.recovery_seconds):
                    return
            else:
                return

    def _go_on(self, expansion: Expansion) -> None:
        """Take step after step from the checkpoint on."""
        row = expansion.row
        place = row.checkpoint or {}
        with closing(TakingIn(self._database, self._storage, self._settings)) as taking_in:
            self._fetch_again(expansion, taking_in)
            if place.get("ended"):
                self._record(expansion, row.expanded, _Step(place.get("source"), ended=True))
                return
            self._take_steps(expansion, taking_in, _Step(place.get("source")))

    def _take_steps(self, expansion: Expansion, taking_in: TakingIn, step: "_Step") -> None:
        position, row = expansion.row.expanded, expansion.row
        turn_ends = time.monotonic() + self._settings.expander_turn_seconds
        with closing(self._entries(expansion, step.checkpoint)) as entries:
            while not step.ended:
                near_lapse = row.lapses and position < row.expanded + expanding.STEP_ITEMS
                most = _CAREFUL_ITEMS if near_lapse else expanding.STEP_ITEMS
                step = self._read(entries, taking_in, step.checkpoint, most)
                if position + len(step.new) > self._settings.max_items:
                    step = step.cut(self._settings.max_items - position)
                position = self._record(expansion, position, step)
                if step.away is not None:
                    raise _SourceAway(step.away)
                if self._stopping.is_set() or self._makes_room(turn_ends):
                    break
        log.info("expansion_pauses", ingestion=str(expansion.id), at=position, ended=step.ended)
        if step.ended:
            forget_file(self._storage, self._settings, expansion)
        else:
            expanding.release(self._database, expansion)

    def _makes_room(self, turn_ends: float) -> bool:
        return time.monotonic() > turn_ends and expanding.others_wait(self._database)

    def _entries(self, expansion: Expansion, checkpoint: Any) -> Generator[Entry]:
        try:
            source = open_source(self._database, self._storage, self._settings, expansion)
            yield from source.entries(checkpoint)
        except Unavailable as error:
            raise _SourceAway(str(error)) from error

    def _read(
        self, entries: Iterator[Entry], taking_in: TakingIn, checkpoint: Any, most: int
    ) -> "_Step":
        """Read entries, and store their images, until a step is full or has taken long enough."""
        step = _Step(checkpoint)
        taking_in.begin()
        full = time.monotonic() + _STEP_SECONDS
        while len(step.new) + taking_in.waiting < most and time.monotonic() < full:
            if self._stopping.is_set():
                break
            try:
                entry = next(entries)
            except StopIteration:
                step.ended = True
                break
            except SourceEnded as end:
                step.ended, step.error = True, (end.code, end.detail)
                break
            except _SourceAway as away:
                step.away = str(away)
                break
            self._alive()
            step.new += taking_in.take(entry)
            step.checkpoint = entry.checkpoint
        step.new += taking_in.rest()
        return step

    def _record(self, expansion: Expansion, position: int, step: "_Step") -> int:
        next_position = expanding.record_step(
            self._database,
            expansion,
            position=position,
            new=step.new,
            checkpoint={"source": step.checkpoint, "ended": step.ended},
            ended=step.ended,
            error=step.error,
        )
        self._alive()
        if any(item.image for item in step.new):
            self._ring(expansion.model, LANE)
        return next_position

    def _fetch_again(self, expansion: Expansion, taking_in: TakingIn) -> None:
        """Items that a retry wants fetched again, by their names."""
        after = -1
        while chosen := expanding.unfetched(
            self._database, expansion.id, after=after, limit=_AGAIN_ITEMS
        ):
            source = open_again(self._settings, expansion)
            taking_in.begin()
            new: list[NewItem] = []
            for item in chosen:
                new += taking_in.take(_again(source, item), position=item.position)
                self._alive()
            new += taking_in.rest()
            expanding.record_step(
                self._database,
                expansion,
                position=expansion.row.expanded,
                new=new,
                checkpoint=expansion.row.checkpoint,
            )
            after = chosen[-1].position

    def _alive(self) -> None:
        self.busy_since = time.monotonic()


@dataclass
class _Step:
    """What one step has read, and the checkpoint behind it."""

    checkpoint: Any
    new: list[NewItem] = field(default_factory=list)
    ended: bool = False
    error: tuple[str, str] | None = None
    away: str | None = None

    def cut(self, most: int) -> "_Step":
        """Its first items only: an ingestion has as many as it may have."""
        return _Step(
            self.checkpoint,
            self.new[:most],
            ended=True,
            error=("source_too_large", "An ingestion may not have more items than these."),
        )


def _again(source: Refetching, item: Any) -> Entry:
    """Fetch one item's image once more.

    Raises:
        _SourceAway: Not right now.
    """
    own = {"reference": item.reference, "metadata": item.metadata or {}}
    try:
        return Entry(item.name, source.fetch(item.name), None, **own)
    except EntryError as error:
        return Entry(item.name, None, None, **own, error=(error.code, error.detail))
    except Unavailable as error:
        raise _SourceAway(str(error)) from error
