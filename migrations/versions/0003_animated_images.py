"""Whether an image has more frames or pages than the first, which is what is classified."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "images",
        sa.Column(
            "animated",
            sa.Boolean(),
            nullable=True,
            comment="Whether it has more frames or pages than the first; null: not looked at.",
        ),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_column("images", "animated")
