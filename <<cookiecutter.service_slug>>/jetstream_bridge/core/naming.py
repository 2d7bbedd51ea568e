"""`SQLModel` with a convention for the names of constraints, for a service's tables.

Migrations change constraints by name, and SQLite gives none of its own. The convention takes
effect on tables that are defined after it, so a table's module takes `SQLModel` from here.
"""

from __future__ import annotations

from sqlmodel import SQLModel

__all__ = ["CONSTRAINT_NAMES", "SQLModel"]

# Source: SQLAlchemy's "Configuring Constraint Naming Conventions".
CONSTRAINT_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "%(constraint_name)s",  # a check must be named where it is written
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

SQLModel.metadata.naming_convention = CONSTRAINT_NAMES
