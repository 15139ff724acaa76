"""Says what was wrong, from the record alone: it knows the promises and nothing of the code."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.campaign.load import TERMINAL
from tests.chaos.campaign.pictures import picture
from tests.chaos.campaign.record import Call, Record, Sent

_TOLERANCE = 1e-3
_ANSWERS = {None, 200, 202, 204, 404, 409, 410, 503}
_CHANGES = {"links", "queue"}  # of a body that has ended; the rest never does


@dataclass(frozen=True)
class Violation:
    """One promise that was not kept.

    Attributes:
        promise: `lost`, `answered twice`, `changed`, `stuck`, `wrong`, `refused`, `left over`.
    """

    promise: str
    what: str
    evidence: Any = None


@dataclass
class Checker:
    """The promises about jobs.

    Attributes:
        scores: What an undisturbed model gives: by number, for each version.
        versions: The names of those versions.
        unreadable: References of jobs whose image nobody could read.
    """

    record: Record
    scores: dict[int, tuple[Any, Any]]
    versions: tuple[str, str]
    unreadable: frozenset[str] = frozenset()
    found: list[Violation] = field(default_factory=list)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)  # id → reference

    def run(self) -> list[Violation]:
        """Every violation."""
        calls = self.record.in_order()
        for call in calls:
            self._answer(call)
        self._identities(calls)
        self._bodies(calls)
        self._presence(calls)
        self._outcomes(calls)
        return self.found

    def say(self, promise: str, what: str, evidence: Any = None) -> None:
        self.found.append(Violation(promise, what, evidence))

    def _answer(self, call: Call) -> None:
        """Whether the service may answer so at all."""
        hands_in = call.kind in {"submit", "ingest"}
        if call.status not in _ANSWERS and (not hands_in or call.status >= 500):
            self.say("wrong", f"{call.kind}: status {call.status}", call)
        if hands_in and call.status not in {None, 200, 202, 503}:
            sent = self.record.sent[call.subject]
            if call.kind == "ingest" or sent.entries[0] >= 0:
                self.say("refused", f"{call.kind}: status {call.status}", call)

    def _identities(self, calls: list[Call]) -> None:
        """One id for each reference and key, and each id for one of them."""
        by_reference: dict[str, set[str]] = defaultdict(set)
        for call in calls:
            if call.kind in {"submit", "ingest"} and call.answered:
                by_reference[call.subject].add(call.body["id"])
                self.ids[call.body["id"]] = call.subject
                if call.body["reference"] != call.subject:
                    self.say("wrong", "the answer is about another reference", call)
        for reference, ids in by_reference.items():
            if len(ids) > 1:
                self.say("answered twice", f"{reference} led to {len(ids)} ids", sorted(ids))

    def _bodies(self, calls: list[Call]) -> None:
        """A job that was seen in a terminal state is never seen otherwise."""
        known_since: dict[str, float] = {}
        for call, body in job_bodies(calls):
            job, kept = body["id"], {k: v for k, v in body.items() if k not in _CHANGES}
            before = self.ended.get(job)
            if body["status"] in TERMINAL:
                if before is None:
                    self.ended[job], known_since[job] = kept, call.ended
                elif before["status"] != kept["status"]:
                    self.say(
                        "answered twice",
                        f"job {job}: {before['status']}, then {kept['status']}",
                        (before, kept),
                    )
                elif before != kept:
                    self.say("changed", f"job {job}: its body has changed", (before, kept))
            elif before is not None and call.began > known_since[job]:
                self.say(
                    "answered twice",
                    f"job {job}: {before['status']}, then {body['status']}",
                    (before, body),
                )

    def _presence(self, calls: list[Call]) -> None:
        """What was accepted is there until its client deletes it, and then no more."""
        asked: dict[str, float] = {}
        gone: dict[str, float] = {}
        for call in calls:
            if call.kind in {"delete", "delete ingestion"}:
                asked.setdefault(call.subject, call.began)
                if call.status in {202, 204, 404}:
                    gone.setdefault(call.subject, call.ended)
                if call.status == 404 and asked[call.subject] == call.began:
                    self.say("lost", f"{call.subject} was not there to be deleted", call)
        for call in calls:
            for subject, is_there in _sightings(call):
                if not is_there and asked.get(subject, call.ended) >= call.ended:
                    self.say("lost", f"{subject} is not there: {call.kind}", call)
                if is_there and call.began > gone.get(subject, call.began):
                    self.say("changed", f"{subject} is there, though deleted", call)

    def _outcomes(self, calls: list[Call]) -> None:
        """How each job ended is what its image, its client and its deadline give."""
        cancelled = {call.subject for call in calls if call.kind == "cancel"}
        for job, body in self.ended.items():
            sent = self.record.sent.get(self.ids.get(job, ""))
            if sent is None:
                continue  # an item: its ingestion's lines are looked at instead
            if body["status"] == "canceled" and job not in cancelled:
                self.say("wrong", f"job {job}: canceled by nobody", body)
            if body["status"] == "expired" and sent.deadline_seconds is None:
                self.say("wrong", f"job {job}: expired without a deadline", body)
            self.outcome(sent, sent.entries[0], body, body["model"]["version"])
        for call in calls:
            if call.kind == "image":
                self._image(call)

    def outcome(self, sent: Sent, number: int, body: dict[str, Any], version: str) -> None:
        """What became of one image that was classified or failed."""
        name = f"{sent.reference} ({body.get('id') or body.get('job')})"
        if sent.pinned and version != sent.pinned:
            self.say("wrong", f"{name}: version {version} answered, not the pinned one", body)
        if body["status"] == "failed":
            code = body["error"]["code"]
            if code not in self._allowed_errors(sent, number):
                self.say("wrong", f"{name}: failed with {code}", body)
        if body["status"] == "succeeded":
            if number < 0:
                self.say("wrong", f"{name}: succeeded, though it is broken", body)
            elif number in self.scores:
                scores = self.scores[number][self.versions.index(version)]
                first = body["predictions"][0]
                right = scores[int(first["label"])]
                if abs(first["score"] - right) > _TOLERANCE or max(scores) - right > _TOLERANCE:
                    self.say("wrong", f"{name}: not what the model says", (body, scores))

    def _allowed_errors(self, sent: Sent, number: int) -> set[str]:
        allowed = set()
        if number < 0:
            allowed |= {"image_unreadable", "unsupported_image"}
        if sent.deadline_seconds is not None:
            allowed.add("deadline_passed")
        if sent.reference in self.unreadable:
            allowed.add("image_unreachable")
        return allowed

    def _image(self, call: Call) -> None:
        reference = self.ids.get(call.subject)
        if reference in self.unreadable:
            return
        if call.status in {404, 410} and call.body["code"] == "image_missing":
            self.say("lost", f"the image of job {call.subject} is missing", call)
        sent = self.record.sent.get(reference or "")
        known = call.status == 200 and sent is not None
        if known and call.body != picture(sent.entries[0]).hex():
            self.say("changed", f"the image of job {call.subject} is another one", call)


def job_bodies(calls: list[Call]) -> Iterator[tuple[Call, dict[str, Any]]]:
    """Every job that an answer has shown."""
    for call in calls:
        if call.status not in {200, 202}:
            continue
        if call.kind in {"submit", "job", "cancel"}:
            yield call, call.body
        elif call.kind in {"jobs", "running"}:
            for body in call.body["data"]:
                yield call, body


def _sightings(call: Call) -> Iterator[tuple[str, bool]]:
    """Which ids an answer shows to be there or not."""
    if call.kind in {"job", "image", "cancel", "ingestion", "results"}:
        if call.status in {200, 409}:
            yield call.subject, True
        elif call.status == 404:
            yield call.subject, False
    elif call.kind == "jobs" and call.status == 200:
        there = {body["id"] for body in call.body["data"]}
        for job in call.subject.split(","):
            yield job, job in there
