"""`test-connection`: does this service reach NATS and its database, and who answers there?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import text

from jetstream_bridge.cli.groups import single
from jetstream_bridge.cli.output import AsJson, Status, answer, number_of
from jetstream_bridge.cli.service import Service, run
from jetstream_bridge.cli.table import clauses
from jetstream_bridge.core.errors import ApiError, BridgeError, PermissionDeniedError
from jetstream_bridge.service.fault_lines import FAULTS, database_address, explained

commands = single()

_DATABASE_WITHIN = 6.0  # seconds; connecting has 5 of them
_UNLIMITED = (-1, False)  # JetStream's words for it
_VERSION = {"postgresql": text("SHOW server_version"), "sqlite": text("SELECT sqlite_version()")}
_DATABASES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}


@dataclass(slots=True, kw_only=True)
class Nats:
    """What was found behind NATS_URLS."""

    addresses: list[str]
    connected_to: str | None = None
    server_version: str | None = None
    rtt_ms: float | None = None
    jetstream: bool | None = None  # None: not known
    account: dict[str, Any] | None = None  # uses and limits, where they may be asked
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class Stored:
    """What was found behind DATABASE_URL."""

    address: str
    version: str | None = None
    rtt_ms: float | None = None
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class Reached:
    """Both."""

    nats: Nats
    database: Stored
    ok: bool = field(init=False)

    def __post_init__(self) -> None:
        self.ok = self.nats.error is None and self.database.error is None

    def lines(self) -> list[str]:
        return [*_nats_lines(self.nats), *_database_lines(self.database)]


@commands.command(epilog="Example: python -m app.cli test-connection")
def command(as_json: AsJson = False) -> None:
    """Connect to NATS and to the database, and tell who answers; exit with 1 if one does not."""

    async def work(service: Service) -> Status:
        reached = await reach(service)
        answer("\n".join(reached.lines()), asdict(reached), as_json=as_json)
        return Status.FINE if reached.ok else Status.FAILED

    run(work)


async def reach(service: Service) -> Reached:
    """Try both at once; never raises for what can happen outside."""
    nats, database = await asyncio.gather(_nats(service), _database(service))
    return Reached(nats=nats, database=database)


async def _nats(service: Service) -> Nats:
    connection, inspection = service.bridge.connection, service.bridge.inspection
    found = Nats(addresses=connection.addresses)
    try:
        await service.connect()
        client = await connection.wait_connected(0.0)
        url = client.connected_url
        found.connected_to = f"{url.hostname}:{url.port}" if url is not None else None
        number = client.connected_server_version
        found.server_version = f"{number.major}.{number.minor}.{number.patch}"
        found.rtt_ms = round(await inspection.rtt() * 1000, 3)
        found.account = await _account(service)
        found.jetstream = True
    except FAULTS as error:
        found.error = explained(error, service.settings)
        found.jetstream = False if found.connected_to is not None else None
    return found


async def _account(service: Service) -> dict[str, Any] | None:
    """Ask JetStream about the account; a user who may not still learns whether it answers."""
    try:
        account = await service.bridge.inspection.account()
    except PermissionDeniedError:
        await service.bridge.inspection.stream()
        return None
    except ApiError as error:
        raise BridgeError(f"JetStream does not serve this account: {error.description}") from error
    kept = ("memory", "storage", "streams", "consumers", "domain")
    limits = {name: most for name, most in account["limits"].items() if most not in _UNLIMITED}
    return {name: account[name] for name in kept if name in account} | {"limits": limits}


async def _database(service: Service) -> Stored:
    found = Stored(address=database_address(service.settings))
    engine = service.database.reading
    try:
        async with asyncio.timeout(_DATABASE_WITHIN), engine.connect() as connection:
            number = (await connection.execute(_VERSION[engine.dialect.name])).scalar_one()
            found.version = f"{_DATABASES[engine.dialect.name]} {number}"
            began = time.perf_counter()
            await connection.execute(text("SELECT 1"))
            found.rtt_ms = round((time.perf_counter() - began) * 1000, 3)
    except FAULTS as error:
        found.error = explained(error, service.settings)
    return found


def _nats_lines(nats: Nats) -> list[str]:
    if nats.connected_to is None:
        return clauses(nats.error or "", first="FAIL  NATS       ", rest=" " * 17)
    lines = [
        f"ok    NATS       {nats.connected_to}, nats-server {nats.server_version}, "
        f"round trip {nats.rtt_ms:g} ms"
    ]
    if nats.error is not None:
        return lines + clauses(nats.error, first="FAIL  JetStream  ", rest=" " * 17)
    if nats.account is None:
        return [*lines, "ok    JetStream  answers; this user may not ask for its limits"]
    return [*lines, f"ok    JetStream  {_used('stream', nats.account)}, {_room(nats.account)}"]


def _used(what: str, account: dict[str, Any]) -> str:
    most = account["limits"].get(f"max_{what}s")
    there = account.get(f"{what}s", 0)
    return number_of(there, what) if most is None else f"{there} of {number_of(most, what)}"


def _room(account: dict[str, Any]) -> str:
    most = account["limits"].get("max_storage")
    used = f"{account.get('storage', 0):,}"
    return f"{used} bytes stored, no limit" if most is None else f"{used} of {most:,} bytes stored"


def _database_lines(database: Stored) -> list[str]:
    if database.error is not None:
        return clauses(database.error, first="FAIL  database   ", rest=" " * 17)
    text = f"{database.version} at {database.address}, round trip {database.rtt_ms:g} ms"
    return clauses(text, first="ok    database   ", rest=" " * 17)
