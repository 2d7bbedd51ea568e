"""How commands are declared: all of them with the same help, in a terminal and in a pipe."""

from __future__ import annotations

import typer


def group(help: str, *, example: str) -> typer.Typer:
    """Return what a group's commands register with."""
    return typer.Typer(
        help=help,
        epilog=f"Example: {example}",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
    )


def single() -> typer.Typer:
    """Return what a command registers with that is in no group."""
    return typer.Typer(add_completion=False, rich_markup_mode=None)
