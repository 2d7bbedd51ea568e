"""The bridge's own branch of Alembic, and how a service runs it beside its own revisions."""
