"""A database with a queue of any length, made fast: what the cases of `bench.queue` work on."""

from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

import psycopg
from sqlalchemy import URL, Connection

from shared import migrations, models
from shared.database import Database, new_id
from shared.jobs.claiming import Claimant, LaneCursor, claim_batch
from shared.models import ModelSpec

LANE = "interactive"  # the other one stays empty: a look into it must not cost more
FLOWS = 10
_CLAIMS_HELD = 16
_BATCH = 8
_REMOVED, _OLDER, _CURRENT = "0" * 12, "1" * 12, "2" * 12
_SPEC = ModelSpec("directory", "model.keras", 8, 8, "scale", "0" * 64, 1)

# Item i of all: its image, and an id in the form of a UUIDv7 whose time is i ms after the first.
_IMAGE = "encode(sha256(i::text::bytea), 'hex')"
_ID = """(lpad(to_hex(1700000000000 + i), 12, '0') || '7' || substr(md5(i::text), 1, 3)
    || '8' || substr(md5(i::text), 4, 15))::uuid"""

_IMAGES = f"""
INSERT INTO images (sha256, object, media_type, width, height, size_bytes, created_at)
SELECT {_IMAGE}, 'images/' || {_IMAGE} || '/' || {_ID}, 'image/png', 8, 8, 300, now()
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i"""

# Flows take turns, so that item i has the sequence i / 10. A few wait for better times, and some
# have a deadline that is far away.
_QUEUED = f"""
INSERT INTO jobs (id, owner, status, image, model_version, pinned, top_k, filename, metadata, lane,
                  flow, sequence, not_before, deadline_at, created_at, request_id)
SELECT {_ID}, 'owner-' || i %% {FLOWS}, 'queued', {_IMAGE}, %(version)s, false, 5, 'photo.png',
       '{{}}', %(lane)s, 'owner-' || i %% {FLOWS}, i / {FLOWS},
       CASE WHEN i %% 1000 = 0 THEN now() + interval '1 day' END,
       CASE WHEN i %% 100 = 1 THEN now() + interval '1 day' END, now(), 'request-' || i
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i"""

# Jobs that insist on an older version, from before another became current: they stay with it.
_PINNED = _QUEUED.replace("false, 5", "true, 5").replace("%(version)s", "%(older)s")

_HISTORY = f"""
INSERT INTO jobs (id, owner, status, image, model_version, pinned, top_k, reference, metadata,
                  lane, flow, sequence, attempt, error_code, created_at, started_at, finished_at,
                  decode_ms, inference_ms)
SELECT {_ID}, 'owner-' || i %% {FLOWS}, CASE WHEN i %% 10000 = 1 THEN 'failed' ELSE 'succeeded' END,
       {_IMAGE}, %(version)s, false, 5, 'reference-' || i %% 1000, '{{}}', %(lane)s,
       'owner-' || i %% {FLOWS}, i / {FLOWS}, 1,
       CASE WHEN i %% 10000 = 1 THEN 'worker_lost' END, now() - (i + 2) * interval '0.1 s',
       now() - (i + 1) * interval '0.1 s', now() - i * interval '0.1 s', 1.5, 20
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i"""

_RESULTS = f"""
INSERT INTO results (image, model_version, predictions, label, created_at)
SELECT {_IMAGE}, %(version)s, (
    SELECT jsonb_agg(jsonb_build_array(k::text, 'label ' || k, 1.0 / (k + 1)))
    FROM generate_series(0, 9) AS k), CASE WHEN i %% 10000 = 2 THEN 'rare' ELSE 'label 0' END, now()
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i"""

_KEYS = f"""
INSERT INTO idempotency_keys (owner, key, fingerprint, job, created_at)
SELECT 'owner-' || i %% {FLOWS}, 'key-' || i, {_IMAGE}, {_ID}, now()
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i"""


