"""The commands of the people who write and operate a service: `python -m app.cli --help`.

Each command, or group of them, is a module of this folder, imported when it is asked for: so the
list of them comes quickly. What a command says goes to stdout, for a person, or with `--json`
for a program; what went wrong goes to stderr. Exit status: 0 fine, 1 unhealthy or failed, 2 bad
input, 3 a difference, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from jetstream_bridge.cli.definition import define
from jetstream_bridge.service.definition import ServiceDefinition

COMMANDS = {
    "health": "Check what the service needs.",
    "lag": "The consumers' lag.",
    "outbox": "Events on their way out.",
    "inbox": "Events that came in.",
    "dlq": "Events that could not be handled.",
    "topology": "The stream and the consumers.",
    "adopt-gem": "Take the place of a service that ran the Ruby gem.",
    "permissions": "The NATS rights that this service needs.",
    "validate": "Check the settings, without a connection.",
    "test-connection": "Connect to NATS and to the database.",
    "asyncapi": "The events of this service, as an AsyncAPI document.",
    "contract": "Compare the service's events with those that were released.",
    "debug": "A report for whoever looks into a fault.",
    "servers": "The servers on this machine that `make run` starts.",
    "example": "The customers example that a service begins with.",
    "new": "Write the first version of a handler or of an event.",
}


class _Commands(TyperGroup):
    """Finds a command in the module that is called like it, in its `commands`."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [*COMMANDS, *(name for name in self.commands if name not in COMMANDS)]

    def get_command(  # type: ignore[override]
        self, ctx: typer.Context, cmd_name: str
    ) -> TyperCommand | TyperGroup | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)  # type: ignore[return-value]
        module = importlib.import_module(f"jetstream_bridge.cli.{cmd_name.replace('-', '_')}")
        command: TyperCommand | TyperGroup = typer.main.get_command(module.commands)  # type: ignore[assignment]
        command.name = cmd_name
        return command

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        own = {
            name: command.get_short_help_str()
            for name, command in self.commands.items()
            if name not in COMMANDS
        }
        with formatter.section("Commands"):
            formatter.write_dl(list((COMMANDS | own).items()))


def make_cli(*, settings: str, consumers: str, extensions: str | None = None) -> typer.Typer:
    """Make the commands of a service, whose code is named as `module:attribute`.

    `settings` is its class of settings, `consumers` the function that loads its handlers,
    `extensions` the object that holds what it adds to its processes. A service adds commands of
    its own with `@cli.command()`.
    """
    cli = typer.Typer(
        name="python -m app.cli",
        cls=_Commands,
        help="Commands for the people who write and operate this service.",
        epilog="Example: python -m app.cli health",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @cli.callback()
    def hand_over() -> None:
        define(ServiceDefinition(settings, consumers, extensions))

    return cli


def run_cli(cli: typer.Typer) -> None:
    """Run the command that this process was started with."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few characters
    cli()
