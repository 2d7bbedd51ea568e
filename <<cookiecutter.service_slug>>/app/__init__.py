"""The service. Every constraint of its tables has a name that does not depend on the database.

Migrations change constraints by name, and SQLite gives none of its own. The convention takes
effect on tables that are defined after it, so it is set before any module of the service runs.
"""

from sqlmodel import SQLModel

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "%(constraint_name)s",  # a check must be named where it is written
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