class FilledQueue:
    """A database of its own on the server, with so many queued jobs; dropped at the end.

    Beside the queue there is a tenth as much history with its results and idempotency keys, a tenth
    as many jobs that are pinned to an older version, a few claims that workers hold, a version that
    was removed, and a model that is not installed.
    """

    def __init__(self, server: URL, rows: int) -> None:
        self.rows = rows
        self.cursor = LaneCursor()
        self.worker = uuid4()
        self._server = server
        self._name = f"classifier_bench_{uuid4().hex}"
        self._next = 1

    def __enter__(self) -> Self:
        self._on_server(f"CREATE DATABASE {self._name}")
        try:
            url = self._server.set(database=self._name)
            self.database = Database(url.render_as_string(hide_password=False), pool_size=2)
            # Not the service's: its connections end a statement after 30 s, and they are captured.
            self._own = psycopg.connect(_address(url), autocommit=True)
            self._fill()
        except BaseException:
            self._drop()
            raise
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.database.close()
        self._own.close()
        self._drop()

    def top_up(self, count: int) -> None:
        """Put new jobs, each with a new image, at the queue's end."""
        self._insert(count, _IMAGES, _QUEUED)

    def disturb(self) -> None:
        """Give recovery something to do, at the queue's end: 3 jobs for each of its steps."""
        rows = self._own.execute(
            "SELECT id FROM jobs WHERE status = 'queued' AND not_before IS NULL AND lane = %s"
            " AND model_version = %s ORDER BY sequence DESC, id DESC LIMIT 12",
            (LANE, self.version_id),
        )
        ids = [row[0] for row in rows]
        for changes, chosen in (
            ("not_before = now()", ids[0:3]),
            ("deadline_at = now()", ids[3:6]),
            (f"model_version = {self._older}", ids[6:9]),
            (f"model_version = {self._removed}, pinned = true", ids[9:12]),
        ):
            self._own.execute(f"UPDATE jobs SET {changes} WHERE id = ANY(%s)", (chosen,))

    def ids(self, status: str, count: int = 200) -> list[UUID]:
        """Some jobs of the current version, picked at random."""
        return [
            row[0]
            for row in self._own.execute(
                "SELECT id FROM jobs WHERE status = %s AND model_version = %s"
                " ORDER BY random() LIMIT %s",
                (status, self.version_id, count),
            )
        ]

    def id_at(self, item: int) -> UUID:
        """The id of item `item` of all, in the order of their birth."""
        return UUID(self.own_scalar(f"SELECT {_ID} FROM (VALUES (%s::bigint)) AS item (i)", item))

    def own_scalar(self, statement: str, *values: object) -> str:
        """What one question to the server answers, on a connection that is never captured."""
        row = self._own.execute(statement, values).fetchone()
        assert row is not None
        return str(row[0])

    def generic_plans(self) -> tuple[int, int]:
        """Of the statements that the driver has prepared, how many the server plans no more."""
        with self.database.read() as connection:
            counts = list(
                connection.exec_driver_sql("SELECT generic_plans FROM pg_prepared_statements")
            )
        return sum(row.generic_plans > 0 for row in counts), len(counts)

    def last_id(self) -> UUID:
        """The job at the queue's end."""
        row = self._own.execute(
            "SELECT id FROM jobs WHERE status = 'queued' AND not_before IS NULL"
            " AND model_version = %s ORDER BY sequence DESC, id DESC LIMIT 1",
            (self.version_id,),
        ).fetchone()
        assert row is not None
        return UUID(str(row[0]))

    def big_tables(self, least: int) -> frozenset[str]:
        """Tables with at least so many rows."""
        rows = self._own.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples >= %s", (least,)
        )
        return frozenset(row[0] for row in rows)

    def vacuum(self) -> None:
        """Take out dead rows, and let the planner know the tables."""
        self._own.execute("VACUUM ANALYZE")

    def _fill(self) -> None:
        migrations.upgrade(self.database)

        def install(connection: Connection) -> tuple[int, int, int]:
            models.register(connection, "vgg16")
            ids = [
                models.install(connection, "digits", version, _SPEC, [])
                for version in (_REMOVED, _OLDER, _CURRENT)
            ]
            return ids[0], ids[1], ids[2]

        self._removed, self._older, self.version_id = self.database.transact(install)
        self._own.execute(
            "UPDATE model_versions SET removed_at = now() WHERE id = %s", (self._removed,)
        )
        self.history = max(self.rows // 10, 100)
        self._insert(self.history, _IMAGES, _HISTORY, _RESULTS, _KEYS)
        self._own.execute(
            "UPDATE lanes SET clock = %s WHERE model_version = %s AND lane = %s",
            (self._next // FLOWS, self.version_id, LANE),
        )
        self._insert(self.history, _IMAGES, _PINNED)
        self.top_up(self.rows + _CLAIMS_HELD * _BATCH)
        for _ in range(_CLAIMS_HELD):
            claim_batch(
                self.database,
                self.cursor,
                version_id=self.version_id,
                lane=LANE,
                limit=_BATCH,
                claimant=Claimant(new_id(), lease_seconds=86400),
            )
        self.vacuum()

    def _insert(self, count: int, *statements: str) -> None:
        values = {"version": self.version_id, "older": self._older, "lane": LANE}
        values |= {"first": self._next, "last": self._next + count - 1}
        with self._own.transaction():
            for statement in statements:
                self._own.execute(statement, values)
        self._next += count

    def _drop(self) -> None:
        self._on_server(f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")

    def _on_server(self, statement: str) -> None:
        with psycopg.connect(_address(self._server), autocommit=True) as connection:
            connection.execute(statement)


def _address(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
