"""`validate`: the settings and the registered handlers, as a start would check them.

Nobody is asked: neither NATS nor the database need be there.
"""

from __future__ import annotations

import sys

import typer

from app.advice import advice
from app.bridge.errors import ConfigurationError, RegistrationError
from app.bridge.nats_options import NatsOptions
from app.commands.groups import single
from app.commands.output import AsJson, Status, answer
from app.consumers import load_consumers
from app.settings import InvalidSettings, Settings, read_settings

commands = single()


@commands.command(epilog="Example: NATS_ENV=production python -m app.cli validate")
def command(as_json: AsJson = False) -> None:
    """Check the settings: one line for each fault, and for what is likely not meant."""
    settings, faults = _read()
    warnings = advice(settings) if settings is not None else []
    data = {"valid": not faults, "faults": faults, "warnings": warnings}
    if as_json or not faults:
        text = "\n".join([*(f"warning: {warning}" for warning in warnings), "valid"])
        answer(text, data, as_json=as_json)
    else:
        print("\n".join(faults), file=sys.stderr)
    if faults:
        raise typer.Exit(Status.BAD_INPUT)


def _read() -> tuple[Settings | None, list[str]]:
    try:
        settings = read_settings()
    except InvalidSettings as invalid:
        return None, invalid.faults
    return settings, [fault for check in (_login, _handlers) if (fault := check(settings))]


def _login(settings: Settings) -> str | None:
    """What is wrong with the files that the connection to NATS needs."""
    try:
        NatsOptions(settings.bridge().connection).arguments()
    except ConfigurationError as error:
        return str(error)
    return None


def _handlers(settings: Settings) -> str | None:
    consumers = load_consumers()
    try:
        consumers.check()
        consumers.durables(settings.bridge())
    except RegistrationError as error:
        return str(error)
    return None
