"""Ingestions: many jobs that came from one source, their items, and their counts."""

import sqlalchemy as sa
from alembic import op

from shared import online
from shared.tables import UTCDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INDEXES = {
    "jobs_ingestion": (["ingestion", "id"], "ingestion IS NOT NULL"),
    "jobs_ingestion_failed": (
        ["ingestion", "position"],
        "ingestion IS NOT NULL AND status IN ('failed', 'expired')",
    ),
    "jobs_ingestion_finished": (
        ["ingestion", "finished_at", "position"],
        "ingestion IS NOT NULL AND finished_at IS NOT NULL",
    ),
}


def upgrade() -> None:
    """Apply."""
    online.add_column(
        "jobs",
        sa.Column(
            "position", sa.Integer(), nullable=True, comment="Of its item in the ingestion, from 0."
        ),
    )
    for name, (columns, condition) in _INDEXES.items():
        online.create_index(name, "jobs", columns, condition)
    op.create_table(
        "ingestions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("source_kind", sa.String(length=10), nullable=False),
        sa.Column(
            "source",
            sa.Text(),
            nullable=True,
            comment="Its address, or the name of the uploaded file.",
        ),
        sa.Column(
            "object",
            sa.String(length=200),
            nullable=True,
            comment="An uploaded or fetched file, until it is expanded.",
        ),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column(
            "pinned", sa.Boolean(), nullable=False, comment="False while its model is downloaded."
        ),
        sa.Column("top_k", sa.Integer(), nullable=False),
        sa.Column("min_score", sa.Float(), nullable=True),
        sa.Column("reference", sa.String(length=200), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("deadline_at", UTCDateTime(), nullable=True),
        sa.Column("max_failures", sa.Integer(), nullable=True),
        sa.Column(
            "expanded",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Items so far.",
        ),
        sa.Column(
            "refused",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Without a job.",
        ),
        sa.Column(
            "checkpoint",
            sa.JSON(),
            nullable=True,
            comment="Where the source is read on; the source's own.",
        ),
        sa.Column("expanded_at", UTCDateTime(), nullable=True),
        sa.Column("expander_token", sa.Uuid(), nullable=True),
        sa.Column("expander_lease_until", UTCDateTime(), nullable=True),
        sa.Column(
            "lapses",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="At this place.",
        ),
        sa.Column("turn_at", UTCDateTime(), nullable=False, comment="When it was last expanded."),
        sa.Column(
            "not_before",
            UTCDateTime(),
            nullable=True,
            comment="Its source could not be read: not again until.",
        ),
        sa.Column("unreachable_since", UTCDateTime(), nullable=True),
        sa.Column("error_code", sa.String(length=40), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column(
            "output",
            sa.Text(),
            nullable=True,
            comment="Below which address result files are written.",
        ),
        sa.Column(
            "output_part_rows", sa.Integer(), server_default=sa.text("10000"), nullable=False
        ),
        sa.Column("output_parts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("output_token", sa.Uuid(), nullable=True),
        sa.Column("output_lease_until", UTCDateTime(), nullable=True),
        sa.Column("output_error", sa.Text(), nullable=True),
        sa.Column(
            "written_at", UTCDateTime(), nullable=True, comment="When all result files were there."
        ),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=True),
        sa.Column("finished_at", UTCDateTime(), nullable=True),
        sa.Column(
            "settled_at",
            UTCDateTime(),
            nullable=True,
            comment="When the last of its jobs had ended, too.",
        ),
        sa.Column(
            "deleted_at", UTCDateTime(), nullable=True, comment="Hidden; the sweep removes it."
        ),
        sa.Column("request_id", sa.String(length=200), nullable=True),
        sa.Column("trace_parent", sa.String(length=200), nullable=True),
        sa.CheckConstraint(
            "source_kind IN ('archive', 'directory', 'bucket', 'list')",
            name=op.f("ck_ingestions_source_kind"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'partially_succeeded', 'failed', "
            "'canceled')",
            name=op.f("ck_ingestions_status"),
        ),
        sa.ForeignKeyConstraint(
            ["model_version"], ["model_versions.id"], name=op.f("fk_ingestions_model_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingestions")),
    )
    op.create_index(
        "ingestions_deleted",
        "ingestions",
        ["id"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
        sqlite_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index("ingestions_owner", "ingestions", ["owner", "id"], unique=False)
    op.create_index(
        "ingestions_unsettled",
        "ingestions",
        ["id"],
        unique=False,
        postgresql_where=sa.text("settled_at IS NULL"),
        sqlite_where=sa.text("settled_at IS NULL"),
    )
    op.create_index(
        "ingestions_unwritten",
        "ingestions",
        ["id"],
        unique=False,
        postgresql_where=sa.text("output IS NOT NULL AND written_at IS NULL"),
        sqlite_where=sa.text("output IS NOT NULL AND written_at IS NULL"),
    )
    op.create_index(
        "ingestions_waiting",
        "ingestions",
        ["turn_at"],
        unique=False,
        postgresql_where=sa.text("expanded_at IS NULL AND status IN ('queued', 'running')"),
        sqlite_where=sa.text("expanded_at IS NULL AND status IN ('queued', 'running')"),
    )
    op.create_table(
        "ingestion_counts",
        sa.Column("ingestion", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("succeeded", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("canceled", sa.Integer(), nullable=False),
        sa.Column("expired", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["ingestion"], ["ingestions.id"], name=op.f("fk_ingestion_counts_ingestion")
        ),
        sa.PrimaryKeyConstraint("ingestion", "slot", name=op.f("pk_ingestion_counts")),
    )
    op.create_table(
        "items",
        sa.Column("ingestion", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="As the source has it; text, never a path."
        ),
        sa.Column(
            "job",
            sa.Uuid(),
            nullable=True,
            comment="Null for one that was refused, or is to be fetched again.",
        ),
        sa.Column("reference", sa.String(length=200), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=True),
        sa.Column("error_code", sa.String(length=40), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("finished_at", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["ingestion"], ["ingestions.id"], name=op.f("fk_items_ingestion")),
        sa.PrimaryKeyConstraint("ingestion", "position", name=op.f("pk_items")),
    )
    op.create_index(
        "items_refused",
        "items",
        ["ingestion", "finished_at", "position"],
        unique=False,
        postgresql_where=sa.text("job IS NULL AND error_code IS NOT NULL"),
        sqlite_where=sa.text("job IS NULL AND error_code IS NOT NULL"),
    )
    op.create_index(
        "items_unfetched",
        "items",
        ["ingestion", "position"],
        unique=False,
        postgresql_where=sa.text("job IS NULL AND error_code IS NULL"),
        sqlite_where=sa.text("job IS NULL AND error_code IS NULL"),
    )


def downgrade() -> None:
    """Undo. Jobs that came from an ingestion stay, and then came from none."""
    op.execute("UPDATE jobs SET ingestion = NULL WHERE ingestion IS NOT NULL")
    for name in _INDEXES:
        op.drop_index(name, "jobs")
    op.drop_column("jobs", "position")
    op.drop_index(
        "items_unfetched",
        table_name="items",
        postgresql_where=sa.text("job IS NULL AND error_code IS NULL"),
        sqlite_where=sa.text("job IS NULL AND error_code IS NULL"),
    )
    op.drop_index(
        "items_refused",
        table_name="items",
        postgresql_where=sa.text("job IS NULL AND error_code IS NOT NULL"),
        sqlite_where=sa.text("job IS NULL AND error_code IS NOT NULL"),
    )
    op.drop_table("items")
    op.drop_table("ingestion_counts")
    op.drop_index(
        "ingestions_waiting",
        table_name="ingestions",
        postgresql_where=sa.text("expanded_at IS NULL AND status IN ('queued', 'running')"),
        sqlite_where=sa.text("expanded_at IS NULL AND status IN ('queued', 'running')"),
    )
    op.drop_index(
        "ingestions_unwritten",
        table_name="ingestions",
        postgresql_where=sa.text("output IS NOT NULL AND written_at IS NULL"),
        sqlite_where=sa.text("output IS NOT NULL AND written_at IS NULL"),
    )
    op.drop_index(
        "ingestions_unsettled",
        table_name="ingestions",
        postgresql_where=sa.text("settled_at IS NULL"),
        sqlite_where=sa.text("settled_at IS NULL"),
    )
    op.drop_index("ingestions_owner", table_name="ingestions")
    op.drop_index(
        "ingestions_deleted",
        table_name="ingestions",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
        sqlite_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_table("ingestions")
