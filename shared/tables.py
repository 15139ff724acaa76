"""All tables. PostgreSQL and SQLite are made from the same definitions."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

STATUSES = ("queued", "running", "succeeded", "failed", "canceled", "expired")
TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
LANES = ("interactive", "bulk")
INGESTION_STATUSES = (
    "queued",
    "running",
    "succeeded",
    "partially_succeeded",
    "failed",
    "canceled",
)
SOURCE_KINDS = ("archive", "directory", "bucket", "list")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UTCDateTime(TypeDecorator[datetime]):
    """A time in UTC. SQLite keeps no zone, so it is taken off and put back here."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Python → database."""
        if value is not None and dialect.name == "sqlite":
            return value.astimezone(UTC).replace(tzinfo=None)
        return value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Database → Python."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_json = JSON().with_variant(JSONB(), "postgresql")


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


models = Table(
    "models",
    metadata,
    Column("name", String(100), primary_key=True),
    # No foreign key: it would go round in a circle, which SQLite cannot add after the fact.
    Column(
        "current_version",
        Integer,
        comment="Id of the version new jobs get; null while the model is not installed.",
    ),
    # A download, while there is one: whose it is, until when, how far, and why the last one failed.
    Column("download_token", Uuid),
    Column("download_lease_until", UTCDateTime),
    Column("download_bytes", BigInteger),
    Column("download_total_bytes", BigInteger),
    Column("download_error", Text),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", String(100), ForeignKey("models.name"), nullable=False),
    Column("version", String(12), comment="Null for the placeholder of a model being downloaded."),
    Column("spec", _json, comment="What a worker needs to serve it: shared.models.ModelSpec."),
    Column("labels", _json, comment="[[class_id, label], …] in the order of the model's output."),
    Column("installed_at", UTCDateTime),
    Column("removed_at", UTCDateTime),
    UniqueConstraint("model", "version"),
    Index(
        "model_versions_placeholder",
        "model",
        unique=True,
        postgresql_where=text("version IS NULL"),
        sqlite_where=text("version IS NULL"),
    ),
)

