"""Embeddings and best labels of results; the indexes that finding jobs and the status page need."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_INDEXES = {
    "jobs_unsucceeded": (["owner", "status", "id"], "status <> 'succeeded'"),
    "jobs_reference": (["owner", "reference", "id"], "reference IS NOT NULL"),
    "jobs_finished": (
        ["finished_at", "created_at", "status", "lane"],
        "finished_at IS NOT NULL",
    ),
}
_BEST_LABEL = {
    "postgresql": "UPDATE results SET label = predictions -> 0 ->> 1",
    "sqlite": "UPDATE results SET label = json_extract(predictions, '$[0][1]')",
}


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "results",
        sa.Column(
            "embedding",
            sa.LargeBinary(),
            nullable=True,
            comment="Of a model without a top: float32, little-endian. Then there are no "
            "predictions.",
        ),
    )
    op.add_column(
        "results",
        sa.Column(
            "label", sa.Text(), nullable=True, comment="The best prediction's, to find jobs by."
        ),
    )
    op.execute(_BEST_LABEL[op.get_bind().dialect.name])
    op.create_index("ix_results_label", "results", ["label", "image", "model_version"])
    for name, (columns, condition) in _INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, "jobs", columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    """Undo."""
    for name in _INDEXES:
        op.drop_index(name, "jobs")
    op.drop_index("ix_results_label", "results")
    op.drop_column("results", "label")
    op.drop_column("results", "embedding")
