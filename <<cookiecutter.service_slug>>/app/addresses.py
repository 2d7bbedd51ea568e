"""Addresses of NATS and of the database: split, checked, and shown without their credentials.

Every refusal names the address, masked, and says what to write instead.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

DEFAULT_NATS_URL = "nats://localhost:4222"

_NATS_SCHEMES = ("nats", "tls", "nats+tls", "ws", "wss")
_DATABASE_DRIVERS = ("postgresql+asyncpg", "sqlite+aiosqlite")


def masked(url: str) -> str:
    """Return `url` without the credentials it may hold."""
    return re.sub(r"(?<=://)[^/,\s]*@", "***@", url)


def split_addresses(addresses: str) -> tuple[str, ...]:
    return tuple(address.strip() for address in addresses.split(",") if address.strip())


def check_nats_addresses(addresses: tuple[str, ...]) -> None:
    if not addresses:
        raise ValueError(f"no address in it; write one like {DEFAULT_NATS_URL}")
    for address in addresses:
        _check_address(address)
    over_websocket = {urlsplit(address).scheme in ("ws", "wss") for address in addresses}
    if len(over_websocket) > 1:
        raise ValueError(
            "it mixes WebSocket addresses with others, which the client cannot do; "
            "write all of them with ws:// and wss://, or none"
        )


def _check_address(address: str) -> None:
    rule = f"write one of {', '.join(f'{scheme}://' for scheme in _NATS_SCHEMES)} and host:port"
    if "://" not in address:
        raise ValueError(f"{address.rpartition('@')[2]!r} has no scheme; {rule}")
    scheme = address.partition("://")[0]
    if scheme not in _NATS_SCHEMES:
        raise ValueError(f"{masked(address)!r} has the scheme {scheme!r}; {rule}")
    parts = urlsplit(address)
    try:
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # urlsplit checks a port only when it is asked for
        usable = False
    if not usable:
        raise ValueError(f"{masked(address)!r} has no usable host or port; {rule}")


def check_database_address(address: str) -> None:
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise ValueError("it is not a database address") from None
    shown = masked(address)
    if url.drivername not in _DATABASE_DRIVERS:
        family = url.drivername.partition("+")[0].replace("postgres", "postgresql", 1)
        family = family.replace("postgresqlql", "postgresql")
        fitting = [driver for driver in _DATABASE_DRIVERS if driver.startswith(f"{family}+")]
        remedy = " or ".join(f"{driver}://…" for driver in fitting or _DATABASE_DRIVERS)
        raise ValueError(f"{shown!r} names the driver {url.drivername!r}; write {remedy}")
    if url.drivername.startswith("sqlite"):
        if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
            raise ValueError(
                f"{shown!r} is a database in memory, which every connection would have for "
                f"itself; write a file, like sqlite+aiosqlite:///./service.db"
            )
    elif not url.database:
        raise ValueError(f"{shown!r} names no database; add it: {shown.rstrip('/')}/name")