images = Table(
    "images",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("object", String(200), comment="Name of the live object; null when it was lost."),
    Column("media_type", String(40), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column(
        "animated",
        Boolean,
        comment="Whether it has more frames or pages than the first; null: not looked at.",
    ),
)

results = Table(
    "results",
    metadata,
    Column(
        "image",
        String(64),
        ForeignKey("images.sha256", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("model_version", Integer, ForeignKey("model_versions.id"), primary_key=True),
    Column(
        "predictions",
        _json,
        nullable=False,
        comment="[[class_id, label, score], …], best first: the top 20, or all of at most 100.",
    ),
    Column(
        "embedding",
        LargeBinary,
        comment="Of a model without a top: float32, little-endian. Then there are no predictions.",
    ),
    Column("label", Text, comment="The best prediction's, to find jobs by."),
    Column("created_at", UTCDateTime, nullable=False),
    Index("ix_results_label", "label", "image", "model_version"),
)

_QUEUED = text("status = 'queued'")
_CLAIMABLE = text("status = 'queued' AND not_before IS NULL")


def _partial_index(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(where))


jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner", String(100), nullable=False),
    Column("status", String(10), nullable=False),
    # What is to be done
    Column("image", String(64), ForeignKey("images.sha256", ondelete="RESTRICT"), nullable=False),
    Column("model_version", Integer, ForeignKey("model_versions.id"), nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("top_k", Integer, nullable=False),
    Column("min_score", Float),
    Column("filename", Text, comment="As the client named it; text, never a path."),
    Column("reference", String(200)),
    # Plain JSON: JSONB would change the caller's numbers and the order of its keys.
    Column("metadata", JSON(), nullable=False),
    Column("ingestion", Uuid),
    Column("position", Integer, comment="Of its item in the ingestion, from 0."),
    # When its turn comes
    Column("lane", String(11), nullable=False),
    Column("flow", String(100), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("not_before", UTCDateTime, comment="Parked until then."),
    Column(
        "parked_at", UTCDateTime, comment="When its image could not be read for the first time."
    ),
    Column("parks", Integer, nullable=False, server_default=text("0")),
    Column("deadline_at", UTCDateTime),
    # Who works on it
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("claim_token", Uuid),
    Column("suspect", Boolean, nullable=False, server_default=false()),
    Column("lapses", Integer, nullable=False, server_default=text("0")),
    # What became of it; its result is the row of `results` for its image and version
    Column("reused", Boolean, nullable=False, server_default=false()),
    Column("error_code", String(40)),
    Column("error_detail", Text),
    Column("created_at", UTCDateTime, nullable=False),
    Column("started_at", UTCDateTime),
    Column("finished_at", UTCDateTime),
    Column("decode_ms", Float),
    Column("inference_ms", Float),
    # To be followed through logs and traces, since the message carries nothing
    Column("request_id", String(200)),
    Column("trace_parent", String(200)),
    _one_of("status", STATUSES),
    _one_of("lane", LANES),
    CheckConstraint("(status = 'running') = (claim_token IS NOT NULL)", name="claimed"),
    _partial_index("jobs_queued", "model_version", "lane", "sequence", "id", where=_CLAIMABLE.text),
    _partial_index(
        "jobs_flow", "model_version", "pinned", "lane", "flow", "sequence", "id", where=_QUEUED.text
    ),
    _partial_index("jobs_claimed", "claim_token", where="claim_token IS NOT NULL"),
    _partial_index(
        "jobs_parked", "not_before", where="status = 'queued' AND not_before IS NOT NULL"
    ),
    _partial_index(
        "jobs_deadline", "deadline_at", where="status = 'queued' AND deadline_at IS NOT NULL"
    ),
    _partial_index("jobs_guilty", "image", "model_version", where="error_code = 'worker_lost'"),
    Index("jobs_image", "image"),
    # Finding jobs, newest first. Most jobs end as succeeded: those are met on the way by owner.
    Index("jobs_owner", "owner", "id"),
    _partial_index("jobs_unsucceeded", "owner", "status", "id", where="status <> 'succeeded'"),
    _partial_index("jobs_reference", "owner", "reference", "id", where="reference IS NOT NULL"),
    # Of an ingestion: all, as they finished, and those that a retry makes anew.
    _partial_index("jobs_ingestion", "ingestion", "id", where="ingestion IS NOT NULL"),
    _partial_index(
        "jobs_ingestion_finished",
        "ingestion",
        "finished_at",
        "position",
        where="ingestion IS NOT NULL AND finished_at IS NOT NULL",
    ),
    _partial_index(
        "jobs_ingestion_failed",
        "ingestion",
        "position",
        where="ingestion IS NOT NULL AND status IN ('failed', 'expired')",
    ),
    # The last hour for the status page, read from the index alone.
    _partial_index(
        "jobs_finished",
        "finished_at",
        "created_at",
        "status",
        "lane",
        where="finished_at IS NOT NULL",
    ),
    # By count, not by share: a share of ten million rows would leave the queue's head full of
    # dead entries for hours.
    postgresql_with={
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 20000,
        "autovacuum_analyze_scale_factor": 0,
        "autovacuum_analyze_threshold": 20000,
    },
)

ingestions = Table(
    "ingestions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner", String(100), nullable=False),
    Column("status", String(20), nullable=False),
    # What is to be done
    Column("source_kind", String(10), nullable=False),
    Column("source", Text, comment="Its address, or the name of the uploaded file."),
    Column("object", String(200), comment="An uploaded or fetched file, until it is expanded."),
    Column("model_version", Integer, ForeignKey("model_versions.id"), nullable=False),
    Column("pinned", Boolean, nullable=False, comment="False while its model is downloaded."),
    Column("top_k", Integer, nullable=False),
    Column("min_score", Float),
    Column("reference", String(200)),
    Column("metadata", JSON(), nullable=False),
    Column("deadline_at", UTCDateTime),
    Column("max_failures", Integer),
    # How far its expansion is, and whose it is
    Column("expanded", Integer, nullable=False, server_default=text("0"), comment="Items so far."),
    Column("refused", Integer, nullable=False, server_default=text("0"), comment="Without a job."),
    Column("checkpoint", JSON(), comment="Where the source is read on; the source's own."),
    Column("expanded_at", UTCDateTime),
    Column("expander_token", Uuid),
    Column("expander_lease_until", UTCDateTime),
    Column("lapses", Integer, nullable=False, server_default=text("0"), comment="At this place."),
    Column("turn_at", UTCDateTime, nullable=False, comment="When it was last expanded."),
    Column("not_before", UTCDateTime, comment="Its source could not be read: not again until."),
    Column("unreachable_since", UTCDateTime),
    # What is wrong with its source, or with all of it
    Column("error_code", String(40)),
    Column("error_detail", Text),
    # Result files
    Column("output", Text, comment="Below which address result files are written."),
    Column("output_part_rows", Integer, nullable=False, server_default=text("10000")),
    Column("output_parts", Integer, nullable=False, server_default=text("0")),
    Column("output_token", Uuid),
    Column("output_lease_until", UTCDateTime),
    Column("output_error", Text),
    Column("written_at", UTCDateTime, comment="When all result files were there."),
    # Times
    Column("created_at", UTCDateTime, nullable=False),
    Column("started_at", UTCDateTime),
    Column("finished_at", UTCDateTime),
    Column("settled_at", UTCDateTime, comment="When the last of its jobs had ended, too."),
    Column("deleted_at", UTCDateTime, comment="Hidden; the sweep removes it."),
    Column("request_id", String(200)),
    Column("trace_parent", String(200)),
    _one_of("status", INGESTION_STATUSES),
    _one_of("source_kind", SOURCE_KINDS),
    Index("ingestions_owner", "owner", "id"),
    _partial_index(
        "ingestions_waiting",
        "turn_at",
        where="expanded_at IS NULL AND status IN ('queued', 'running')",
    ),
    _partial_index("ingestions_unsettled", "id", where="settled_at IS NULL"),
    _partial_index("ingestions_unwritten", "id", where="output IS NOT NULL AND written_at IS NULL"),
    _partial_index("ingestions_deleted", "id", where="deleted_at IS NOT NULL"),
)

items = Table(
    "items",
    metadata,
    Column("ingestion", Uuid, ForeignKey("ingestions.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("name", Text, nullable=False, comment="As the source has it; text, never a path."),
    Column("job", Uuid, comment="Null for one that was refused, or is to be fetched again."),
    # Of one without a job; else the job has them
    Column("reference", String(200)),
    Column("metadata", JSON()),
    Column("error_code", String(40)),
    Column("error_detail", Text),
    Column("finished_at", UTCDateTime),
    _partial_index(
        "items_refused",
        "ingestion",
        "finished_at",
        "position",
        where="job IS NULL AND error_code IS NOT NULL",
    ),
    _partial_index(
        "items_unfetched", "ingestion", "position", where="job IS NULL AND error_code IS NULL"
    ),
)

# Finished jobs of an ingestion, added to by whoever ends them. Several rows for each, so that
# no row is wanted by all; they are summed when read.
ingestion_counts = Table(
    "ingestion_counts",
    metadata,
    Column("ingestion", Uuid, ForeignKey("ingestions.id"), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("succeeded", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("canceled", Integer, nullable=False),
    Column("expired", Integer, nullable=False),
)

# What was written of an ingestion's result files, for the manifest that is written last.
result_files = Table(
    "result_files",
    metadata,
    Column("ingestion", Uuid, ForeignKey("ingestions.id", ondelete="CASCADE"), primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("name", String(100), primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
)

claims = Table(
    "claims",
    metadata,
    Column("token", Uuid, primary_key=True),
    Column("worker", Uuid, nullable=False, index=True),
    Column("lease_until", UTCDateTime, nullable=False, index=True),
    Column("trial", Uuid, comment="The job on trial, noted before it is touched."),
)

lanes = Table(
    "lanes",
    metadata,
    Column("model_version", Integer, ForeignKey("model_versions.id"), primary_key=True),
    Column("lane", String(11), primary_key=True),
    Column("clock", BigInteger, nullable=False, server_default=text("0")),
    _one_of("lane", LANES),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("slot", String(100), nullable=False, comment="A later process in it is a successor."),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", String(100)),
    Column("versions", _json, nullable=False, comment="Ids of the versions it has loaded."),
    Column("max_batch_size", Integer),
    Column("images_per_second", Float),
    Column("trouble", Text, comment="Why it does not serve what it should."),
    Column("started_at", UTCDateTime, nullable=False),
    Column("last_seen", UTCDateTime, nullable=False),
    Index("ix_workers_slot", "slot"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(100), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("job", Uuid, nullable=False, comment="No foreign key: a job since deleted is 410."),
    Column("created_at", UTCDateTime, nullable=False, index=True),
)
