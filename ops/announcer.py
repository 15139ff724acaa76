"""What `classify up` tells its terminal, in plain words: the address, and the state of models."""

import http.client
import threading
import time
from typing import Any

import click
from sqlalchemy import Row

from ops.progress import mebibytes
from shared import models
from shared.database import Database
from shared.errors import Unavailable
from shared.settings import Settings

_LOOK_SECONDS = 1.0
_STEP_PERCENT = 10


class Announcer:
    """A thread that looks, and says what is new."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._said: dict[str, str] = {}
        host, self._port = settings.host_and_port
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)

    def start(self) -> None:
        """Begin, for as long as the process lives."""
        threading.Thread(target=self._run, name="announcer", daemon=True).start()

    def _run(self) -> None:
        while not self.web_answers():
            time.sleep(0.1)
        host = f"[{self._host}]" if ":" in self._host else self._host
        click.echo(f"Ready: http://{host}:{self._port}  (Ctrl-C stops everything)")
        while True:
            self._tell_models()
            time.sleep(_LOOK_SECONDS)

    def web_answers(self) -> bool:
        """Whether the web server is up."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=2)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _tell_models(self) -> None:
        try:
            with self._database.read() as connection:
                rows = models.states(connection)
        except Unavailable:
            return  # the children's logs say so already
        for row in rows:
            text = self._state(row)
            if text is not None and self._said.get(row.name) != text:
                self._said[row.name] = text
                click.echo(f"Model {row.name}: {text}")

    def _state(self, row: Row[Any]) -> str | None:
        if row.current_version is not None:
            return "installed."
        if row.downloading:
            if not row.download_total_bytes:
                return "is being downloaded."
            percent = 100 * (row.download_bytes or 0) // row.download_total_bytes
            step = percent - percent % _STEP_PERCENT
            return f"is being downloaded, {step} % of {mebibytes(row.download_total_bytes)}."
        if row.name in self._settings.download and row.download_error is None:
            return None  # the background worker is about to begin, or to say why it cannot
        return f"not installed: {models.reason(row)} {models.mend(row.name)}"
