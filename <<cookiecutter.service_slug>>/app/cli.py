"""The commands of the people who write and operate this service: `python -m app.cli --help`.

Each group of commands is a module of `app/commands/`. What a command says goes to stdout, for a
person, or with `--json` for a program; what went wrong goes to stderr. Exit status: 0 fine,
1 failed, 2 bad input, 3 a difference.
"""

from __future__ import annotations

import typer

from app.commands import new, permissions, topology

cli = typer.Typer(
    name="python -m app.cli",
    help="Commands for the people who write and operate this service.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cli.add_typer(new.commands, name="new")
cli.command("permissions", epilog=permissions.EPILOG)(permissions.command)
cli.add_typer(topology.commands, name="topology")


@cli.callback()
def _commands() -> None:
    """Keep the groups' names even while there is only one of them."""


if __name__ == "__main__":
    cli()
