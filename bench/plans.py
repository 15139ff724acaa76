"""The plans of the statements that the code really sends, taken while it sends them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlalchemy import Connection, event

from shared.database import Database

# A plan that reads more rows than this scans, by whatever name. A position may read 1,001, a join
# of two lists of 64 makes 4,096, and a page of the sweep is 5,000 images.
MOST_ROWS = 20_000

_EXPLAINABLE = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_PARAMETER = re.compile(r"%\((\w+)\)s|%%")
_IN_LIST = re.compile(r"IN \([^()]*(?:\([^()]*\)[^()]*)*\)")
_NUMBERS = re.compile(r"\(cost=.*|\d+")
_NODE = re.compile(r"actual time=\S+ rows=([\d.]+) loops=(\d+)")
_REMOVED = re.compile(r"Rows Removed by (?:Filter|Join Filter|Index Recheck): ([\d.]+)")
_BUFFERS = re.compile(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?")
_SCAN = re.compile(r"Seq Scan on (?:\w+\.)?(\w+)")


@dataclass(frozen=True)
class Plan:
    """What EXPLAIN (ANALYZE, BUFFERS) said."""

    text: str

    @property
    def buffers(self) -> int:
        """Pages that the statement touched."""
        found = _BUFFERS.search(self.text)
        return 0 if found is None else int(found[1] or 0) + int(found[2] or 0)

    @property
    def shape(self) -> str:
        """The plan without its figures."""
        lines = (line for line in self.text.splitlines() if "->" in line or "(cost=" in line)
        return "\n".join(_NUMBERS.sub("", line) for line in lines)

    def faults(self, big_tables: frozenset[str]) -> list[str]:
        """Why this plan would cost more with every row that the tables grow."""
        faults = [f"Seq Scan on {name}" for name in _SCAN.findall(self.text) if name in big_tables]
        loops = 1
        for line in self.text.splitlines():
            rows = 0.0
            if node := _NODE.search(line):
                loops = int(node[2])
                rows = float(node[1]) * loops
            elif removed := _REMOVED.search(line):
                rows = float(removed[1]) * loops
            if rows > MOST_ROWS:
                faults.append(f"reads {rows:,.0f} rows: {line.strip()}")
        return faults


@dataclass(frozen=True)
class Planned:
    """A statement as it was sent, planned for its values (custom) and for any (generic)."""

    statement: str
    custom: Plan
    generic: Plan

    @property
    def readable(self) -> str:
        """The statement without the members of its lists."""
        return _IN_LIST.sub("IN (…)", self.statement)


@dataclass
class Capture:
    """Every statement that was sent meanwhile."""

    planned: list[Planned] = field(default_factory=list)

    def before(
        self,
        connection: Connection,
        _cursor: object,
        statement: str,
        parameters: Any,
        _context: object,
        executemany: bool,
    ) -> None:
        """Explain a statement where it is about to run, and roll back what that changed."""
        if _EXPLAINABLE.match(statement) is None:
            return  # SET and the like have no plan
        if executemany:
            raise AssertionError(f"sent for many rows at once, not explained: {statement}")
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        custom = _explain(driver, statement, parameters)
        generic = _explain_generic(driver, statement, parameters)
        self.planned.append(Planned(statement, custom, generic))


@contextmanager
def captured(database: Database) -> Iterator[Capture]:
    """Explain every statement that the code sends within."""
    capture = Capture()
    event.listen(database.engine, "before_cursor_execute", capture.before)
    try:
        yield capture
    finally:
        event.remove(database.engine, "before_cursor_execute", capture.before)


def _explain(driver: psycopg.Connection, statement: str, parameters: Mapping[str, Any]) -> Plan:
    # Within a transaction this is a savepoint, else a transaction of its own.
    with driver.transaction(force_rollback=True):
        return _plan(
            driver.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters, prepare=False)
        )


def _explain_generic(
    driver: psycopg.Connection, statement: str, parameters: Mapping[str, Any]
) -> Plan:
    """As a server plans it once the driver has prepared it, and it was sent often enough."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] is None:
            return "%"
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    numbered = _PARAMETER.sub(number, statement)
    client = psycopg.ClientCursor(driver)
    values = ", ".join(client.mogrify("%s", [parameters[name]]) for name in names)
    call = f"bench_plan({values})" if names else "bench_plan"
    with driver.transaction(force_rollback=True):
        client.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        client.execute(f"PREPARE bench_plan AS {numbered}")
        try:
            return _plan(client.execute(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE {call}"))
        finally:
            client.execute("DEALLOCATE bench_plan")


def _plan(cursor: psycopg.Cursor) -> Plan:
    return Plan("\n".join(row[0] for row in cursor))
