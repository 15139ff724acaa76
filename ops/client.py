"""A client of a running service, for the commands that hand images in: patient, and never twice."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import requests

from shared.errors import ServiceError
from shared.settings import Settings

_CONNECT_SECONDS, _READ_SECONDS = 5, 120
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 15.0
_BUSY = (429, 503)
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}


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
        patience_seconds: How long it may be away.
    """

    def __init__(self, url: str, patience_seconds: float = 300) -> None:
        self.url = url.rstrip("/")
        self._patience = patience_seconds
        self._http = requests.Session()

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Callable[[], Any] | None = None,
        **how: Any,
    ) -> requests.Response:
        """One call, made again where it may be; the answer is a good one.

        Args:
            method: GET, POST or DELETE.
            path: Behind the service's address.
            body: Makes the body, for each attempt anew.
            how: As `requests` takes it.

        Raises:
            Refused: The service says no, and why.
            Away: It could not be reached.
        """
        give_up, pause, said = time.monotonic() + self._patience, _FIRST_PAUSE_SECONDS, False
        while True:
            reason, wait = "", pause
            try:
                data = {} if body is None else {"data": body()}
                answer = self._http.request(
                    method,
                    f"{self.url}{path}",
                    timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                    **data,
                    **how,
                )
            except requests.RequestException as error:
                reason = _first_reason(error)
            else:
                if answer.ok:
                    return answer
                problem = _problem(answer)
                if answer.status_code not in _BUSY or problem.get("code") == "model_unavailable":
                    detail = problem.get("detail") or f"HTTP {answer.status_code}"
                    raise Refused(detail, problem.get("code") or "refused")
                reason = problem.get("detail") or f"HTTP {answer.status_code}"
                wait = max(wait, _seconds(answer.headers.get("Retry-After")))
            if time.monotonic() + wait > give_up:
                raise Away(f"{self.url} cannot be used: {reason}")
            if not said:
                click.echo(f"Waiting for {self.url}: {reason}", err=True)
                said = True
            time.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def json(self, method: str, path: str, **how: Any) -> Any:
        """The answer's JSON; raises as `ask` does."""
        return self.ask(method, path, **how).json()

    def lines(self, ingestion: str) -> Iterator[dict[str, Any]]:
        """The results of an ingestion, in the source's order, over as many calls as it takes.

        Raises:
            Refused, Away: See `ask`.
        """
        after: int | None = None
        while True:
            path = f"/v1/ingestions/{ingestion}/results"
            asked = {} if after is None else {"after": after}
            answer = self.ask("GET", path, params=asked, stream=True)
            try:
                for text in answer.iter_lines():
                    line = json.loads(text)
                    after = line["position"]
                    yield line
            except (requests.RequestException, json.JSONDecodeError):
                continue  # cut off: go on behind the last whole line
            return


def _problem(answer: requests.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0


def _first_reason(error: requests.RequestException) -> str:
    """Connection errors wrap each other; people want the innermost one."""
    text = str(error)
    if "Connection refused" in text:
        return "connection refused"
    return type(error).__name__ if len(text) > 200 else text  # noqa: PLR2004
