"""`validate`: settings, handlers and declared events, as a start would check them.

Nobody is asked: neither NATS nor the database need be there.
"""

from __future__ import annotations

import sys

import typer

from jetstream_bridge.cli.definition import definition
from jetstream_bridge.cli.groups import single
from jetstream_bridge.cli.output import AsJson, Status, answer
from jetstream_bridge.service.configuration_warnings import configuration_warnings
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import InvalidSettings, read_settings
from jetstream_bridge.service.start_checks import faults

commands = single()


@commands.command(epilog="Example: NATS_ENV=production python -m app.cli validate")
def command(as_json: AsJson = False) -> None:
    """Check the settings: one line for each fault, and for what is likely not meant."""
    settings, found = _read()
    warnings = configuration_warnings(settings) if settings is not None else []
    data = {"valid": not found, "faults": found, "warnings": warnings}
    if as_json or not found:
        text = "\n".join([*(f"warning: {warning}" for warning in warnings), "valid"])
        answer(text, data, as_json=as_json)
    else:
        print("\n".join(found), file=sys.stderr)
    if found:
        raise typer.Exit(Status.BAD_INPUT)


def _read() -> tuple[BridgeSettings | None, list[str]]:
    service = definition()
    try:
        settings = read_settings(service.settings_class)
    except InvalidSettings as invalid:
        return None, invalid.faults
    return settings, faults(settings, service.load_consumers, service.load_extensions)
