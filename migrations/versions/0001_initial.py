"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables import UTCDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "claims",
        sa.Column("token", sa.Uuid(), nullable=False),
        sa.Column("worker", sa.Uuid(), nullable=False),
        sa.Column("lease_until", UTCDateTime(), nullable=False),
        sa.Column(
            "trial",
            sa.Uuid(),
            nullable=True,
            comment="The job on trial, noted before it is touched.",
        ),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_claims")),
    )
    op.create_index("ix_claims_lease_until", "claims", ["lease_until"], unique=False)
    op.create_index("ix_claims_worker", "claims", ["worker"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column(
            "job", sa.Uuid(), nullable=False, comment="No foreign key: a job since deleted is 410."
        ),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(
        "ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False
    )
    op.create_table(
        "images",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column(
            "object",
            sa.String(length=200),
            nullable=True,
            comment="Name of the live object; null when it was lost.",
        ),
        sa.Column("media_type", sa.String(length=40), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_images")),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column(
            "current_version",
            sa.Integer(),
            nullable=True,
            comment="Id of the version new jobs get; null while the model is not installed.",
        ),
        sa.Column("download_token", sa.Uuid(), nullable=True),
        sa.Column("download_lease_until", UTCDateTime(), nullable=True),
        sa.Column("download_bytes", sa.BigInteger(), nullable=True),
        sa.Column("download_total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("download_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "slot",
            sa.String(length=100),
            nullable=False,
            comment="A later process in it is a successor.",
        ),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=100), nullable=True),
        sa.Column("versions", JSON, nullable=False, comment="Ids of the versions it has loaded."),
        sa.Column("max_batch_size", sa.Integer(), nullable=True),
        sa.Column("images_per_second", sa.Float(), nullable=True),
        sa.Column(
            "trouble", sa.Text(), nullable=True, comment="Why it does not serve what it should."
        ),
        sa.Column("started_at", UTCDateTime(), nullable=False),
        sa.Column("last_seen", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_index("ix_workers_slot", "workers", ["slot"], unique=False)
    op.create_table(
        "model_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column(
            "version",
            sa.String(length=12),
            nullable=True,
            comment="Null for the placeholder of a model being downloaded.",
        ),
        sa.Column(
            "spec",
            JSON,
            nullable=True,
            comment="What a worker needs to serve it: shared.models.ModelSpec.",
        ),
        sa.Column(
            "labels",
            JSON,
            nullable=True,
            comment="[[class_id, label], …] in the order of the model's output.",
        ),
        sa.Column("installed_at", UTCDateTime(), nullable=True),
        sa.Column("removed_at", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_model_versions_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("model", "version", name=op.f("uq_model_versions_model_version")),
    )
    op.create_index(
        "model_versions_placeholder",
        "model_versions",
        ["model"],
        unique=True,
        postgresql_where=sa.text("version IS NULL"),
        sqlite_where=sa.text("version IS NULL"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("image", sa.String(length=64), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("top_k", sa.Integer(), nullable=False),
        sa.Column("min_score", sa.Float(), nullable=True),
        sa.Column(
            "filename",
            sa.Text(),
            nullable=True,
            comment="As the client named it; text, never a path.",
        ),
        sa.Column("reference", sa.String(length=200), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("ingestion", sa.Uuid(), nullable=True),
        sa.Column("lane", sa.String(length=11), nullable=False),
        sa.Column("flow", sa.String(length=100), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("not_before", UTCDateTime(), nullable=True, comment="Parked until then."),
        sa.Column(
            "parked_at",
            UTCDateTime(),
            nullable=True,
            comment="When its image could not be read for the first time.",
        ),
        sa.Column("parks", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("deadline_at", UTCDateTime(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("claim_token", sa.Uuid(), nullable=True),
        sa.Column("suspect", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("lapses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reused", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("error_code", sa.String(length=40), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=True),
        sa.Column("finished_at", UTCDateTime(), nullable=True),
        sa.Column("decode_ms", sa.Float(), nullable=True),
        sa.Column("inference_ms", sa.Float(), nullable=True),
        sa.Column("request_id", sa.String(length=200), nullable=True),
        sa.Column("trace_parent", sa.String(length=200), nullable=True),
        sa.CheckConstraint(
            "(status = 'running') = (claim_token IS NOT NULL)", name=op.f("ck_jobs_claimed")
        ),
        sa.CheckConstraint("lane IN ('interactive', 'bulk')", name=op.f("ck_jobs_lane")),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'failed', 'canceled', 'expired')",
            name=op.f("ck_jobs_status"),
        ),
        sa.ForeignKeyConstraint(
            ["image"], ["images.sha256"], name=op.f("fk_jobs_image"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["model_version"], ["model_versions.id"], name=op.f("fk_jobs_model_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        postgresql_with={
            "autovacuum_vacuum_scale_factor": 0,
            "autovacuum_vacuum_threshold": 20000,
            "autovacuum_analyze_scale_factor": 0,
            "autovacuum_analyze_threshold": 20000,
        },
    )
    op.create_index(
        "jobs_claimed",
        "jobs",
        ["claim_token"],
        unique=False,
        postgresql_where=sa.text("claim_token IS NOT NULL"),
        sqlite_where=sa.text("claim_token IS NOT NULL"),
    )
    op.create_index(
        "jobs_deadline",
        "jobs",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text("status = 'queued' AND deadline_at IS NOT NULL"),
        sqlite_where=sa.text("status = 'queued' AND deadline_at IS NOT NULL"),
    )
    op.create_index(
        "jobs_flow",
        "jobs",
        ["model_version", "pinned", "lane", "flow", "sequence", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued'"),
        sqlite_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "jobs_guilty",
        "jobs",
        ["image", "model_version"],
        unique=False,
        postgresql_where=sa.text("error_code = 'worker_lost'"),
        sqlite_where=sa.text("error_code = 'worker_lost'"),
    )
    op.create_index("jobs_image", "jobs", ["image"], unique=False)
    op.create_index("jobs_owner", "jobs", ["owner", "id"], unique=False)
    op.create_index(
        "jobs_parked",
        "jobs",
        ["not_before"],
        unique=False,
        postgresql_where=sa.text("status = 'queued' AND not_before IS NOT NULL"),
        sqlite_where=sa.text("status = 'queued' AND not_before IS NOT NULL"),
    )
    op.create_index(
        "jobs_queued",
        "jobs",
        ["model_version", "lane", "sequence", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued' AND not_before IS NULL"),
        sqlite_where=sa.text("status = 'queued' AND not_before IS NULL"),
    )
    op.create_table(
        "lanes",
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("lane", sa.String(length=11), nullable=False),
        sa.Column("clock", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("lane IN ('interactive', 'bulk')", name=op.f("ck_lanes_lane")),
        sa.ForeignKeyConstraint(
            ["model_version"], ["model_versions.id"], name=op.f("fk_lanes_model_version")
        ),
        sa.PrimaryKeyConstraint("model_version", "lane", name=op.f("pk_lanes")),
    )
    op.create_table(
        "results",
        sa.Column("image", sa.String(length=64), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column(
            "predictions",
            JSON,
            nullable=False,
            comment="[[class_id, label, score], …], best first: the top 20, or all of at most 100.",
        ),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image"], ["images.sha256"], name=op.f("fk_results_image"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["model_version"], ["model_versions.id"], name=op.f("fk_results_model_version")
        ),
        sa.PrimaryKeyConstraint("image", "model_version", name=op.f("pk_results")),
    )


def downgrade() -> None:
    """Undo."""
    for table in (
        "results",
        "lanes",
        "jobs",
        "model_versions",
        "workers",
        "models",
        "images",
        "idempotency_keys",
        "claims",
    ):
        op.drop_table(table)
