"""The model calls: what can be asked for, and whether it can be used."""

from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy import Connection, Row

from shared import models
from shared.errors import ProblemError
from shared.jobs import queries
from web.representation import model_json, version_json
from web.schemas import Model
from web.services import services

blueprint = Blueprint("models", __name__, url_prefix="/v1/models")


def all_models(connection: Connection) -> list[Model]:
    """Every known model, as the API and the pages show it."""
    return [_describe(connection, row) for row in models.states(connection)]


@blueprint.get("")
def list_models() -> Response:
    """Every known model."""
    with services().database.read() as connection:
        return jsonify(data=all_models(connection), next_cursor=None)


@blueprint.get("/<name>")
def show_model(name: str) -> Response:
    """One model."""
    with services().database.read() as connection:
        return jsonify(_describe(connection, _state(connection, name)))


@blueprint.get("/<name>/versions/<version>")
def show_version(name: str, version: str) -> Response:
    """One version with its labels, also one that was removed."""
    with services().database.read() as connection:
        state = _state(connection, name)
        for row in models.versions_of(connection, name):
            if row.version == version:
                workers = queries.serving_workers(connection)
                is_current = row.id == state.current_version
                return jsonify(version_json(row, is_current=is_current, workers=workers))
    raise ProblemError("not_found", f"{name} has no version {version!r}.")


def _state(connection: Connection, name: str) -> Row[Any]:
    for row in models.states(connection):
        if row.name == name:
            return row
    raise ProblemError("not_found", f"There is no model {name!r}.")


def _describe(connection: Connection, row: Row[Any]) -> Model:
    return model_json(
        row,
        models.versions_of(connection, row.name),
        queries.serving_workers(connection),
        default=services().settings.default_model,
    )
