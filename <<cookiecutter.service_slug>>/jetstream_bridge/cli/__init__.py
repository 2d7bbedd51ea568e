"""The groups of `python -m app.cli`: a module for each, with a Typer called `commands`."""
