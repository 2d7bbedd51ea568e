"""The operator's commands: `python -m app.cli --help`. Own ones: `@cli.command()`."""

from __future__ import annotations

from jetstream_bridge.cli.main import make_cli, run_cli

cli = make_cli(settings="app.settings:Settings", consumers="app.consumers:load_consumers")

if __name__ == "__main__":
    run_cli(cli)
