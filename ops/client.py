"""A client of a running service, for the commands that hand images in: patient, and never twice."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from typing import Any
from urllib.parse import urlsplit

import click
import requests

from shared.errors import ServiceError
from shared.settings import Settings

_CONNECT_SECONDS, _READ_SECONDS = 5, 120
_PATIENCE_SECONDS = 300.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 15.0
_FRUITLESS = 5  # streams in a row that break before their first line
_PIECE_BYTES = 2**16
_BUSY = (429, 502, 503, 504)  # of a proxy, too
# It is there, and says when to come back: no patience is used up.
_FULL = ("backlog_full", "too_many_jobs", "too_many_ingestions")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
_THIS_MACHINE = {"127.0.0.1", "::1", "localhost"}


class Refused(ServiceError):
    """The service has said no, with one of its codes."""

    def __init__(self, detail: str, code: str) -> None:
        super().__init__(detail)
        self.code = code


class Away(ServiceError):
    """The service could not be reached for so long that we gave up."""


def address_of(settings: Settings) -> str:
    """Where a service with these settings listens, seen from this machine."""
    host, port = settings.host_and_port
    host = _EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


class Client:
    """Calls of the interface; a service that is away, or busy, is asked again.

    Args:
        url: Of the service.
        patience_seconds: How long is waited for it in all, each time that it is away.
    """

    def __init__(self, url: str, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self.url = url.rstrip("/")
        self._patience = patience_seconds
        self._http = requests.Session()
        # A proxy that the environment names would look for the service on its own machine.
        self._http.trust_env = urlsplit(url).hostname not in _THIS_MACHINE

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Callable[[], Any] | None = None,
        patience_seconds: float | None = None,
        **how: Any,
    ) -> requests.Response:
        """One call, made again where it may be; the answer is a good one.

        Args:
            method: GET, POST or DELETE.
            path: Behind the service's address.
            body: Makes the body, for each attempt anew.
            patience_seconds: Instead of the client's own; a service that is full is waited for
                without end.
            how: As `requests` takes it.

        Raises:
            Refused: The service says no, and why.
            Away: It could not be reached.
        """
        patience = self._patience if patience_seconds is None else patience_seconds
        # The pauses are counted, not the attempts: an upload that breaks may have taken hours.
        waited, pause, said = 0.0, _FIRST_PAUSE_SECONDS, False
        while True:
            wait, full = pause, False
            try:
                with closing(body()) if body else nullcontext() as data:
                    answer = self._http.request(
                        method,
                        f"{self.url}{path}",
                        timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                        **(how if body is None else how | {"data": data}),
                    )
            except requests.RequestException as error:
                reason = _in_short(error)
            else:
                if answer.ok:
                    return answer
                problem = _problem(answer)
                reason = problem.get("detail") or f"it answers {answer.status_code}"
                if answer.status_code not in _BUSY or problem.get("code") == "model_unavailable":
                    raise Refused(reason, problem.get("code") or "refused")
                wait = max(wait, _seconds(answer.headers.get("Retry-After")))
                full = problem.get("code") in _FULL
            if not full and waited + wait > patience:
                raise Away(f"{self.url} cannot be used: {reason}")
            if not said:
                click.echo(f"Waiting for {self.url}: {reason}", err=True)
                said = True
            time.sleep(wait)
            if full:
                waited, pause = 0.0, _FIRST_PAUSE_SECONDS
            else:
                waited += wait
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def json(self, method: str, path: str, **how: Any) -> Any:
        """The answer's JSON; raises as `ask` does."""
        answer = self.ask(method, path, **how)
        try:
            return answer.json()
        except ValueError as error:
            raise ServiceError(f"{self.url} is not this service: it answers no JSON.") from error

    def lines(self, ingestion: str, order: str = "source") -> Iterator[bytes]:
        """The results of an ingestion, a line of JSON each, over as many calls as it takes.

        Raises:
            Refused, Away: See `ask`; or the stream breaks off again and again.
        """
        after: int | None = None
        fruitless = 0
        while True:
            begun = after
            asked = {"order": order} | ({} if after is None else {"after": str(after)})
            path = f"/v1/ingestions/{ingestion}/results"
            try:
                with self.ask("GET", path, params=asked, stream=True) as answer:
                    for line in answer.iter_lines(_PIECE_BYTES):
                        after = json.loads(line)["position"]
                        yield line
                return
            except (requests.RequestException, json.JSONDecodeError) as error:
                # Cut off: it goes on behind the last whole line.
                fruitless = fruitless + 1 if after == begun else 0
                if fruitless == _FRUITLESS:
                    raise Away(f"The results cannot be read on: {_in_short(error)}") from error
                time.sleep(_FIRST_PAUSE_SECONDS * 2**fruitless)


def _problem(answer: requests.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except (ValueError, requests.RequestException):
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0


def _in_short(error: Exception) -> str:
    """Connection errors wrap each other; people want the innermost one."""
    text = str(error)
    if "Connection refused" in text:
        return "connection refused"
    if "Failed to resolve" in text:
        return "its name is not known"
    return type(error).__name__ if len(text) > 200 else text  # noqa: PLR2004
