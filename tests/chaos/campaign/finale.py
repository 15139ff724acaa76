"""When nothing is done any more: everything that was accepted is looked at until it has ended."""

import time
from collections.abc import Callable, Iterable, Sequence

from tests.chaos.campaign.asking import Asking
from tests.chaos.campaign.load import TERMINAL
from tests.chaos.campaign.record import Call, Record

SETTLE_SECONDS = 120.0
_MANY = 100
_SAMPLE = 80


def known_ids(record: Record, kind: str) -> dict[str, str]:
    """The id of everything that was accepted, with its reference."""
    return {
        call.body["id"]: call.subject
        for call in record.in_order()
        if call.kind == kind and call.answered
    }


def asked_to_delete(record: Record, kind: str) -> set[str]:
    return {call.subject for call in record.in_order() if call.kind == kind}


class Finale:
    """Asks for everything once more, and waits for what has not ended."""

    def __init__(self, asking: Asking, record: Record) -> None:
        self._asking = asking
        self._record = record
        self._give_up = time.monotonic() + SETTLE_SECONDS

    def run(self) -> list[str]:
        """Ask for all of it; what has not ended after two minutes comes back."""
        own = set(known_ids(self._record, "submit")) - asked_to_delete(self._record, "delete")
        ingestions = set(known_ids(self._record, "ingest")) - asked_to_delete(
            self._record, "delete ingestion"
        )
        late = self._wait_for(sorted(ingestions), self._settled)
        items = [
            line["job"]
            for ingestion in sorted(ingestions)
            for line in self._sure(lambda i=ingestion: self._asking.results(i)).body or ()
            if line["job"]
        ]
        jobs = sorted(own) + items
        late += self._wait_for_jobs(sorted(own))
        for part in _parts(jobs):
            self._sure(lambda part=part: self._asking.jobs(list(part)))
        # Lists have told of all of them, and of every object the storage's own listing will.
        for job in self._some(sorted(own)):
            self._sure(lambda job=job: self._asking.job(job))
        for job in self._some(jobs):
            self._sure(lambda job=job: self._asking.image(job))
        for gone in sorted(asked_to_delete(self._record, "delete")):
            self._sure(lambda gone=gone: self._asking.job(gone))
        for gone in sorted(asked_to_delete(self._record, "delete ingestion")):
            self._sure(lambda gone=gone: self._asking.ingestion(gone))
        return late

    def _some(self, ids: Sequence[str]) -> Sequence[str]:
        return self._asking.dice.sample(ids, min(len(ids), _SAMPLE))

    def _sure(self, ask: Callable[[], Call]) -> Call:
        """The answer, whatever it takes."""
        while (call := ask()).status in {None, 503} and time.monotonic() < self._give_up:
            time.sleep(0.2)
        return call

    def _settled(self, ingestion: str) -> bool:
        call = self._sure(lambda: self._asking.ingestion(ingestion))
        if call.status != 200:
            return True  # the checker has something to say about that
        return (
            call.body["status"] not in {"queued", "running"} and call.body["counts"]["pending"] == 0
        )

    def _wait_for_jobs(self, ids: Sequence[str]) -> list[str]:
        waiting = set(ids)
        while waiting and time.monotonic() < self._give_up:
            for part in _parts(sorted(waiting)):
                call = self._sure(lambda part=part: self._asking.jobs(list(part)))
                if call.status == 200:
                    # One that is not there is for the checker to tell of.
                    live = {b["id"] for b in call.body["data"] if b["status"] not in TERMINAL}
                    waiting -= set(part) - live
            if waiting:
                time.sleep(0.3)
        return sorted(waiting)

    def _wait_for(self, ids: Iterable[str], is_over: Callable[[str], bool]) -> list[str]:
        waiting = list(ids)
        while waiting:
            waiting = [each for each in waiting if not is_over(each)]
            if time.monotonic() > self._give_up:
                break
            if waiting:
                time.sleep(0.3)
        return waiting


def _parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[at : at + _MANY] for at in range(0, len(ids), _MANY))
