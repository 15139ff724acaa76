"""Embeddings and best labels of results; the indexes that finding jobs and the status page need."""

import sqlalchemy as sa
from alembic import op

from shared import online

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
    "postgresql": "predictions -> 0 ->> 1",
    "sqlite": "json_extract(predictions, '$[0][1]')",
}


def upgrade() -> None:
    """Apply."""
    online.add_column(
        "results",
        sa.Column(
            "embedding",
            sa.LargeBinary(),
            nullable=True,
            comment="Of a model without a top: float32, little-endian. Then there are no "
            "predictions.",
        ),
    )
    online.add_column(
        "results",
        sa.Column(
            "label", sa.Text(), nullable=True, comment="The best prediction's, to find jobs by."
        ),
    )
    best = _BEST_LABEL[op.get_bind().dialect.name]
    online.fill("results", "label", best, key="image")
    online.create_index("ix_results_label", "results", ["label", "image", "model_version"])
    for name, (columns, condition) in _INDEXES.items():
        online.create_index(name, "jobs", columns, condition)


def downgrade() -> None:
    """Undo."""
    for name in _INDEXES:
        op.drop_index(name, "jobs")
    op.drop_index("ix_results_label", "results")
    op.drop_column("results", "label")
    op.drop_column("results", "embedding")
