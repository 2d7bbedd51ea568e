"""What went wrong outside, as one line: the cause, and what to do about it.

No line has a secret in it: addresses are shown without their login, and whatever a driver says is
searched for the parts of the database's address.
"""

from __future__ import annotations

import re

from nats.errors import Error as NatsError

from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.core.database_probe import described
from jetstream_bridge.core.errors import (
    ApiError,
    BridgeError,
    JetStreamUnavailableError,
    NoRespondersError,
    NotConnectedError,
    PermissionDeniedError,
    RequestTimeoutError,
    StreamMissingError,
)
from jetstream_bridge.nats.management import STREAM_NOT_FOUND
from jetstream_bridge.service.addresses import parse_database_address
from jetstream_bridge.service.settings import BridgeSettings

FAULTS: tuple[type[Exception], ...] = (BridgeError, NatsError, *DATABASE_ERRORS)

_JETSTREAM_OFF = "turn JetStream on in nats-server (-js), and for this account"
_ENSURE = "make it: python -m app.cli topology ensure"
_PERMISSIONS = "python -m app.cli permissions --admin prints what operators need"
# As SQLite and as PostgreSQL say it.
_NO_TABLE = re.compile(r"no such (table|column)|(relation|column) .* does not exist")
_NO_DATABASE = re.compile(r'database "[^"]*" does not exist')
_NO_FILE = "unable to open database file"
_LOCKED = "database is locked"


def explained(error: Exception, settings: BridgeSettings) -> str:
    """Say in one line what happened and what helps."""
    if isinstance(error, BridgeError | NatsError):
        text, remedy = str(error) or type(error).__name__, _remedy(error)
    elif type(error) is TimeoutError and str(error):
        return str(error)  # our own words, with a remedy
    else:
        return database_fault(described(error), settings)
    return f"{text}; {remedy}" if remedy else text


def database_fault(cause: str, settings: BridgeSettings) -> str:
    """Say which database did not do what it was asked, and why."""
    cause = "no answer in time" if cause == "TimeoutError" else without_login(cause, settings)
    address = database_address(settings)
    if _NO_TABLE.search(cause):
        return f"{address} lacks tables ({cause}); run: alembic upgrade heads"
    remedy = "start the database, or correct DATABASE_URL"
    if _NO_DATABASE.search(cause):
        remedy = "create it, `createdb` or CREATE DATABASE, or correct DATABASE_URL"
    if _NO_FILE in cause:
        remedy = "is its folder there, and may this user write into it?"
    if _LOCKED in cause:
        remedy = "another process writes for a long time; try again"
    return f"{address} cannot be used: {cause}; {remedy}"


def database_address(settings: BridgeSettings) -> str:
    """The database's address without its login and its options, which may hold secrets too."""
    return str(parse_database_address(settings.database_url.get_secret_value()))


def without_login(text: str, settings: BridgeSettings) -> str:
    """Blot out what logs in to the database, where it stands as a word of its own."""
    for secret in parse_database_address(settings.database_url.get_secret_value()).secrets():
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def _remedy(error: Exception) -> str | None:
    if isinstance(error, NotConnectedError):
        return "start NATS, or correct NATS_URLS and the login"
    if isinstance(error, PermissionDeniedError):
        return _PERMISSIONS
    if isinstance(error, NoRespondersError | JetStreamUnavailableError):
        return _JETSTREAM_OFF
    if isinstance(error, RequestTimeoutError):
        return "is JetStream on, and has it a leader? python -m app.cli test-connection tells"
    missing = isinstance(error, ApiError) and error.err_code == STREAM_NOT_FOUND
    return _ENSURE if missing or isinstance(error, StreamMissingError) else None
