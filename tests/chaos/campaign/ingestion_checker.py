"""The promises about ingestions: every item once, its outcome for good, and counts that agree."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.chaos.campaign.checker import Checker
from tests.chaos.campaign.load import TERMINAL
from tests.chaos.campaign.pictures import entry_name
from tests.chaos.campaign.record import Call, Sent

_ENDED = {"succeeded", "partially_succeeded", "failed", "canceled"}
# Of a body that has ended: rates are of the last images, and counts go on while it is cancelled.
_CHANGES = {"links", "images_per_second", "eta_seconds", "counts"}


@dataclass
class IngestionChecker:
    """Adds to what the checker of jobs has found."""

    jobs: Checker

    def run(self) -> None:
        """Look at every ingestion that was accepted."""
        calls = self.jobs.record.in_order()
        ids = {
            call.body["id"]: self.jobs.record.sent[call.subject]
            for call in calls
            if call.kind == "ingest" and call.answered
        }
        by_id: dict[str, list[Call]] = {each: [] for each in ids}
        for call in calls:
            if call.subject in by_id:
                by_id[call.subject].append(call)
        for ingestion, own in by_id.items():
            deleted = any(call.kind == "delete ingestion" for call in own)
            self._states(ingestion, own)
            lines = self._lines(ingestion, ids[ingestion], own)
            if not deleted:
                self._total(ingestion, ids[ingestion], own, lines)

    def _states(self, ingestion: str, calls: list[Call]) -> None:
        """Once it has ended it stays so, unless it is retried."""
        ended: dict[str, Any] | None = None
        retried = False
        cancelled = False
        for call in calls:
            retried |= call.kind == "retry ingestion"
            cancelled |= call.kind == "cancel ingestion"
            if call.kind not in {"ingestion", "cancel ingestion"} or call.status != 200:
                continue
            body = {k: v for k, v in call.body.items() if k not in _CHANGES}
            if body["status"] == "canceled" and not cancelled:
                self.jobs.say("wrong", f"ingestion {ingestion}: canceled by nobody", body)
            if ended is not None and not retried and body != ended:
                promise = "answered twice" if body["status"] != ended["status"] else "changed"
                self.jobs.say(promise, f"ingestion {ingestion}", (ended, body))
            if body["status"] in _ENDED:
                ended, retried = body, False

    def _lines(self, ingestion: str, sent: Sent, calls: list[Call]) -> dict[int, dict[str, Any]]:
        """What its results said of each position, in the end."""
        by_job: dict[Any, dict[str, Any]] = {}
        last: dict[int, dict[str, Any]] = {}
        retried = False
        for call in calls:
            retried |= call.kind == "retry ingestion"
            if call.kind != "results" or call.status != 200:
                continue
            positions = [line["position"] for line in call.body]
            if len(set(positions)) != len(positions) and not retried:
                self.jobs.say("answered twice", f"ingestion {ingestion}: a position twice", call)
            for line in call.body:
                key = (line["position"], line["job"])
                if by_job.setdefault(key, line) != line:
                    self.jobs.say("changed", f"ingestion {ingestion}: a line", (by_job[key], line))
                before = last.get(line["position"])
                if before is not None and before["job"] != line["job"] and not retried:
                    self.jobs.say(
                        "answered twice", f"ingestion {ingestion}: two jobs", (before, line)
                    )
                last[line["position"]] = line
        version = self._version(ingestion, calls)
        for line in last.values():
            self._line(ingestion, sent, line, version)
        return last

    def _line(self, ingestion: str, sent: Sent, line: dict[str, Any], version: str | None) -> None:
        position = line["position"]
        if position >= len(sent.entries) or line["name"] != entry_name(position):
            self.jobs.say("wrong", f"ingestion {ingestion}: a line of something else", line)
            return
        if line["status"] not in TERMINAL:
            self.jobs.say("wrong", f"ingestion {ingestion}: a line that has not ended", line)
        number = sent.entries[position]
        if line["status"] == "succeeded" and number in self.jobs.scores:
            # One that is not pinned by its client is pinned when it is accepted: one version.
            if version is not None:
                self.jobs.outcome(sent, number, line, version)
        elif line["status"] == "failed":
            self.jobs.outcome(sent, number, line, sent.pinned or "")

    def _version(self, ingestion: str, calls: list[Call]) -> str | None:
        versions = {
            call.body["model"]["version"]
            for call in calls
            if call.kind == "ingestion" and call.status == 200
        }
        if len(versions) > 1:
            self.jobs.say("changed", f"ingestion {ingestion}: its version", sorted(versions))
        return min(versions, default=None)

    def _total(
        self, ingestion: str, sent: Sent, calls: list[Call], lines: dict[int, dict[str, Any]]
    ) -> None:
        """The counts agree with the lines, and nothing is missing."""
        seen = [call for call in calls if call.kind == "ingestion" and call.status == 200]
        if not seen or seen[-1].body["status"] not in _ENDED:
            self.jobs.say("stuck", f"ingestion {ingestion} has not ended", seen[-1:])
            return
        body = seen[-1].body
        counts = body["counts"]
        if body["status"] != "canceled" and counts["total"] != len(sent.entries):
            self.jobs.say("lost", f"ingestion {ingestion}: items are missing", body)
        if counts["pending"]:
            self.jobs.say("stuck", f"ingestion {ingestion}: items are pending", body)
        if sorted(lines) != list(range(counts["total"])):
            self.jobs.say(
                "lost", f"ingestion {ingestion}: lines are missing", (body, sorted(lines))
            )
        told = Counter(line["status"] for line in lines.values())
        if any(told[status] != counts[status] for status in TERMINAL):
            self.jobs.say("wrong", f"ingestion {ingestion}: counts", (counts, dict(told)))
