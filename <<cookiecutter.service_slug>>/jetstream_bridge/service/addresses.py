"""Addresses of NATS and of the database: taken apart, checked, and shown without their login.

What cannot be taken apart is never shown, not even in part: any piece of it may be of a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from jetstream_bridge.nats.options import parse_addresses
from jetstream_bridge.service.database_parameters import Parameters, translate

_DATABASE_DRIVERS = ("postgresql+asyncpg", "sqlite+aiosqlite")
# SQLAlchemy's own reading, held to the whole address: with an @ or a / in a login that is not
# written as its code, the end of the login would be read as a host or as a database.
_POSTGRES = re.compile(
    r"\w+(?:\+\w+)?://"
    r"(?:[^:/]*(?::[^@]*)?@)?"
    r"(?:\[[0-9A-Fa-f:.]+\]|[^\s/?#@:,\[\]]+)?(?::[0-9]*)?"
    r"(?:/[^?@]*)?(?:\?.*)?"
)
_NOT_SHOWN = (
    "it is not a database address that can be read (not shown: it may hold a password); in its "
    "login write special characters as their codes, %40 for @, %2F for /, %3A for a colon"
)


def split_addresses(addresses: str) -> tuple[str, ...]:
    return tuple(address.strip() for address in addresses.split(",") if address.strip())


def check_nats_addresses(addresses: tuple[str, ...]) -> None:
    if not addresses:
        raise ValueError("no address in it; write one like nats://localhost:4222")
    over_websocket = {parts.scheme in ("ws", "wss") for parts in parse_addresses(addresses)}
    if len(over_websocket) > 1:
        raise ValueError(
            "it mixes WebSocket addresses with others, which the client cannot do; "
            "write all of them with ws:// and wss://, or none"
        )


@dataclass(frozen=True)
class DatabaseAddress:
    """DATABASE_URL, taken apart. As text it has neither a login nor parameters."""

    url: URL  # as the engine takes it; of the parameters only those that name hosts
    parameters: Parameters

    def __str__(self) -> str:
        url = self.url
        query = url.query if url.get_backend_name() == "postgresql" else {}
        bare = URL.create(url.drivername, None, None, url.host, url.port, url.database, query)
        return bare.render_as_string()

    def secrets(self) -> set[str]:
        """Every text in it that must not be shown."""
        return {secret for secret in (self.url.password, self.parameters.key_password) if secret}


def parse_database_address(address: str) -> DatabaseAddress:
    """Take the address of a supported database apart; raise `ValueError` for any other."""
    url = _parsed(address)
    if url is None:
        raise ValueError(_NOT_SHOWN)
    if url.drivername in ("postgres", "postgresql"):  # as clouds hand them out
        url = url.set(drivername="postgresql+asyncpg")
    if url.drivername not in _DATABASE_DRIVERS:
        raise ValueError(_wrong_driver(url))
    if url.drivername.startswith("sqlite"):
        return _file_address(url)
    return _server_address(url)


def _server_address(url: URL) -> DatabaseAddress:
    parameters = translate(url.query)
    hosts = {name: value for name, value in url.query.items() if name in ("host", "port")}
    found = DatabaseAddress(_with_login(url, parameters).set(query=hosts), parameters)
    if not found.url.database:
        raise ValueError(f"{str(found)!r} names no database; add it: {str(found).rstrip('/')}/name")
    try:
        found.url.get_dialect()().create_connect_args(found.url)
    except (ArgumentError, ValueError):
        fault = f"{str(found)!r} names hosts and ports that do not belong together"
    else:
        return found
    raise ValueError(f"{fault}; write ?host=one:5432&host=two:5432")


def _with_login(url: URL, parameters: Parameters) -> URL:
    """As SQLAlchemy has it, what stands among the parameters wins."""
    given = parameters.login
    return url.set(
        username=given.get("username", url.username),
        password=given.get("password", url.password),
        database=given.get("database", url.database),
    )


def _file_address(url: URL) -> DatabaseAddress:
    found = DatabaseAddress(url, Parameters())
    if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
        raise ValueError(
            f"{str(found)!r} is a database in memory, which every connection would have for "
            f"itself; write a file, like sqlite+aiosqlite:///./service.db"
        )
    return found


def _parsed(address: str) -> URL | None:
    """Return the parts of `address`; None if what is read as one part may be of another."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        return None
    if url.drivername.startswith("sqlite"):
        login = (url.username, url.password, url.host, url.port)
        return url if login == (None, None, None, None) else None
    return url if _POSTGRES.fullmatch(address) else None


def _wrong_driver(url: URL) -> str:
    shown = URL.create(url.drivername, None, None, url.host, url.port, url.database)
    family = url.drivername.partition("+")[0].replace("postgres", "postgresql", 1)
    family = family.replace("postgresqlql", "postgresql")
    fitting = [driver for driver in _DATABASE_DRIVERS if driver.startswith(f"{family}+")]
    remedy = " or ".join(f"{driver}://…" for driver in fitting or _DATABASE_DRIVERS)
    return f"{shown.render_as_string()!r} names the driver {url.drivername!r}; write {remedy}"
