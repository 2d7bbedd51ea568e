"""Alembic's entry: this service's tables. How the migrations run is the package's."""

from __future__ import annotations

from sqlmodel import SQLModel

import app.models  # noqa: F401 - puts the tables on the metadata
from app.settings import Settings
from jetstream_bridge.migrations.environment import run_migrations

run_migrations(Settings, SQLModel.metadata)
