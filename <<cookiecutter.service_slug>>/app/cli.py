"""The operator's commands: `python -m app.cli --help`. Own ones: `@cli.command()`."""

from __future__ import annotations

from jetstream_bridge.cli import make_cli, run_cli

# By name, so that what a command does not need is not imported.
cli = make_cli(
    settings="app.settings:Settings",
    consumers="app.consumers:load_consumers",
    extensions="app.extensions:extensions",
)

if __name__ == "__main__":
    run_cli(cli)
