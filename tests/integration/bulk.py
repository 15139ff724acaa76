"""Ingestions in the database, as web accepts them and an expander takes their steps."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select

from shared.database import new_id, stamp
from shared.ingestions import counts, expansion, upkeep
from shared.ingestions.birth import StoredImage
from shared.ingestions.expansion import Expansion, NewItem
from shared.tables import ingestions, items, jobs
from tests.integration.helpers import Stage


class Bulk:
    """A stage with what an expander does."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.database = stage.database

    def ingest(self, *, owner: str = "local", version: int | None = None, **values: Any) -> UUID:
        """An ingestion as web accepts it."""
        row = {
            "id": new_id(),
            "owner": owner,
            "status": "queued",
            "source_kind": "archive",
            "source": "pictures.zip",
            "model_version": self.stage.version_id if version is None else version,
            "pinned": True,
            "top_k": 5,
            "metadata": {"of": "all"},
            **values,
        }
        self.database.transact(
            lambda c: c.execute(
                insert(ingestions).values(created_at=stamp(), turn_at=stamp(), **row)
            )
        )
        return UUID(str(row["id"]))

    def claim(self, token: UUID | None = None, *, take_lapsed: bool = True) -> Expansion | None:
        return expansion.claim(
            self.database, token or new_id(), lease_seconds=60, take_lapsed=take_lapsed
        )

    def must_claim(self) -> Expansion:
        found = self.claim()
        assert found is not None
        return found

    def step(
        self, held: Expansion, contents: Sequence[str | None], *, position: int = 0, **values: Any
    ) -> int:
        """One step of these images; None is an entry that is none."""
        return expansion.record_step(
            self.database,
            held,
            position=position,
            new=[item(content, position + n) for n, content in enumerate(contents)],
            checkpoint=position + len(contents),
            **values,
        )

    def expand(self, *contents: str | None, **values: Any) -> UUID:
        """A whole ingestion, expanded in one step."""
        ingestion = self.ingest(**values)
        held = self.must_claim()
        assert held.id == ingestion
        self.step(held, contents, ended=True)
        return ingestion

    def work(self, *results: Any) -> None:
        """Classify what waits, a job at a time, with these results."""
        for result in results:
            claimed = self.stage.must_claim(lane="bulk", limit=1)
            self.stage.record(claimed, result)

    def row(self, ingestion: UUID) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(ingestions).where(ingestions.c.id == ingestion)).one()

    def counts(self, ingestion: UUID) -> dict[str, int]:
        with self.database.read() as connection:
            return counts.of(connection, ingestion)

    def items(self, ingestion: UUID) -> list[Any]:
        with self.database.read() as connection:
            return list(
                connection.execute(
                    select(items, jobs.c.status, jobs.c.attempt, jobs.c.reused)
                    .join_from(items, jobs, jobs.c.id == items.c.job, isouter=True)
                    .where(items.c.ingestion == ingestion)
                    .order_by(items.c.position)
                )
            )

    def close(self, ingestion: UUID) -> str:
        upkeep.stop_hopeless(self.database)
        upkeep.cancel_stopped(self.database)
        upkeep.refuse_unfetched(self.database)
        upkeep.close_ended(self.database)
        return str(self.row(ingestion).status)


def item(content: str | None, number: int) -> NewItem:
    name = f"{number}.png"
    if content is None:
        return NewItem(name, None, ("unsupported_image", "It is a text."))
    sha256 = f"{content:0>64}"
    stored = StoredImage(sha256, "image/png", 8, 8, 10, False, f"images/{sha256}/{new_id()}")
    return NewItem(name, stored, None, metadata={"number": number})
