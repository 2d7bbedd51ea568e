"""What went wrong outside, as one line: the cause, and what to do about it.

No line has a secret in it: addresses are shown without their login, and whatever a driver says is
searched for the parts of the database's address.
"""

from __future__ import annotations

import re

from nats.errors import Error as NatsError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from app.bridge.errors import (
    ApiError,
    BridgeError,
    JetStreamUnavailableError,
    NoRespondersError,
    NotConnectedError,
    PermissionDeniedError,
    RequestTimeoutError,
    StreamMissingError,
)
from app.bridge.stream_api import STREAM_NOT_FOUND
from app.health import described
from app.settings import Settings

FAULTS = (BridgeError, NatsError, SQLAlchemyError, OSError, TimeoutError)

_JETSTREAM_OFF = "turn JetStream on in nats-server (-js), and for this account"
_ENSURE = "make it: python -m app.cli topology ensure"
_PERMISSIONS = "python -m app.cli permissions --admin prints what operators need"
# As SQLite and as PostgreSQL say it.
_NO_TABLE = re.compile(r"no such (table|column)|(relation|column) .* does not exist")
_LOCKED = "database is locked"


def explained(error: Exception, settings: Settings) -> str:
    """Say in one line what happened and what helps."""
    if isinstance(error, BridgeError | NatsError):
        text, remedy = str(error) or type(error).__name__, _remedy(error)
    elif type(error) is TimeoutError and str(error):
        return str(error)  # our own words, with a remedy
    else:
        return database_fault(described(error), settings)
    return f"{text}; {remedy}" if remedy else text


def database_fault(cause: str, settings: Settings) -> str:
    """Say which database did not do what it was asked, and why."""
    cause = "no answer in time" if cause == "TimeoutError" else without_login(cause, settings)
    address = database_address(settings)
    if _NO_TABLE.search(cause):
        return f"{address} lacks tables ({cause}); run: alembic upgrade head"
    remedy = "start the database, or correct DATABASE_URL"
    if _LOCKED in cause:
        remedy = "another process writes for a long time; try again"
    return f"{address} cannot be used: {cause}; {remedy}"


def database_address(settings: Settings) -> str:
    """The database's address without its login and its options, which may hold secrets too."""
    url = make_url(settings.database_url.get_secret_value())
    bare = URL.create(url.drivername, host=url.host, port=url.port, database=url.database)
    return bare.render_as_string()


def without_login(text: str, settings: Settings) -> str:
    """Blot out what logs in to the database, where it stands as a word of its own."""
    url = make_url(settings.database_url.get_secret_value())
    for secret in (url.password, *url.query.values()):
        if isinstance(secret, str) and secret:
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
