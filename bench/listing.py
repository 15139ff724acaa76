"""What `bench.queue` measures of the lists of jobs: whoever asks for what, few rows are read."""

from collections.abc import Callable
from uuid import UUID

from bench.cases import Case, Stopwatch
from bench.filling import FilledQueue
from shared.jobs import finding, queries
from shared.jobs.finding import Page, Wanted
from shared.tables import STATUSES

WANTED = {
    "everything": Wanted(),
    "queued": Wanted(frozenset({"queued"})),
    "in five states": Wanted(frozenset(STATUSES) - {"succeeded"}),
    "succeeded, all old": Wanted(frozenset({"succeeded"})),
    "ended": Wanted(frozenset(STATUSES) - {"queued", "running"}),
    "by reference": Wanted(reference="reference-2"),
    "by reference and state": Wanted(frozenset({"failed"}), reference="reference-2"),
    "by ingestion without jobs": Wanted(ingestion=UUID(int=7)),
    "by ingestion and label": Wanted(ingestion=UUID(int=7), label="label 0"),
    "by common label": Wanted(label="label 0"),
    "by rare label": Wanted(label="rare"),
    "by unknown label": Wanted(label="unknown"),
    "by version without jobs": Wanted(versions=(10**6,)),
    "queued, by version without jobs": Wanted(frozenset({"queued"}), versions=(10**6,)),
}
OWNER = "owner-2"
_LIMIT = 50


def list_page(queue: FilledQueue, wanted: Wanted, watch: Stopwatch, *, old: bool = False) -> Page:
    """One page, as web reads it: the first one, or one that begins among the old jobs."""
    before = queue.id_at(queue.history) if old else None
    with watch(), queue.database.read() as connection:
        page = finding.find(connection, OWNER, wanted, before=before, limit=_LIMIT)
        rows = queries.find_many(connection, OWNER, page.ids)
    assert len(rows) == len(page.ids) <= _LIMIT
    return page


def poll_many(queue: FilledQueue, watch: Stopwatch) -> None:
    """A hundred jobs by their ids."""
    ids = [queue.id_at(2 + 10 * number) for number in range(100)]
    with watch(), queue.database.read() as connection:
        assert len(queries.find_many(connection, OWNER, ids)) == len(ids)


def listing_cases() -> list[Case]:
    """A page by each filter, at the head of the list and far within it."""
    return [
        *(Case(f"list {name}", _list(wanted)) for name, wanted in WANTED.items()),
        *(Case(f"list old, {name}", _list(wanted, old=True)) for name, wanted in WANTED.items()),
        Case("poll 100 jobs at once", poll_many),
    ]


def _list(wanted: Wanted, *, old: bool = False) -> Callable[[FilledQueue, Stopwatch], None]:
    def run(queue: FilledQueue, watch: Stopwatch) -> None:
        list_page(queue, wanted, watch, old=old)

    return run
