"""What is committed, read by SQL of the checker's own, into plain strings and numbers."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_JOBS = (
    "id:u owner status image model_version pinned:b ingestion:u position lane flow sequence "
    "not_before:t parks attempt claim_token:u suspect:b lapses reused:b error_code error_detail "
    "deadline_at:t created_at:t started_at:t finished_at:t decode_ms inference_ms"
)
_INGESTIONS = (
    "id:u owner status model_version pinned:b expanded refused expander_token:u "
    "expander_lease_until:t expanded_at:t not_before:t error_code object created_at:t started_at:t "
    "finished_at:t settled_at:t deleted_at:t"
)
_OTHERS = {
    "claims": "token:u worker:u lease_until:t trial:u",
    "lanes": "model_version lane clock",
    "images": "sha256 object",
    "results": "image model_version predictions:j label",
    "items": "ingestion:u position job:u error_code",
    "ingestion_counts": "ingestion:u slot succeeded failed canceled expired",
    "model_versions": "id model version removed_at:t",
    "models": "name current_version",
}
_POSTGRESQL = {
    "": "{0}",
    "u": "replace(CAST({0} AS text), '-', '')",
    "b": "CAST({0} AS integer)",
    "t": "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
    "j": "CAST({0} AS text)",
}


def _names(columns: str) -> list[str]:
    return [column.partition(":")[0] for column in columns.split()]


def _row(name: str, columns: str) -> Any:
    return NamedTuple(name, [(column, Any) for column in _names(columns)])  # type: ignore[misc]


Job = _row("Job", _JOBS)
Ingestion = _row("Ingestion", _INGESTIONS)


@dataclass
class View:
    """All that is committed at one moment."""

    jobs: dict[str, Any] = field(default_factory=dict)
    ingestions: dict[str, Any] = field(default_factory=dict)
    claims: list[Any] = field(default_factory=list)
    lanes: list[Any] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)
    ingestion_counts: list[Any] = field(default_factory=list)
    model_versions: list[Any] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)


class Eye:
    """Reads views over a connection of its own."""

    def __init__(self, connection: Any, *, is_sqlite: bool) -> None:
        self._connection = connection
        self._is_sqlite = is_sqlite
        self._statements = {
            table: self._select(table, columns)
            for table, columns in {"jobs": _JOBS, "ingestions": _INGESTIONS, **_OTHERS}.items()
        }

    def _select(self, table: str, columns: str) -> str:
        parts = []
        for column in columns.split():
            name, _, kind = column.partition(":")
            parts.append(name if self._is_sqlite else _POSTGRESQL[kind].format(name))
        return f"SELECT {', '.join(parts)} FROM {table}"

    def _read(self) -> Iterator[tuple[str, list[Any]]]:
        if self._is_sqlite:
            for table, statement in self._statements.items():
                yield table, self._connection.execute(statement).fetchall()
            return
        cursor = self._connection.execute(";".join(self._statements.values()))  # at one go
        for table in self._statements:
            yield table, cursor.fetchall()
            cursor.nextset()

    def look(self) -> View:
        """Everything, at one moment: nobody else is on."""
        view = View()
        for table, rows in self._read():
            if table == "jobs":
                view.jobs = {row[0]: Job._make(row) for row in rows}
            elif table == "ingestions":
                view.ingestions = {row[0]: Ingestion._make(row) for row in rows}
            else:
                setattr(view, table, rows)
        return view


def sqlite_eye(path: str) -> Eye:
    """An eye on an SQLite file."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    return Eye(connection, is_sqlite=True)


def predictions_of(text: str) -> list[tuple[str, str, float]]:
    """A result's predictions, from its JSON."""
    return [(class_id, label, score) for class_id, label, score in json.loads(text)]
