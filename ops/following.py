"""Waiting for an ingestion, with a bar on a terminal, else a line now and then."""

import sys
import time
from typing import Any

import click

from ops.client import Client
from ops.progress import Progress

_FIRST_POLL_SECONDS, _POLL_SECONDS = 0.2, 1.0


def wait_for(client: Client, ingestion: str) -> dict[str, Any]:
    """Poll until it has ended, and show how far it is; the ingestion.

    Raises:
        Refused, Away: See `Client.ask`.
    """
    pause = _FIRST_POLL_SECONDS
    with _Images() as progress:
        while True:
            now: dict[str, Any] = client.json("GET", f"/v1/ingestions/{ingestion}")
            progress.show(now["counts"])
            if _is_over(now):
                return now
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL_SECONDS)


def _is_over(now: dict[str, Any]) -> bool:
    # Of one that was stopped, jobs are still being cancelled.
    if now["status"] in ("queued", "running") or now["counts"]["pending"]:
        return False
    output = now["output"]
    return output is None or bool(output["written_at"] or output["error"])


class _Images(Progress):
    """How many images are done, on stderr."""

    def __init__(self) -> None:
        super().__init__("Classifying")
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                length=1,
                label=self._label,
                file=sys.stderr,
                show_pos=True,
                show_eta=False,
                show_percent=False,
                item_show_func=lambda failed: f"{failed} failed" if failed else None,
            )

    def show(self, counts: dict[str, int]) -> None:
        done = counts["total"] - counts["pending"]
        if self._bar is not None:
            # The source is still being read: what was the end is not.
            self._bar.length, self._bar.finished = max(counts["total"], 1), False
            self._bar.update(done - self._bar.pos, counts["failed"])
        else:
            self._say(f"{done} of {counts['total']}, {counts['failed']} failed")
