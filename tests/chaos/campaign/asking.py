"""A client's way to the service: each request and its outcome go into the record."""

import json
from contextlib import suppress
from random import Random
from typing import Any
from urllib.parse import quote

import requests

from tests.chaos.campaign.pictures import archive, picture
from tests.chaos.campaign.record import Call, Record, Sent

_CONNECT_SECONDS = 2.0


class Asking:
    """One client over HTTP. It waits for an answer as long as its own patience lasts."""

    def __init__(self, url: str, client: int, dice: Random, record: Record) -> None:
        self._url = url
        self.client = client
        self.dice = dice
        self.record = record
        self._session = requests.Session()

    def submit(self, sent: Sent, *, wait: int = 0, **options: Any) -> Call:
        """Hand in one image."""
        form = {"model": _model(sent), "reference": sent.reference, **options}
        if sent.deadline_seconds is not None:
            form["deadline_seconds"] = sent.deadline_seconds
        return self.ask(
            "submit",
            sent.reference,
            "POST",
            "/v1/jobs",
            files={"image": ("picture", picture(sent.entries[0]))},
            data=form,
            headers={**_prefer(wait), **_key(sent)},
        )

    def ingest(self, sent: Sent) -> Call:
        """Hand in an archive."""
        return self.ask(
            "ingest",
            sent.reference,
            "POST",
            "/v1/ingestions",
            files={"archive": ("pictures.zip", archive(sent.entries))},
            data={"model": _model(sent), "reference": sent.reference},
            headers=_key(sent),
        )

    def job(self, job: str, *, wait: int = 0) -> Call:
        return self.ask("job", job, "GET", f"/v1/jobs/{job}", headers=_prefer(wait))

    def jobs(self, ids: list[str]) -> Call:
        """Many at once."""
        query = "&".join(f"id={quote(job)}" for job in ids)
        return self.ask("jobs", ",".join(ids), "GET", f"/v1/jobs?{query}")

    def image(self, job: str) -> Call:
        """The stored image, as hexadecimal digits."""
        return self.ask("image", job, "GET", f"/v1/jobs/{job}/image")

    def cancel(self, job: str) -> Call:
        return self.ask("cancel", job, "POST", f"/v1/jobs/{job}/cancel")

    def delete(self, job: str) -> Call:
        return self.ask("delete", job, "DELETE", f"/v1/jobs/{job}")

    def ingestion(self, ingestion: str) -> Call:
        return self.ask("ingestion", ingestion, "GET", f"/v1/ingestions/{ingestion}")

    def results(self, ingestion: str, *, after: int | None = None, order: str = "source") -> Call:
        query = "" if after is None else f"&after={after}"
        path = f"/v1/ingestions/{ingestion}/results?order={order}{query}"
        return self.ask("results", ingestion, "GET", path)

    def change_ingestion(self, ingestion: str, how: str) -> Call:
        """`cancel`, `retry` or `delete` it."""
        path = f"/v1/ingestions/{ingestion}"
        if how == "delete":
            return self.ask("delete ingestion", ingestion, "DELETE", path)
        return self.ask(f"{how} ingestion", ingestion, "POST", f"{path}/{how}")

    def ask(self, kind: str, subject: str, method: str, path: str, **how: Any) -> Call:
        """One request; its outcome is noted before it comes back."""
        began = self.record.now()
        patience = (_CONNECT_SECONDS, self.dice.choice((3, 8, 20)))
        status, body, note = None, None, ""
        try:
            answer = self._session.request(method, self._url + path, timeout=patience, **how)
        except requests.RequestException as error:
            note = f"{type(error).__name__}: {error}"[:200]
        else:
            # A body that was cut off has raised above: what is here is whole.
            status, body = answer.status_code, _read(answer)
        call = Call(self.client, kind, subject, began, self.record.now(), status, body, note)
        self.record.add(call)
        return call


def _read(answer: requests.Response) -> Any:
    kind = answer.headers.get("Content-Type", "")
    if "jsonl" in kind:
        return [json.loads(line) for line in answer.text.splitlines()]
    if "json" in kind:
        with suppress(ValueError):
            return answer.json()
    return answer.content.hex()


def _model(sent: Sent) -> str:
    return f"digits@{sent.pinned}" if sent.pinned else "digits"


def _prefer(wait: int) -> dict[str, str]:
    return {"Prefer": f"wait={wait}"} if wait else {}


def _key(sent: Sent) -> dict[str, str]:
    return {"Idempotency-Key": sent.key} if sent.key else {}
