"""The commands of the people who write and operate this service: `python -m app.cli --help`.

Each group of commands is a module of `app/commands/`. What a command says goes to stdout, for a
person, or with `--json` for a program; what went wrong goes to stderr. Exit status: 0 fine,
1 unhealthy or failed, 2 bad input, 3 a difference, 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from app.commands import (
    connection_test,
    debug,
    dlq,
    health,
    inbox,
    lag,
    new,
    outbox,
    permissions,
    topology,
    validate,
)

cli = typer.Typer(
    name="python -m app.cli",
    help="Commands for the people who write and operate this service.",
    epilog="Example: python -m app.cli health",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cli.command("health", epilog=health.EPILOG)(health.command)
cli.command("validate", epilog=validate.EPILOG)(validate.command)
cli.command("test-connection", epilog=connection_test.EPILOG)(connection_test.command)
cli.command("debug", epilog=debug.EPILOG)(debug.command)
cli.command("lag", epilog=lag.EPILOG)(lag.command)
cli.add_typer(outbox.commands, name="outbox")
cli.add_typer(inbox.commands, name="inbox")
cli.add_typer(dlq.commands, name="dlq")
cli.add_typer(topology.commands, name="topology")
cli.command("permissions", epilog=permissions.EPILOG)(permissions.command)
cli.add_typer(new.commands, name="new")


def main() -> None:
    """Run the command that this process was started with."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few characters
    cli()


if __name__ == "__main__":
    main()
