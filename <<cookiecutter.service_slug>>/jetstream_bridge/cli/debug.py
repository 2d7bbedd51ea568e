"""`debug`: all that helps who looks into a fault, in one go, and nothing that is secret.

Every part is asked for by itself: what cannot be known is said in its place, and the rest is there.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jetstream_bridge import __version__
from jetstream_bridge.cli.groups import single
from jetstream_bridge.cli.output import AsJson, Status, answer
from jetstream_bridge.cli.service import Service, run
from jetstream_bridge.cli.table import printable, wrapped
from jetstream_bridge.cli.test_connection import reach
from jetstream_bridge.nats.options import parse_addresses
from jetstream_bridge.operations.statistics import inbox_stats
from jetstream_bridge.service.addresses import split_addresses
from jetstream_bridge.service.configuration_warnings import configuration_warnings
from jetstream_bridge.service.fault_lines import FAULTS, database_address, explained
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.web.admin.outbox import outbox_stats
from jetstream_bridge.web.admin.topology import topology

commands = single()

_ANSWER_WITHIN = 30.0  # seconds
_PART_WITHIN = 8.0  # seconds
_PACKAGES = (
    "fastapi",
    "sqlmodel",
    "sqlalchemy",
    "alembic",
    "pydantic",
    "nats-py",
    "asyncpg",
    "aiosqlite",
    "uvicorn",
    "structlog",
)
# Shown as set or not set, beside what is a secret by its type.
_HIDDEN = frozenset(
    {
        "nats_user",
        "nats_creds_file",
        "nats_nkey_file",
        "nats_tls_ca",
        "nats_tls_cert",
        "nats_tls_key",
    }
)


@commands.command(epilog="Example: python -m app.cli debug > report.txt")
def command(as_json: AsJson = False) -> None:
    """Print versions, settings, names, connections, stream, counts and handlers: no secrets."""

    async def work(service: Service) -> Status:
        report = await _report(service)
        answer("\n".join(_outline(report)).lstrip("\n"), report, as_json=as_json)
        return Status.FINE

    run(work, within=_ANSWER_WITHIN)


async def _report(service: Service) -> dict[str, Any]:
    settings = service.settings
    reached = await reach(service)
    topology_state, outbox, inbox, letters = await asyncio.gather(
        _part(service, _topology(service)),
        _part(service, _outbox(service)),
        _part(service, _inbox(service)),
        _part(service, _letters(service)),
    )
    return {
        "versions": _versions(),
        "settings": _settings(settings),
        "warnings": configuration_warnings(settings),
        "names": _names(service),
        "connections": asdict(reached),
        "topology": topology_state,
        "outbox": outbox,
        "inbox": inbox,
        "dead_letters": letters,
        "handlers": _handlers(service),
    }


async def _part(service: Service, question: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_PART_WITHIN):
            return await question
    except FAULTS as error:
        return {"error": explained(error, service.settings)}


async def _topology(service: Service) -> dict[str, Any]:
    return (await topology(service.operations)).model_dump(mode="json")


async def _outbox(service: Service) -> dict[str, Any]:
    return (await outbox_stats(service.operations)).model_dump(mode="json")


async def _inbox(service: Service) -> dict[str, Any]:
    return asdict(await inbox_stats(service.database.engine))


async def _letters(service: Service) -> dict[str, Any]:
    return {"count": await service.operations.letter_count()}


def _versions() -> dict[str, str]:
    packages = {name: _version_of(name) for name in _PACKAGES}
    own = {"bridge": __version__, "python": platform.python_version()}
    return own | {"platform": platform.platform()} | packages


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _settings(settings: BridgeSettings) -> dict[str, Any]:
    """Every setting; addresses without their login, and of secrets only whether they are set."""
    shown: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name in ("nats_urls", "nats_url"):
            shown[name] = None if value is None else _nats_addresses(value.get_secret_value())
        elif name == "database_url":
            shown[name] = database_address(settings)
        elif name in _HIDDEN or "Secret" in str(field.annotation):
            shown[name] = "not set" if value is None else "set"
        else:
            shown[name] = list(value) if isinstance(value, tuple) else value
    return shown


def _nats_addresses(addresses: str) -> str:
    return ", ".join(map(str, parse_addresses(split_addresses(addresses))))


def _names(service: Service) -> dict[str, Any]:
    config = service.bridge.config
    names, durables = config.names, service.handlers.durables(config)
    return {
        "stream": config.stream,
        "publishes_on": names.publish(config.destination_app),
        "reads": [spec.subject for spec in durables],
        "dead_letters_on": names.dead_letter,
        "durables": [spec.name for spec in durables],
    }


def _handlers(service: Service) -> list[dict[str, Any]]:
    return [
        {
            "handles": list(handler.patterns),
            "source": handler.source or service.settings.destination_app,
            "place": handler.place,
        }
        for handler in service.handlers
    ]


def _outline(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """Show nested values as lines: a title for each part, and below it what it holds."""
    lines: list[str] = []
    width = max(map(len, value), default=0)
    for name, held in value.items():
        if indent == "":
            lines.append("")
        if isinstance(held, Mapping) and held:
            lines += [f"{indent}{name}", *_outline(held, indent + "  ")]
        elif isinstance(held, list) and held:
            lines.append(f"{indent}{name}")
            for item in held:
                text = _inline(item)
                lines += wrapped(text, first=f"{indent}  - ", rest=f"{indent}    ")
        else:
            first = f"{indent}{name:{width}}  "
            lines += wrapped(_inline(held), first=first, rest=" " * len(first))
    return lines


def _inline(value: object) -> str:
    if value is None or value in ({}, [], ""):
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_inline(held)}" for name, held in value.items())
    if isinstance(value, list):
        return ", ".join(map(_inline, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return printable(str(value))
