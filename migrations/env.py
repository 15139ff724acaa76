"""Alembic's entry: runs the migrations on the connection it is given."""

from alembic import context

from shared.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # A revision is short, and some steps commit by themselves: shared/online.py.
    transaction_per_migration=True,
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
