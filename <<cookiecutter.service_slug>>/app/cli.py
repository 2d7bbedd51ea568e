"""The commands of the people who write and operate this service: `python -m app.cli --help`.

Each command, or group of them, is a module of `app/commands/`, imported when it is asked for: so
the list of them comes quickly. What a command says goes to stdout, for a person, or with `--json`
for a program; what went wrong goes to stderr. Exit status: 0 fine, 1 unhealthy or failed, 2 bad
input, 3 a difference, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "health": "Is everything there that the service needs?",
    "lag": "How far behind are the consumers?",
    "outbox": "Events on their way out.",
    "inbox": "Events that came in.",
    "dlq": "Events that could not be handled.",
    "topology": "The stream and the consumers.",
    "permissions": "The NATS rights that this service needs.",
    "validate": "Check the settings; nobody is asked.",
    "test-connection": "Who answers at NATS and at the database?",
    "debug": "All that helps who looks into a fault.",
    "new": "Write the first version of a handler or of an event.",
}


class _Commands(TyperGroup):
    """Finds a command in the module that is called like it, in its `commands`."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(  # type: ignore[override]
        self, ctx: typer.Context, cmd_name: str
    ) -> TyperCommand | TyperGroup | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"app.commands.{cmd_name.replace('-', '_')}")
        command: TyperCommand | TyperGroup = typer.main.get_command(module.commands)  # type: ignore[assignment]
        command.name = cmd_name
        return command

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


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
def _commands() -> None:
    """Let Typer make a group of it, whose commands are found above."""


def main() -> None:
    """Run the command that this process was started with."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few characters
    cli()


if __name__ == "__main__":
    main()
