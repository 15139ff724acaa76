"""Liveness and readiness, for whatever watches the process."""

from collections.abc import Callable

from flask import Blueprint, Response, jsonify

from shared.database import Database
from shared.errors import Unavailable
from shared.migrations import is_new_enough
from web.problems import problem
from web.services import services

_OK = "ok"

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process answers. It asks nobody else: a restart would mend no database."""
    return jsonify(status=_OK)


@blueprint.get("/readyz")
def readyz() -> Response:
    """Whether jobs should be sent here: a word for each thing that accepting one needs."""
    own = services()
    if own.leaving():
        return problem("service_unavailable", "Not ready: this server is about to end.")
    checks = {
        "database": _try(lambda: _reach(own.database)),
        "storage": _try(own.storage.check),
        "schema": _try(lambda: _compare_schema(own.database)),
    }
    if all(word == _OK for word in checks.values()):
        return jsonify(status="ready", checks=checks)
    failed = ", ".join(name for name, word in checks.items() if word != _OK)
    return problem("service_unavailable", f"Not ready: {failed}.", checks=checks)


def _try(check: Callable[[], None]) -> str:
    try:
        check()
    except Unavailable as error:
        return str(error)
    return _OK


def _reach(database: Database) -> None:
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")


def _compare_schema(database: Database) -> None:
    if not is_new_enough(database):
        raise Unavailable("the schema is not the one this release needs: run `classify db upgrade`")
