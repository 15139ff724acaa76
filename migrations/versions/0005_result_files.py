"""What was written of an ingestion's result files."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "result_files",
        sa.Column("ingestion", sa.Uuid(), nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        # The release before this one deletes ingestions, and knows nothing of this table.
        sa.ForeignKeyConstraint(
            ["ingestion"],
            ["ingestions.id"],
            name=op.f("fk_result_files_ingestion"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("ingestion", "part", "name", name=op.f("pk_result_files")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("result_files")
