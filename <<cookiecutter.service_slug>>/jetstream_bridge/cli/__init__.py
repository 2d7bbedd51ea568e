"""The operator's commands; below is what a team imports for its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetstream_bridge.core.public_names import on_demand

if TYPE_CHECKING:
    from jetstream_bridge.cli.main import make_cli, run_cli
    from jetstream_bridge.cli.output import AsJson, Status, answer
    from jetstream_bridge.cli.service import Service, run

__all__ = [
    "AsJson",
    "Service",
    "Status",
    "answer",
    "make_cli",
    "run",
    "run_cli",
]

__getattr__ = on_demand(
    __name__,
    {
        "jetstream_bridge.cli.main": (
            "make_cli",
            "run_cli",
        ),
        "jetstream_bridge.cli.output": (
            "AsJson",
            "Status",
            "answer",
        ),
        "jetstream_bridge.cli.service": (
            "Service",
            "run",
        ),
    },
)
